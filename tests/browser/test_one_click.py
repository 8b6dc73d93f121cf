"""One click opens a mailbox, for the user alone: neither other sites nor scripts may do it."""

from __future__ import annotations

import http.client
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import complaints_of_php
from tests.helpers.clients import LOOPBACK
from tests.helpers.server import HOSTNAME, Server
from tests.helpers.webmail import MEANT, OpenWebmail, Webmail, fetch

# What browsers say when somebody presses the button of the page on port 80.
PRESSED = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}


@pytest.mark.parametrize(
    "address", ["ann@one.example", "joe+x@почта.рф", "юзер@two.example", "Ann.Upper@One.Example"]
)
def test_a_bookmark_opens_a_mailbox(webmail: Webmail, address: str) -> None:
    webmail.page.goto(webmail.url(f"/as/{address}"))
    webmail.wait_for_inbox()
    shown = webmail.user()
    assert shown.lower() == address.lower() or shown.startswith(address.partition("@")[0])


def test_the_page_opens_a_mailbox(webmail: Webmail) -> None:
    page = webmail.page
    page.goto(webmail.url("/en", "http"))
    page.fill("#address", "from.page@one.example")
    page.click("#answer button:has-text('Open in the webmail')")
    webmail.wait_for_inbox()
    assert webmail.user() == "from.page@one.example"


@pytest.fixture
def foreign_page(webmail: Webmail) -> Iterator[Callable[[str], Page]]:
    """Show HTML as a page of another site would."""

    def show(html: str) -> Page:
        webmail.page.route(
            "https://evil.example/",
            lambda route: route.fulfill(content_type="text/html", body=html),
        )
        webmail.page.goto("https://evil.example/")
        return webmail.page

    yield show
    # What the browser says about the attempts that it has refused itself.
    webmail.complaints.clear()


def is_logged_in(webmail: Webmail) -> bool:
    names = {cookie["name"] for cookie in webmail.page.context.cookies(webmail.url())}
    return any("auth" in name for name in names)


def test_a_link_of_another_site_has_to_be_confirmed(
    webmail: Webmail, foreign_page: Callable[[str], Page]
) -> None:
    page = foreign_page(f'<a href="{webmail.url("/as/ann@one.example")}">go</a>')
    page.click("a")
    assert page.inner_text("h1") == "Open the mailbox ann@one.example?"
    assert not is_logged_in(webmail)
    page.click("button")
    webmail.wait_for_inbox()
    assert webmail.user() == "ann@one.example"


@pytest.fixture
def redirecting_site() -> Iterator[Callable[[str], str]]:
    """A site that sends whoever opens it to the address of its visitor's choice."""
    targets: list[str] = []

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", targets[-1])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer((LOOPBACK, 0), Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()

        def redirect_to(url: str) -> str:
            targets.append(url)
            return f"http://{LOOPBACK}:{site.server_port}/"

        yield redirect_to
        site.shutdown()


def test_a_site_that_redirects_swaps_no_mailbox(
    webmail: Webmail, redirecting_site: Callable[[str], str]
) -> None:
    page = webmail.page
    page.goto(webmail.url("/as/victim@x.test"))
    webmail.wait_for_inbox()
    asked_for: list[str] = []
    page.context.on(
        "request",
        lambda request: (
            asked_for.append(request.all_headers()["sec-fetch-site"])
            if "/as/" in request.url
            else None
        ),
    )
    # As if it had been typed, or opened from a chat: the browser does say so.
    page.goto(redirecting_site(webmail.url("/as/attacker@x.example")))
    assert asked_for == ["none"]
    assert page.inner_text("h1") == "Open the mailbox attacker@x.example?"
    assert "You are logged in as victim@x.test." in page.inner_text("p")
    page.goto(webmail.url())
    webmail.wait_for_inbox()
    assert webmail.user() == "victim@x.test"
    # To one's own mailbox, it leads without a question.
    page.goto(redirecting_site(webmail.url("/as/Victim@X.test")))
    webmail.wait_for_inbox()
    assert webmail.user() == "victim@x.test"
    # The user can still say yes.
    page.goto(redirecting_site(webmail.url("/as/other@x.example")))
    page.click("button")
    webmail.wait_for_inbox()
    assert webmail.user() == "other@x.example"


def test_a_mailbox_after_another_takes_one_more_click(
    webmail: Webmail, open_webmail: OpenWebmail
) -> None:
    page = webmail.page
    for address in ("one@x.test", "two@x.test", "three@x.test"):
        page.goto(webmail.url(f"/as/{address}"))
        if page.locator("input[name=answer]").count():
            page.click("button")
        webmail.wait_for_inbox()
        assert webmail.user() == address
    webmail.log_out()
    page.goto(webmail.url("/as/four@x.test"))
    webmail.wait_for_inbox()
    assert webmail.user() == "four@x.test"
    # The button of the page means what it says.
    page.goto(webmail.url("/en?address=five%40x.test", "http"))
    page.fill("#address", "five@x.test")
    page.click("#answer button:has-text('Open in the webmail')")
    webmail.wait_for_inbox()
    assert webmail.user() == "five@x.test"
    # In another window, too.
    other = open_webmail()
    other.page.goto(other.url("/as/five@x.test"))
    other.wait_for_inbox()
    with other.page.context.expect_page() as opened:
        other.page.context.new_page()
    opened.value.goto(other.url("/as/five@x.test"))
    second = type(other)(other.server, opened.value)
    second.wait_for_inbox()
    assert second.user() == "five@x.test"
    # Whoever logged in by the form is logged in.
    other = open_webmail()
    other.log_in("six@x.test")
    other.page.goto(other.url("/as/seven@x.test"))
    assert "You are logged in as six@x.test." in other.page.inner_text("p")


@pytest.mark.parametrize("language", ["en", "ru"])
def test_the_question_fits_a_phone_and_a_keyboard(
    webmail_server: Server, chromium: Browser, language: str
) -> None:
    with chromium.new_context(locale=language, viewport={"width": 390, "height": 800}) as context:
        page = context.new_page()
        root = f"https://{HOSTNAME}:{webmail_server.port('https')}"
        page.goto(f"{root}/as/a.rather.long.name.of.someone@one.of.the.longer.domains.example")
        page.goto(f"{root}/as/another@x.test")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        button = page.get_by_role("button", name={"en": "Open", "ru": "Открыть"}[language])
        expect(button).to_be_visible()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "/as" not in url)


@pytest.mark.parametrize(
    "html",
    [
        """<form method="post" action="{url}as/"><input name="address" value="a@b.c"></form>
        <script>document.forms[0].submit()</script>""",
        """<img src="{url}as/a@b.c"><iframe src="{url}as/a@b.c"></iframe>
        <script src="{url}as/a@b.c"></script>""",
        """<meta name="referrer" content="no-referrer">
        <form method="post" action="{url}as/a@b.c"></form>
        <script>document.forms[0].submit()</script>""",
        """<script>
        fetch("{url}as/a@b.c", {{credentials: "include", mode: "no-cors", method: "POST"}})
        </script>""",
        """<script>location = "{url}as/a@b.c"</script>""",
    ],
)
def test_another_site_cannot_log_a_user_in(
    webmail: Webmail, foreign_page: Callable[[str], Page], html: str
) -> None:
    statuses: list[tuple[str, int]] = []
    webmail.page.context.on(
        "response", lambda response: statuses.append((response.url, response.status))
    )
    page = foreign_page(html.format(url=webmail.url()))
    page.wait_for_load_state("networkidle")
    answers = [status for url, status in statuses if "/as/" in url]
    assert answers
    assert 303 not in answers
    assert not is_logged_in(webmail)


def test_the_question_cannot_be_framed_and_shows_addresses_as_text(webmail_server: Server) -> None:
    status, headers, body = fetch(webmail_server, "/as/%22%3Cb%3E%22@x.test")
    assert status == 200
    assert "<b>" not in body
    assert "&quot;&lt;b&gt;&quot;@x.test" in body
    assert any(
        "frame-ancestors 'none'" in value
        for value in headers.get_all("Content-Security-Policy", [])
    )
    cookies = headers.get_all("Set-Cookie", [])
    assert [cookie.partition("=")[0] for cookie in cookies] == [asked_cookie(webmail_server)]
    assert any("sandbox" in value for value in headers.get_all("Content-Security-Policy", []))
    assert "Открыть почтовый ящик" in fetch(webmail_server, "/as/a@b.c", Accept_Language="ru")[2]


def test_what_is_no_address_is_said_so(webmail_server: Server) -> None:
    for path in ("/as/", "/as", "/as/joe", "/as/@x", "/as/joe@", "/as/%ff@b"):
        status, _, body = fetch(webmail_server, path, **MEANT)
        assert status == 400, path
        assert "is not a full e-mail address" in body
    status, _, body = fetch(webmail_server, "/as/a..b@x.test", **MEANT)
    assert status == 403
    assert "The server refuses a login as" in body


def call(
    server: Server, method: str, path: str, body: str = "", **headers: str
) -> tuple[int, http.client.HTTPMessage, str]:
    """Send a request as it is written; ``headers`` have underscores for hyphens."""
    connection = http.client.HTTPSConnection(
        "localhost", server.port("https"), context=server.tls_context(), timeout=20
    )
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body.encode("latin-1"), named)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode(errors="replace")
    finally:
        connection.close()


def login_cookies(server: Server, address: str) -> str:
    """Log in by a POST as a client that is no browser, and give the cookies of that."""
    status, headers, _ = call(server, "POST", f"/as/{address}")
    assert status == 303
    return cookies_of(headers)


def cookies_of(headers: http.client.HTTPMessage) -> str:
    pairs = [value.partition(";")[0] for value in headers.get_all("Set-Cookie", [])]
    return "; ".join(dict.fromkeys(pair for pair in pairs if not pair.endswith("=-del-")))


def logs_in(headers: http.client.HTTPMessage) -> bool:
    """Tell whether an answer sets the cookie of a login."""
    return any(
        re.match(r"devmail_\d+_sessauth=(?!-del-)|rlspecauth=_", value)
        for value in headers.get_all("Set-Cookie", [])
    )


def asked_cookie(server: Server) -> str:
    return f"__Host-devmail_{server.port('https')}_asked"


USES = (
    *("audio", "audioworklet", "embed", "empty", "fencedframe", "font", "frame", "iframe"),
    *("image", "json", "manifest", "object", "paintworklet", "report", "script", "serviceworker"),
    *("sharedworker", "style", "track", "video", "webidentity", "worker", "xslt", "Document"),
    *("document, document", "document;a", ""),
)
SITES = ("none", "same-origin", "same-site", "cross-site")


@pytest.mark.parametrize("logged_in", [False, True])
def test_only_pages_in_a_window_of_their_own_get_anything(
    webmail_server: Server, *, logged_in: bool
) -> None:
    cookies = {"Cookie": login_cookies(webmail_server, "ann@one.example")} if logged_in else {}
    own = f"https://{HOSTNAME}:{webmail_server.port('https')}"
    for use in USES:
        for site in SITES:
            for method, path in (("GET", "/as/bob@one.example"), ("POST", "/as/bob@one.example")):
                for origin in (own, own.replace("https", "http"), "null"):
                    status, headers, body = call(
                        webmail_server,
                        method,
                        path,
                        **cookies,
                        Sec_Fetch_Site=site,
                        Sec_Fetch_Dest=use,
                        Origin=origin,
                    )
                    assert (status, logs_in(headers)) == (403, False), (use, site, method, origin)
                    assert body == "Only as a page in a window of its own.\n"


@pytest.mark.parametrize("header", ["Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-User"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_browser_that_does_not_say_what_for_gets_nothing(
    webmail_server: Server, method: str, header: str
) -> None:
    status, headers, _ = call(webmail_server, method, "/as/bob@one.example", **{header: "none"})
    assert (status, logs_in(headers)) == (403, False)


@pytest.mark.parametrize("header", ["Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"])
def test_nothing_happens_ahead_of_time(webmail_server: Server, header: str) -> None:
    for method in ("GET", "HEAD", "POST"):
        status, headers, _ = call(
            webmail_server, method, "/as/bob@one.example", **MEANT, **{header: "prefetch"}
        )
        assert (status, logs_in(headers)) == (503, False)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
def test_other_methods_do_nothing(webmail_server: Server, method: str) -> None:
    status, headers, _ = call(webmail_server, method, "/as/bob@one.example", **MEANT)
    assert (status, logs_in(headers)) == (405, False)


def test_a_get_replaces_nobody(webmail_server: Server) -> None:
    cookies = login_cookies(webmail_server, "Ann@One.example")
    for site in SITES:
        meant = {"Sec-Fetch-Site": site, "Sec-Fetch-Dest": "document"}
        # Whose mailbox is open already goes on to it.
        status, headers, _ = call(
            webmail_server, "GET", "/as/ann@one.example", Cookie=cookies, **meant
        )
        if webmail_server.settings["webmail"] == "roundcube":
            assert (status, logs_in(headers)) == (303, False)
        else:
            # There each window has its own login.
            assert (status, logs_in(headers)) == ((303, True) if site == "none" else (200, False))
        for path in ("/as/bob@one.example", "/as/ann@two.example", "/as/?address=b%40c.d"):
            for method in ("GET", "HEAD"):
                status, headers, body = call(webmail_server, method, path, Cookie=cookies, **meant)
                assert (status, logs_in(headers)) == (200, False)
                assert ("You are logged in as" in body) == (method == "GET")
        # Where nobody is logged in, only what the user may have typed is opened at once.
        status, headers, _ = call(webmail_server, "GET", "/as/ann@one.example", **meant)
        assert (status, logs_in(headers)) == ((303, True) if site == "none" else (200, False))
    status, headers, _ = call(webmail_server, "HEAD", "/as/ann@one.example", **MEANT)
    assert (status, logs_in(headers)) == (200, False)
    # A login that has ended is none.
    stale = re.sub("=[^;]{4}", "=0000", cookies.replace("%40", "@"))
    if webmail_server.settings["webmail"] == "roundcube":
        status, headers, _ = call(
            webmail_server, "GET", "/as/bob@one.example", Cookie=stale, **MEANT
        )
        assert (status, logs_in(headers)) == (303, True)


def test_a_post_is_of_our_page_or_of_no_browser(webmail_server: Server) -> None:
    port = webmail_server.port("http")
    own = (f"http://{HOSTNAME}:{port}", f"http://localhost:{port}", f"http://127.0.0.1:{port}")
    strangers = (
        f"https://{HOSTNAME}:{webmail_server.port('https')}",
        f"http://{HOSTNAME}",
        f"http://{HOSTNAME}:{port}.evil.example",
        f"http://{HOSTNAME}.evil.example:{port}",
        f"http://sub.{HOSTNAME}:{port}",
        f"HTTP://{HOSTNAME}:{port}",
        f"http://{HOSTNAME}:{port}/",
        "https://evil.example",
        "null",
        "",
    )
    cookies = login_cookies(webmail_server, "ann@one.example")
    for login in ({}, {"Cookie": cookies}):
        for origin in own:
            status, headers, _ = call(
                webmail_server, "POST", "/as/bob@one.example", Origin=origin, **PRESSED, **login
            )
            assert (status, logs_in(headers)) == (303, True), origin
        for origin in strangers:
            for more in (PRESSED, {}):
                status, headers, _ = call(
                    webmail_server, "POST", "/as/bob@one.example", Origin=origin, **more, **login
                )
                assert (status, logs_in(headers)) == (200, False), origin
        status, headers, _ = call(webmail_server, "POST", "/as/bob@one.example", **PRESSED, **login)
        assert (status, logs_in(headers)) == (200, False)
        status, headers, _ = call(webmail_server, "POST", "/as/bob@one.example", **login)
        assert (status, logs_in(headers)) == (303, True)
    # The address in the form is the one that counts.
    status, headers, _ = call(
        webmail_server, "POST", "/as/", urlencode({"address": "юзер@почта.рф"})
    )
    assert (status, logs_in(headers)) == (303, True)


class Question:
    """A question that the server asked, and what the browser would answer."""

    def __init__(self, server: Server, address: str, **headers: str) -> None:
        status, given, body = call(server, "GET", f"/as/{address}", **headers)
        assert status == 200
        self.server, self.address = server, address
        self.cookie = cookies_of(given)
        found = re.search(r'name="answer" value="([0-9a-f]{32})"', body)
        assert found
        self.answer = found[1]

    def reply(self, **changes: str) -> tuple[int, bool]:
        """Answer it, apart from ``changes``; give the status, and whether it was a login."""
        given = {
            "answer": self.answer,
            "address": self.address,
            "Cookie": self.cookie,
            "Origin": "null",
            **{name.replace("-", "_"): value for name, value in PRESSED.items()},
            **changes,
        }
        form = urlencode({name: given.pop(name) for name in ("address", "answer")})
        status, headers, self.said = call(
            self.server, "POST", "/as/", form, **{k: v for k, v in given.items() if v}
        )
        return status, logs_in(headers)


def test_a_question_is_answered_once_by_the_browser_that_was_asked(webmail_server: Server) -> None:
    question = Question(webmail_server, "bob@one.example")
    other = Question(webmail_server, "bob@one.example")
    for changes in (
        {"Cookie": ""},
        {"Cookie": other.cookie},
        {"Cookie": question.cookie[:-1]},
        {"address": "eve@one.example"},
        {"answer": ""},
        {"answer": "0" * 32},
        {"answer": f"../uploads/asked-{question.answer}"},
        {"answer": f"{question.answer}\n"},
        {"answer": f"{question.answer}\0"},
        {"answer": other.answer},
    ):
        assert question.reply(**changes) == (200, False), changes
    assert question.reply(Sec_Fetch_Dest="empty") == (403, False)
    # A browser that does not tell scripts from users.
    assert question.reply(Sec_Fetch_Dest="", Sec_Fetch_Site="") == (403, False)
    assert "Log in by the form of the webmail." in question.said
    assert question.reply() == (303, True)
    assert question.reply() == (200, False)
    # One that was asked twice can answer either.
    again = Question(webmail_server, "eve@one.example", Cookie=other.cookie)
    assert again.cookie == other.cookie
    assert other.reply() == (303, True)
    assert again.reply() == (303, True)


def test_a_question_is_not_open_for_ever(webmail_server: Server) -> None:
    uploads = webmail_server.state / "run/php/uploads"
    question = Question(webmail_server, "late@one.example")
    assert (uploads / f"asked-{question.answer}").exists()
    assert uploads.stat().st_mode & 0o777 == 0o700
    for age, expected in ((590, (303, True)), (610, (200, False))):
        question = Question(webmail_server, "late@one.example")
        file = uploads / f"asked-{question.answer}"
        os.utime(file, (time.time() - age, time.time() - age))
        assert question.reply() == expected
    # The next question throws it away.
    Question(webmail_server, "later@one.example")
    assert not file.exists()


ODD_PATHS = (
    *("/as/?address[]=a%40b.c", "/as/?address[a][b]=a%40b.c", "/as/?address=", "/as/%ff@b.c"),
    *("/as/a%00@b.c", "/as/a%0d%0aX:%20y@b.c", "/as/%e2%28%a1@b.c", "/%61s/a@b.c", "//as/a@b.c"),
    *("/as//", "/as/@", "/as/a@", "/as/%", "/as/%zz", "/as/?address=%ff@b", "/as/?=&&=;"),
    *("/as/?" + "a&" * 2000, "/as/?" + "a[" * 200, "/as/" + "a" * 400 + "@b.c"),
)
ODD_FORMS = (
    *("address[]=a%40b.c", "address=%ff%40b", "address=", "a&" * 2000, "a[" * 200, "{}"),
    *("\0", "\xff=\xff", "address[x][y]=1&answer[]=2", "--b\r\n", "--b\r\nContent-Type: a\r\n"),
)
MULTIPART = "multipart/form-data"
ODD_TYPES = (
    *("application/x-www-form-urlencoded", MULTIPART, f"{MULTIPART}; boundary=b"),
    *(f"{MULTIPART}; boundary=", f"{MULTIPART}; boundary={'b' * 3000}", "text/plain"),
    *("application/json", "\t", "x" * 3000),
)


def test_odd_requests_are_refused_and_php_has_no_complaint(webmail_server: Server) -> None:
    heard_before = len(complaints_of_php(webmail_server))
    for path in ODD_PATHS:
        for method in ("GET", "HEAD", "POST"):
            status, headers, _ = call(webmail_server, method, path, **MEANT)
            assert 400 <= status < 500, (method, path)
            assert not logs_in(headers)
    for form in ODD_FORMS:
        for media_type in ODD_TYPES:
            status, headers, _ = call(webmail_server, "POST", "/as/", form, Content_Type=media_type)
            assert 400 <= status < 500, (form, media_type)
            assert not logs_in(headers)
    status, _, _ = call(webmail_server, "POST", "/as/", "address=" + "a" * 9000)
    assert status == 413
    for cookie in ("{}[]=x", "{}[a][b]=x", "{}=%ff", "{}=", "{}=../../x"):
        for name in (
            asked_cookie(webmail_server),
            f"devmail_{webmail_server.port('https')}_sessid",
            f"devmail_{webmail_server.port('https')}_sessauth",
            f"__Host-devmail_{webmail_server.port('https')}_user",
        ):
            status, _, _ = call(
                webmail_server, "GET", "/as/a@b.c", Cookie=cookie.format(name), **MEANT
            )
            assert status < 500, (name, cookie)
    assert complaints_of_php(webmail_server)[heard_before:] == []


def test_one_click_can_be_turned_off(webmail_settings: dict[str, str]) -> None:
    with Server(None, **webmail_settings, webmail_one_click="no") as server:
        assert fetch(server, "/as/ann@one.example", **MEANT)[0] == 404
        page = http.client.HTTPConnection(LOOPBACK, server.port("http"))
        page.request("GET", "/lookup/en?address=ann@one.example", headers={"Host": HOSTNAME})
        assert "/as/" not in page.getresponse().read().decode()
        page.close()
