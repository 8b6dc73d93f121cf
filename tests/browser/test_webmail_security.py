"""What mail and other sites must not be able to do to whoever uses the webmail."""

from __future__ import annotations

from email.message import EmailMessage
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser

from tests.helpers.clients import smtp, wait_for_message
from tests.helpers.namespace import Outside, in_own_network
from tests.helpers.probes import PLAIN_PROBES, PROBES, RAN, RUN, VICTIM, listen, send_probes
from tests.helpers.server import Server
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


EVIL = f'<html><body onload="{RUN}">evil<form method=post action=/as/></form></body></html>'


@pytest.fixture(scope="module")
def roundcube_with_mail(webmail_server: Server) -> Server:
    """Roundcube with a mail whose every part is a document with a script."""
    message = EmailMessage()
    message["From"] = message["To"] = READER
    message["Subject"] = "parts"
    message.set_content(EVIL)
    message.add_alternative(EVIL, subtype="html")
    for media_type, name in ATTACHED:
        content = f"<svg xmlns='http://www.w3.org/2000/svg'><script>{RUN}</script></svg>{EVIL}"
        message.add_attachment(
            content.encode(),
            maintype=media_type.partition("/")[0],
            subtype=media_type.partition("/")[2],
            filename=name,
        )
    with smtp(webmail_server, READER) as client:
        client.sendmail(READER, [READER], message.as_bytes())
    wait_for_message(webmail_server, READER, "parts")
    return webmail_server


READER = "reader@parts.example"
DOCUMENTS = (
    ("text/html", "a.html"),
    ("image/svg+xml", "a.svg"),
    ("text/xml", "a.xml"),
    ("application/xhtml+xml", "a.xhtml"),
)
ATTACHED = (
    *DOCUMENTS,
    ("text/javascript", "a.js"),
    ("text/css", "a.css"),
    ("text/vcard", "a.vcf"),
    ("application/pdf", "a.pdf"),
    ("message/rfc822", "a.eml"),
)
FOREIGN = (
    *(
        f"_task=mail&_action=get&_mbox=INBOX&_uid=1&_part={part}{more}"
        for part in ("1.1", "1.2", *range(2, 2 + len(ATTACHED)))
        for more in ("", "&_embed=1", "&_embed=1&_nocheck=1", "&_thumb=1", "&_preload=1")
    ),
    "_task=mail&_action=viewsource&_mbox=INBOX&_uid=1",
    "_task=mail&_action=viewsource&_mbox=INBOX&_uid=1&_save=1",
    "_task=mail&_action=plugin.zipdownload.attachments&_mbox=INBOX&_uid=1",
    "_task=addressbook&_action=export",
    "_task=addressbook&_action=photo&_email=reader%40parts.example&_error=1",
    "_task=addressbook&_action=photo&_email=nobody%40parts.example",
)
OWN = (
    "_task=mail",
    "_task=mail&_mbox=INBOX&_uid=1&_action=preview&_framed=1",
    "_task=mail&_mbox=INBOX&_uid=1&_action=show",
    "_task=mail&_action=list&_mbox=INBOX&_remote=1",
    "_task=mail&_action=get&_mbox=INBOX&_uid=1&_part=2&_frame=1",
    "_task=mail&_mbox=INBOX&_uid=1&_action=headers&_framed=1",
    "_task=addressbook",
    "_task=settings",
    "_task=settings&_action=about&_framed=1",
    "_task=settings&_action=none",
    "_task=mail&_action=none",
)


def ask(server: Server, query: str, cookies: str, use: str) -> tuple[int, str]:
    """Give the status and the policies that an address is answered with."""
    headers = {"Cookie": cookies, "Sec_Fetch_Dest": use, "Sec_Fetch_Site": "same-origin"}
    status, given, _ = fetch(server, f"/?{query}", **headers)
    return status, "; ".join(given.get_all("Content-Security-Policy", []))


# The addresses are Roundcube's.
@pytest.mark.parametrize("webmail_settings", ["roundcube"], indirect=True)
def test_everything_that_a_stranger_wrote_is_in_a_sandbox(
    roundcube_with_mail: Server, open_webmail: OpenWebmail
) -> None:
    server = roundcube_with_mail
    webmail = open_webmail()
    ran = listen(webmail.page)
    webmail.log_in(READER)
    page = webmail.page
    page.goto(webmail.url("/?_task=mail&_mbox=INBOX&_forward_uid=1&_action=compose"))
    page.locator("#attachment-list li a.filename").nth(len(ATTACHED) - 1).wait_for()
    attachments = page.evaluate("[rcmail.env.compose_id, Object.keys(rcmail.env.attachments)]")
    composed = [
        f"_task=mail&_action=display-attachment&_file=rcmfile{name.removeprefix('rcmfile')}"
        f"&_id={attachments[0]}{more}"
        for name in attachments[1]
        for more in ("", "&_thumb=1")
    ]
    assert len(composed) == 2 * len(ATTACHED)
    pairs = "; ".join(f"{one['name']}={one['value']}" for one in page.context.cookies(page.url))
    token = page.evaluate("rcmail.env.request_token")
    for query in (*(f"{one}&_token={token}" for one in FOREIGN), *composed):
        status, policy = ask(server, query, pairs, "document")
        assert "sandbox;" in policy or status in (204, 302, 404), (query, status)
        assert "allow-" not in policy
        for use in (
            "script",
            "style",
            "worker",
            "serviceworker",
            "object",
            "embed",
            "font",
            "xslt",
        ):
            status, _ = ask(server, query, pairs, use)
            assert status in (204, 302, 403, 404), (query, use)
    assert ask(server, composed[0], pairs, "document")[0] == 200
    for query in OWN:
        status, policy = ask(server, query, pairs, "document")
        assert status in (200, 404), query
        assert "sandbox" not in policy, query
    # The policy of Roundcube's pages, which is there too, would let their scripts run.
    for query in composed[: 2 * len(DOCUMENTS)]:
        page.goto(webmail.url(f"/?{query}"), wait_until="load")
        assert page.evaluate("origin") == "null", query
    assert ran == []
    webmail.complaints.clear()


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
