"""What the log says of a webmail and its PHP: one line for each message, and none that acts."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from tests.helpers.clients import LOOPBACK
from tests.helpers.octets import (
    FORGED,
    PAYLOADS,
    WAYS,
    Probe,
    complaints,
    probes,
    raw_log,
    unnamed,
)
from tests.helpers.server import Server
from tests.helpers.wait import wait_for

LOGIN = {"_user": "joe@probe.example", "_pass": "joe", "_timezone": "UTC"}
NO_LOGIN = {**LOGIN, "_pass": "wrong"}
# Each ? is a payload: fields of the login form, pages, and forms of whoever is logged in.
FIELDS = ("_user", "_pass", "_timezone", "_url", "_host", "_task", "_action")
PAGES = (
    *("_task=?", "_task=mail&_action=?", "_task=mail&_mbox=?", "_task[]=?&_action[]=?"),
    *("_task=mail&_mbox=?&_action=list&_remote=1", "_task=mail&_mbox[?]=?&_uid[?]=1"),
    *("_task=mail&_action=show&_mbox=INBOX&_uid=?", "_task=mail&_action=show&_mbox=?&_uid=1"),
    "_task=mail&_action=get&_mbox=INBOX&_uid=1&_part=?",
    "_task=mail&_action=search&_q=?&_mbox=INBOX&_remote=1&_headers=?",
    *("_task=mail&_action=compose&_to=?&_subject=?", "_task=mail&_action=plugin.?"),
    *("_task=settings&_action=?", "_task=settings&_action=edit-prefs&_section=?"),
    *("_task=settings&_action=edit-identity&_iid=?", "_task=settings&_action=edit-folder&_mbox=?"),
    *("_task=addressbook&_action=show&_cid=?&_source=?", "_task=utils&_action=?"),
    *("_skin=?&_framed=?&_lang=?", "_task=login&_action=?&_err=?", "_task=logout&_token=?"),
)
FORMS = (
    ("_task=settings&_action=save-folder", "_name=?&_mbox=?&_parent=?"),
    ("_task=settings&_action=save-identity", "_email=?&_name=?&_iid=0"),
    ("_task=settings&_action=save-prefs", "_section=general&_language=?&_timezone=?&_skin=?"),
    ("_task=mail&_action=send", "_id=1&_from=1&_to=x?@x.test&_subject=?&_message=?&_charset=?"),
    ("_task=mail&_action=move", "_remote=1&_uid=?&_mbox=?&_target_mbox=?"),
    ("_task=addressbook&_action=save", "_source=0&_name=?&_email[]=?&_photo=?"),
    ("_task=utils&_action=save-pref", "_remote=1&_name=?&_value=?&_session=?"),
    ("_task=settings&_action=folder-subscribe", "_remote=1&_mbox=?"),
    ("_task=mail&_action=list-contacts", "_remote=1&_source=?"),
)


class Visitor:
    """A browser as far as Roundcube can tell; no browser would send these octets."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._cookies: dict[str, str] = {}
        self._token = ""

    def ask(self, query: str, form: str | None = None) -> int:
        """Open a page or send a form, and remember the token for the next form."""
        context = self._server.tls_context()
        context.check_hostname = False
        connection = http.client.HTTPSConnection(
            LOOPBACK, self._server.port("https"), context=context, timeout=20
        )
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items())}
        body = None
        if form is not None:
            body = f"_token={self._token}&{form}"
            headers |= {
                "Content-Type": "application/x-www-form-urlencoded",
                "X-Roundcube-Request": self._token,
            }
        connection.request("GET" if form is None else "POST", f"/?{query}", body, headers)
        response = connection.getresponse()
        page = response.read()
        for cookie in response.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            self._cookies[name] = value
        if token := re.search(rb'"request_token":"([^"]+)"', page):
            self._token = token[1].decode()
        connection.close()
        return response.status

    def log_in(self, fields: Mapping[str, str]) -> int:
        self.ask("_task=login")
        form = {"_task": "login", "_action": "login", **fields}
        return self.ask(
            "_task=login",
            "&".join(f"{name}={value}" for name, value in form.items()),
        )


@pytest.fixture(scope="module")
def roundcube() -> Iterator[Server]:
    with Server(None, webmail="roundcube") as running:
        yield running


def check_log(server: Server) -> None:
    log = raw_log(server)
    assert complaints(log) == []
    assert unnamed(log) == []


def test_no_visitor_of_roundcube_writes_into_the_log(roundcube: Server) -> None:
    joe = Visitor(roundcube)
    assert joe.log_in(LOGIN) == 302
    probes = 0
    for payload in PAYLOADS.values():
        for field in FIELDS:
            probes += 1
            value = quote(b"p%04dq%b" % (probes, payload), safe="")
            text = f"{value}@x.test" if field == "_user" else value
            Visitor(roundcube).log_in({**NO_LOGIN, field: text})
        for query in PAGES:
            probes += 1
            value = quote(b"p%04dq%b" % (probes, payload), safe="")
            joe.ask(query.replace("?", value))
        for query, form in FORMS:
            probes += 1
            value = quote(b"p%04dq%b" % (probes, payload), safe="")
            joe.ask(query, form.replace("?", value))
    assert probes == len(PAYLOADS) * (len(FIELDS) + len(PAGES) + len(FORMS))
    Visitor(roundcube).log_in({**NO_LOGIN, "_user": "last@probe.example"})
    wait_for(lambda: "Login failed for last@" in roundcube.log(), "the last line")
    check_log(roundcube)
    # No part of a message is a message: each says who it is from, PHP or Roundcube.
    said = [line for line in raw_log(roundcube).split(b"\n") if line.startswith(b"php: ")]
    beginning = re.compile(
        rb"php: (errors: |PHP (Warning|Notice|Deprecated|Fatal error):  |PHP message: |\.\.\."
        rb"|an? (odd )?request, given up: )"
    )
    assert [line for line in said if not beginning.match(line)] == []
    # The probes got as far as there.
    assert sum(FORGED.lower() in line.lower() for line in said) > 20
    assert sum(rb"\n" + FORGED.lower() in line.lower() for line in said) > 5


def test_no_request_to_the_webmail_writes_into_the_log(roundcube: Server) -> None:
    sent = [one for one in probes(roundcube, ["https"]) if one.listener == "https"]
    assert len(sent) > 10 * len(WAYS["HTTP"])
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(Probe.send, sent))
    Visitor(roundcube).log_in({**NO_LOGIN, "_user": "end@probe.example"})
    wait_for(lambda: "Login failed for end@" in roundcube.log(), "the last line")
    check_log(roundcube)
    log = raw_log(roundcube)
    assert sum(one.token in log for one in sent) > 600


SCRIPT = r"""<?php
$text = "<\nforged\r\x1b\0\xff\u{202e}ю>";
// nginx hands this program no query.
switch (explode('?what=', $_SERVER['REQUEST_URI'])[1]) {
    case 'warning': trigger_error($text, E_USER_WARNING); break;
    case 'fatal': trigger_error($text, E_USER_ERROR); break;
    case 'key': $none = []; $none[$text]; break;
    case 'exception': throw new Exception($text);
    case 'memory': ini_set('memory_limit', '8M'); str_repeat($text, 1 << 25); break;
    case 'quiet': @trigger_error($text, E_USER_WARNING); break;
    case 'end': trigger_error('the end', E_USER_WARNING); break;
    case 'unfinished': file_put_contents('php://stderr', 'unfinished'); break;
}
"""
SHOWN = r"<\nforged\r\x1b\000\xff\xe2\x80\xaeю>"


@pytest.fixture(scope="module")
def scripted() -> Iterator[Server]:
    """A server whose PHP runs the script above, which does what no webmail does on purpose."""
    with Server(None, webmail="roundcube") as running:
        (running.state / "run/php/as.php").write_text(SCRIPT)
        yield running


@pytest.mark.parametrize(
    ("what", "status", "said"),
    [
        ("warning", 200, f"PHP Warning:  {SHOWN} in "),
        ("fatal", 500, f"PHP Fatal error:  {SHOWN} in "),
        ("key", 200, r'PHP Warning:  Undefined array key "<\nforged\r\x1b" in '),
        ("exception", 500, r"a request, given up: < forged   \xff\xe2\x80\xaeю> in "),
        ("memory", 500, "PHP message: PHP Fatal error:  Allowed memory size of 8388608 bytes"),
        ("quiet", 200, ""),
        ("unfinished", 200, "unfinished"),
    ],
)
def test_a_message_of_php_is_one_line(scripted: Server, what: str, status: int, said: str) -> None:
    before = len(scripted.log())
    assert ask_script(scripted, what) == status
    assert ask_script(scripted, "end") == 200
    wait_for(lambda: "Warning:  the end in " in scripted.log()[before:], "the last line")
    lines = [line for line in scripted.log()[before:].splitlines() if line.startswith("php: ")]
    assert lines.pop().startswith("php: PHP Warning:  the end in ")
    assert len(lines) == (1 if said else 0)
    assert all(line.startswith(f"php: {said}") for line in lines)
    check_log(scripted)


def ask_script(server: Server, what: str) -> int:
    context = server.tls_context()
    context.check_hostname = False
    connection = http.client.HTTPSConnection(LOOPBACK, server.port("https"), context=context)
    connection.request("GET", f"/as/?what={what}")
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status
