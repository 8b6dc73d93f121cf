"""Pictures that are not in the mail itself: from nowhere but the hosts that the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import EmailMessage

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.helpers.clients import smtp, wait_for_message
from tests.helpers.hosts import Host
from tests.helpers.server import Server
from tests.helpers.webmail import WEBMAILS, OpenWebmail, Webmail, fetch, launch

READER = "reader@pictures.example"
# Everything that might fetch something when the mail is shown.
REMOTE = {
    "img": '<img src="{u}">',
    "srcset": '<img srcset="{u} 1x, {u} 2x">',
    "picture": '<picture><source srcset="{u}"><img src="{u}"></picture>',
    "background": '<table background="{u}"><tr><td background="{u}">x</td></tr></table>',
    "body": '<body style="color: red" background="{u}">x</body>',
    "style attribute": '<div style="background: url({u}); width: 9px; height: 9px">x</div>',
    "list": '<ul style="list-style-image: url({u})"><li>x</li></ul>',
    "cursor": '<div style="cursor: url({u}), auto">x</div>',
    "border": '<div style="border: 9px solid; border-image: url({u}) 9">x</div>',
    "content": '<style>p::before {{ content: url("{u}") }}</style><p>x</p>',
    "style": '<style>p {{ background-image: url("{u}") }}</style><p>x</p>',
    "import": '<style>@import "{u}"; @import url({u});</style><p>x</p>',
    "font": "<style>@font-face {{ font-family: f; src: url({u}) }} p {{ font-family: f }}</style>"
    "<p>x</p>",
    "sheet": '<link rel="stylesheet" href="{u}">',
    "prefetch": '<link rel="prefetch" href="{u}"><link rel="preload" as="image" href="{u}">',
    "icon": '<link rel="icon" href="{u}">',
    "video": '<video poster="{u}" src="{u}" autoplay></video>',
    "audio": '<audio src="{u}" autoplay></audio>',
    "track": '<video><track default src="{u}"></video>',
    "object": '<object data="{u}">x</object>',
    "frame": '<iframe src="{u}"></iframe>',
    "svg": '<svg><image href="{u}" xlink:href="{u}"/><use href="{u}#x"/></svg>',
    "input": '<input type="image" src="{u}">',
    "refresh": '<meta http-equiv="refresh" content="0; url={u}">',
    "base": '<base href="{u}"><img src="x">',
    "lowsrc": '<img lowsrc="{u}" dynsrc="{u}" longdesc="{u}">',
}


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    """One that the settings name, and one that they do not."""
    with Host() as named, Host() as other:
        yield named, other
        named.shutdown()
        other.shutdown()


def send(server: Server, subject: str, html: str) -> None:
    message = EmailMessage()
    message["From"] = message["To"] = READER
    message["Subject"] = subject
    message.set_content(f"<html><body><b>here</b>{html}</body></html>", subtype="html")
    with smtp(server, READER) as client:
        client.sendmail(READER, [READER], message.as_bytes())
    wait_for_message(server, READER, subject)


def settle(page: Page) -> None:
    """Wait until what a message may fetch has been asked for."""
    for frame in page.frames:
        frame.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame("
            "() => setTimeout(done, 50))))"
        )


def test_nothing_is_fetched_by_default_whatever_the_user_allows(
    webmail_server: Server, open_webmail: OpenWebmail, hosts: tuple[Host, Host]
) -> None:
    host, _ = hosts
    for name, html in REMOTE.items():
        send(webmail_server, f"remote {name}.", html.format(u=f"{host.origin()}/{name}"))
    webmail = open_webmail()
    webmail.log_in(READER)
    allowed = 0
    for name in REMOTE:
        body = webmail.open(f"remote {name}.")
        expect(body.locator("b").first).to_have_text("here")
        settle(webmail.page)
        allowed += webmail.allow_pictures()
        settle(webmail.page)
    assert allowed >= 5
    assert host.asked == []
    # What the browser says about each that it has refused.
    webmail.complaints.clear()


def test_the_hosts_of_the_settings_are_shown_at_once_and_no_others(
    webmail_settings: dict[str, str], chromium: Browser, hosts: tuple[Host, Host]
) -> None:
    named, other = hosts
    origins = [named.origin(), named.origin("localhost"), named.origin("app.localhost")]
    pictures = ", ".join(["https://cdn.example", *origins])
    with Server(None, **webmail_settings, webmail_pictures=pictures) as server:
        assert_policy(server, pictures)
        browser = launch(chromium.browser_type, server)
        webmail = log_in(server, browser)
        images = "".join(f'<img src="{one}/{number}.gif">' for number, one in enumerate(origins))
        send(server, "three and one", f'{images}<img src="{other.origin()}/other.gif">')
        for name, html in REMOTE.items():
            send(server, f"remote {name}.", html.format(u=f"{other.origin()}/{name}"))
        webmail.page.reload()
        webmail.wait_for_inbox()
        shown = webmail.open("three and one").locator("img")
        expect(shown).to_have_count(4)
        for number in range(3):
            expect(shown.nth(number)).to_have_js_property("naturalWidth", 1)
        assert set(named.asked) == {"0.gif", "1.gif", "2.gif"}
        for name in REMOTE:
            webmail.open(f"remote {name}.")
            settle(webmail.page)
        assert other.asked == []
        browser.close()


def log_in(server: Server, browser: Browser) -> Webmail:
    page = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 800}).new_page()
    webmail = WEBMAILS[server.settings["webmail"]](server, page)
    webmail.log_in(READER)
    return webmail


def assert_policy(server: Server, pictures: str) -> None:
    _, headers, _ = fetch(server, "/")
    policies = "; ".join(headers.get_all("Content-Security-Policy", []))
    assert f"img-src 'self' data: blob: {pictures.replace(',', '')};" in policies
