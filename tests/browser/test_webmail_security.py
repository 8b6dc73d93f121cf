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
