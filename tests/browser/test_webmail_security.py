"""What mail and other sites must not be able to do to whoever uses the webmail."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page

from tests.helpers.clients import LOOPBACK, smtp, wait_for_message
from tests.helpers.namespace import Outside, in_own_network
from tests.helpers.probes import PLAIN_PROBES, PROBES, RAN, RUN, VICTIM, listen, send_probes
from tests.helpers.server import HOSTNAME, Server
from tests.helpers.webmail import MEANT, OpenWebmail, Webmail, fetch


@pytest.fixture(scope="module")
def mailed(webmail_server: Server) -> None:
    """Send every probe to the victim."""
    send_probes(webmail_server, PROBES)


def test_the_probes_do_run_where_nothing_stops_them(chromium: Browser) -> None:
    for name, html in PLAIN_PROBES.items():
        page = chromium.new_page()
        with page.expect_console_message(lambda message: message.text == RAN, timeout=5000):
            page.set_content(f"<html><body>{html}</body></html>")
        page.close()
        assert name


@pytest.mark.parametrize("policy", ["off", "on"])
@pytest.mark.usefixtures("mailed")
def test_no_mail_runs_a_script(open_webmail: OpenWebmail, policy: str) -> None:
    webmail = open_webmail(bypass_csp=policy == "off")
    ran = listen(webmail.page)
    webmail.log_in(VICTIM)
    fired = []
    for name in PROBES:
        body = webmail.open(f"probe {name}.")
        for target in body.locator("a, button").all():
            target.evaluate("element => element.click()")
        # Whatever fails to load, or is put off, has done so after two frames and a task.
        body.first.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame("
            "() => setTimeout(done, 50))))"
        )
        if ran:
            fired.append(name)
            ran.clear()
    assert fired == []


def test_attachments_are_no_scripts_and_no_pages(
    webmail_server: Server, open_webmail: OpenWebmail
) -> None:
    message = EmailMessage()
    message["From"] = message["To"] = VICTIM
    message["Subject"] = "attached code"
    message.set_content("see attachments")
    script = RUN.replace("&quot;", '"')
    for media_type, name, content in (
        ("javascript", "evil.js", script),
        ("xhtml+xml", "evil.xhtml", f"<html><script>{script}</script></html>"),
    ):
        message.add_attachment(
            content.encode(), maintype="application", subtype=media_type, filename=name
        )
    with smtp(webmail_server, VICTIM) as client:
        client.sendmail(VICTIM, [VICTIM], message.as_bytes())
    wait_for_message(webmail_server, VICTIM, "attached code")

    # The policy of the page would allow its own origin; what stops it is what serves it.
    webmail = open_webmail(bypass_csp=True)
    ran = listen(webmail.page)
    webmail.log_in(VICTIM)
    webmail.open("attached code")
    for name in ("evil.js", "evil.xhtml"):
        served = served_as(webmail, webmail.attachment_url(name))
        assert any(policy.startswith("sandbox;") for policy in served), served
    outcome = webmail.page.evaluate(
        """url => new Promise(done => {
            const script = document.createElement("script");
            script.onload = () => done("loaded");
            script.onerror = () => done("refused");
            script.src = url;
            document.head.append(script);
        })""",
        webmail.attachment_url("evil.js"),
    )
    assert outcome == "refused"
    assert ran == []
    # What the browser said about it.
    webmail.complaints.clear()


def served_as(webmail: Webmail, url: str) -> list[str]:
    """Give the policies that a part of a message is served with to whoever is logged in."""
    cookies = webmail.page.context.cookies(url)
    pairs = "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in cookies)
    parts = urlsplit(url)
    status, headers, _ = fetch(webmail.server, f"/?{parts.query}", Cookie=pairs)
    assert status == 200
    return headers.get_all("Content-Security-Policy", [])


PRIVATE_PATHS = [
    "/data/SALT.php",
    "/data/_data_/_default_/configs/application.ini",
    "/SALT.php",
    "/_data_/_default_/configs/application.ini",
    "/include.php",
    "/rainloop/v/1.17.0/check.php",
    "/rainloop/v/1.17.0/include.php",
    "/rainloop/v/1.17.0/app/handle.php",
    "/rainloop/v/1.17.0/app/domains/gmail.com.ini",
    "/rainloop/v/1.17.0/static/../app/domains/gmail.com.ini",
    "/rainloop/v/1.17.0/static/..%2fapp/handle.php",
    "/config/config.inc.php",
    "/roundcube/roundcube.db",
    "/roundcube/key",
    "/roundcube.db",
    "/key",
    "/installer/",
    "/installer/index.php",
    "/SQL/sqlite.initial.sql",
    "/bin/updatedb.sh",
    "/logs/errors.log",
    "/temp/",
    "/plugins/managesieve/managesieve.php",
    "/plugins/zipdownload/config.inc.php",
    "/program/include/iniset.php",
    "/program/lib/Roundcube/bootstrap.php",
    "/skins/elastic/meta.json",
    "/skins/",
    "/.htaccess",
    "/index.php/mail/show",
    "/as.php",
    "/guard.php",
    "/php.ini",
]


def test_nothing_but_the_webmail_is_served(webmail_server: Server) -> None:
    answers = {path: fetch(webmail_server, path)[0] for path in PRIVATE_PATHS}
    assert {path: status for path, status in answers.items() if status not in (400, 404)} == {}


def test_every_answer_carries_the_policy(webmail_server: Server) -> None:
    static = {
        "roundcube": "/skins/elastic/styles/styles.min.css",
        "rainloop": "/rainloop/v/1.17.0/static/css/app.min.css",
    }[webmail_server.settings["webmail"]]
    for path in ("/", static, "/as/x"):
        _, headers, _ = fetch(webmail_server, path)
        policy = "; ".join(headers.get_all("Content-Security-Policy", []))
        assert "frame-ancestors 'self'" in policy
        assert "object-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
    _, headers, _ = fetch(webmail_server, static, Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert "max-age=604800" in headers["Cache-Control"]


def test_a_login_as_a_gmail_address_goes_nowhere_else(
    webmail_settings: dict[str, str], own_directory: Path
) -> None:
    def body(outside: Outside) -> None:
        with Server(own_directory, **webmail_settings) as server:
            for address in ("x@gmail.com", "x@outlook.com", "x@example.org"):
                assert fetch(server, f"/as/{address}", **MEANT)[0] == 303
                wait_for_login(server, address)
        assert outside.seen() == []

    def wait_for_login(server: Server, address: str) -> None:
        assert f"imap-login: Info: Login: user=<{address}>" in server.log()

    in_own_network(own_directory, body)


def test_keys_are_each_servers_own_and_stay(webmail_settings: dict[str, str]) -> None:
    def key(server: Server) -> bytes:
        name = {"roundcube": "roundcube/key", "rainloop": "SALT.php"}[server.settings["webmail"]]
        return (server.state / "webmail" / name).read_bytes()

    with Server(None, **webmail_settings) as one:
        first = key(one)
        assert len(first) >= 32
        one.stop()
        one.start()
        assert key(one) == first
        with Server(None, **webmail_settings) as other:
            assert key(other) != first


# --- One click -----------------------------------------------------------------------------------


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
    assert "Set-Cookie" not in headers
    assert "Открыть почтовый ящик" in fetch(webmail_server, "/as/a@b.c", Accept_Language="ru")[2]


def test_what_is_no_address_is_said_so(webmail_server: Server) -> None:
    for path in ("/as/", "/as", "/as/joe", "/as/@x", "/as/joe@", "/as/%ff@b"):
        status, _, body = fetch(webmail_server, path, **MEANT)
        assert status == 400, path
        assert "is not a full e-mail address" in body
    status, _, body = fetch(webmail_server, "/as/a..b@x.test", **MEANT)
    assert status == 403
    assert "The server refuses a login as" in body


def test_a_client_that_is_no_browser_posts(webmail_server: Server) -> None:
    for headers, expected in (({}, 303), ({"Origin": "https://evil.example"}, 200)):
        connection = http.client.HTTPSConnection(
            "localhost", webmail_server.port("https"), context=webmail_server.tls_context()
        )
        connection.request("POST", "/as/ann@one.example", "", headers)
        assert connection.getresponse().status == expected
        connection.close()


def test_one_click_can_be_turned_off(webmail_settings: dict[str, str]) -> None:
    with Server(None, **webmail_settings, webmail_one_click="no") as server:
        assert fetch(server, "/as/ann@one.example", **MEANT)[0] == 404
        page = http.client.HTTPConnection(LOOPBACK, server.port("http"))
        page.request("GET", "/lookup/en?address=ann@one.example", headers={"Host": HOSTNAME})
        assert "/as/" not in page.getresponse().read().decode()
        page.close()
