"""Requests that no browser sends, to every path of the web servers."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.clients import LOOPBACK
from tests.helpers.roundcube import Session
from tests.helpers.server import HOSTNAME, Server
from tests.helpers.wait import wait_for
from tests.helpers.webmail import MEANT, fetch, installed_webmails, server_with

PAGES = (
    *("/", "/en", "/ru", "/lookup/en", "/lookup/ru", "/profile.mobileconfig"),
    *("/autodiscover/autodiscover.xml", "/mail/config-v1.1.xml", "/page.css", "/page.js"),
    *("/ca.crt", "/ca.der", "/ca.p12", "/nothing"),
)
PROGRAMS_OF_PAGE = PAGES[3:7]
WEBMAIL = ("/", "/index.php", "/as/a@b.test", "/as/", "/skins/elastic/watermark.html", "/editor.js")
SUFFIXES = ("%0a", "%00", "%ff", "/../..", "//", "%2f..%2f", "\xff", "?" + "%" * 9)
METHODS = (
    *("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PROPFIND", "get", "FOO", "M" * 300),
    *("G\x00T", "GET\xff", "POST"),
)
NAMES = (
    *("address", "_task", "_action", "_user", "_pass", "_token", "_mbox", "_uid", "_remote"),
    *("_framed", "_lang", "_url", "_file", "_id", "_search", "_host", "_timezone", "_page"),
)
QUERIES = (
    *(f"{name}[]=x" for name in NAMES),
    *(f"{name}%5Ba%5D%5Bb%5D=x" for name in NAMES),
    *(f"{name}=%00" for name in NAMES),
    *(f"{name}=%ff%fe%80" for name in NAMES),
    *("%", "%%%", "&&&&", "=", "[]", "a[[[[[[=1", "[]=1", "_task=mail&_remote=1&_action=get"),
    *("_task=../../etc", "_task=mail&_action=../x", "_task=utils&_action=modcss&_u[]=1"),
    *("_task=" + "x" * 3000, "&".join(["a=1"] * 900), "x" * 30000, "_task=logout&_token=x"),
    *("address=" + "%f0%9f%92%a9" * 300, "address=" + "<" * 500, "_task=settings&_action=x%0d%0a"),
    *("_task=mail&_action=export&_cid=x", "q[]=/0/", "/Ajax/&q[]=x", "/Ajax/&q[][]=x", "/Json//"),
)
FORM = "Content-Type: application/x-www-form-urlencoded"
HEADERS = (
    *("Content-Length: -1", "Content-Length: abc", "Content-Length: 99999999999999999999"),
    *("Content-Length: 5\r\nContent-Length: 7", "Content-Length: 0x10", "Content-Length:"),
    *("Transfer-Encoding: rubbish", "Transfer-Encoding: chunked\r\nContent-Length: 4"),
    *(
        "Host: a\r\nHost: b",
        "Host:",
        "Host: a b",
        "Host: " + "h" * 7000,
        "Host: [::1",
        "Host: \xff",
    ),
    *("no colon", ": no name", "Name : x", "X: a\x00b", "X: " + "x" * 100_000, " folded: x"),
    "\r\n".join(f"X-{number}: x" for number in range(500)),
    *("Cookie: =;;;=\xff", "Cookie: " + "c" * 6000, "Cookie: {session}[]=x", "Cookie: {session}="),
    *("Cookie: {session}=../../etc/passwd", "Cookie: {session}=" + "x" * 4000),
    *("Cookie: {auth}[]=x; {session}=" + "x" * 26, "Cookie: {session}=%00\xff; {auth}=%ff"),
    *("Cookie: rlsession[]=x; rlspecauth[]=x; smctoken[]=x", "Cookie: rlspecauth=\xff"),
    *("Accept-Language: \xff\xfe", "Accept-Language: " + "ru," * 2000, "Accept-Encoding: \x01"),
    *("Range: bytes=9-1", "Range: bytes=" + "0-0," * 500, "If-Modified-Since: yesterday"),
    *("Expect: rubbish", "Upgrade: h2c\r\nConnection: Upgrade", "Origin: \xff", "Referer: \x7f"),
    *(
        "Sec-Fetch-Site: none\r\nSec-Fetch-Dest: document",
        "Sec-Fetch-Site: \xff",
        "User-Agent: \xff",
    ),
    *("X-Forwarded-For: \xff", "Authorization: Basic \xff", "PHP_VALUE: x", "Proxy: http://x"),
)
BODIES = (
    *(f"{name}[]=x&{name}[a][b]=y" for name in (*NAMES, "Action", "Email", "Password", "XToken")),
    *("\x00\xff\xfe", "%", "&" * 1000, "a[" * 500, "&".join(f"a{n}=1" for n in range(900))),
    *("_task=login&_action=login&_user[]=x&_pass[]=y", "_task=login&_action=login&_user=%ff"),
    *("Action=Login&Email[]=x&Password[]=y", "Action[]=Login", "Action=Login&Email=%ff"),
    *('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',),
    *("<EMailAddress>&#0;&#xD800;\x00</EMailAddress>", "<EMailAddress>" * 2000),
)
TYPES = (
    *(
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=b",
    ),
    *("application/json", "\xff", "application/x-www-form-urlencoded; charset=utf-7"),
)
MULTIPART = (
    "--b\r\n\r\n--b",
    '--b\r\nContent-Disposition: form-data; name="_task[]"\r\n\r\nx\r\n--b--\r\n',
    '--b\r\nContent-Disposition: form-data; name="a"; filename="\x00\xff"\r\n\r\nx\r\n--b--\r\n',
)
LINES = (
    "GET / HTTP/9.9",
    "GET /",
    "GET",
    "",
    "\x16\x03\x01\x02",
    "GET  /  HTTP/1.1",
    "GET x HTTP/1.1",
)
# RFC 9112, section 6.1, and RFC 9110, section 15.6.6: an unknown transfer coding or version.
# Seconds: some requests end too early for a server that goes by their length.
PATIENCE = 3
PRESCRIBED = {501, 505}
TRACES = re.compile(r"Traceback|Stack trace|^php: #\d|PHP (?:Fatal|Warning|Parse|Notice)|Error: ")


def request(line: str, headers: str = "", body: str = "") -> bytes:
    """Write a request as the octets of its text."""
    lines = [line, *([] if "Host:" in headers else [f"Host: {HOSTNAME}"])]
    lines += [headers] if headers else []
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "Connection: close", "", body]).encode("latin-1")


def for_any_path(path: str) -> list[bytes]:
    """List the requests that every path gets."""
    return [
        *(request(f"{method} {path} HTTP/1.1") for method in METHODS),
        *(request(f"GET {path}{suffix} HTTP/1.1") for suffix in SUFFIXES),
        *(request(f"GET {path} HTTP/1.1", header) for header in HEADERS),
    ]


def for_programs(path: str) -> list[bytes]:
    """List the requests that the paths with a program behind them get as well."""
    return [
        *(request(f"GET {path}?{query} HTTP/1.1") for query in QUERIES),
        *(request(f"POST {path} HTTP/1.1", FORM, body) for body in BODIES),
        *(
            request(f"POST {path} HTTP/1.1", f"Content-Type: {media_type}", body)
            for media_type in TYPES
            for body in MULTIPART
        ),
    ]


def requests(server: Server, scheme: str) -> list[bytes]:
    """List the requests to one of the web servers."""
    paths = PAGES if scheme == "http" else (*PAGES[1:], *WEBMAIL)
    programs = PROGRAMS_OF_PAGE if scheme == "http" else (*PROGRAMS_OF_PAGE[:1], *WEBMAIL[:4])
    made = [
        *(one for path in paths for one in for_any_path(path)),
        *(one for path in programs for one in for_programs(path)),
        *(request(line) for line in LINES),
    ]
    names = {b"{session}": "sessid", b"{auth}": "sessauth"}
    for placeholder, name in names.items():
        cookie = f"devmail_{server.port('https')}_{name}".encode()
        made = [one.replace(placeholder, cookie) for one in made]
    return made


def ask(server: Server, scheme: str, request: bytes) -> int:
    """Send a request as it is, and give the status; 0 for a connection that just ends."""
    with socket.create_connection((LOOPBACK, server.port(scheme)), timeout=PATIENCE) as bare:
        connection = bare
        if scheme == "https":
            connection = server.tls_context().wrap_socket(bare, server_hostname="localhost")
        answer = b""
        try:
            connection.sendall(request)
            while len(answer) < 12 and (octets := connection.recv(4096)):
                answer += octets
        except (ConnectionError, ssl.SSLError, TimeoutError):
            pass
        finally:
            connection.close()
    if not answer:
        return 0
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    # HTTP/0.9 has no status.
    return int(found[1]) if found else 200


@pytest.fixture(scope="module", params=installed_webmails())
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server_with(request.param) as running:
        yield running


@pytest.fixture
def log(server: Server) -> Iterator[None]:
    """There is no trace of a program's in what the server logs meanwhile."""
    before = len(server.log())
    yield
    last = "the-last-request"
    fetch(server, f"/{last}")
    wait_for(lambda: last in server.log()[before:], "the log")
    lines = server.log()[before:].splitlines()
    assert [line for line in lines if TRACES.search(line)] == []


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_odd_request_is_the_fault_of_who_sent_it(server: Server, scheme: str) -> None:
    # Roundcube's scripts that make a user known fail when two of them do so at once.
    fetch(server, "/as/a@b.test", **MEANT)
    made = requests(server, scheme)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda one: ask(server, scheme, one), made))
    faults = set(range(500, 600)) - PRESCRIBED
    bad = [(one, sent[:300]) for one, sent in zip(answers, made, strict=True) if one in faults]
    assert bad == []
    # Most have an answer, in which the server says so.
    assert sum(400 <= status < 500 for status in answers) > len(made) / 4
    assert fetch(server, "/en")[0] == 200


# --- The page's own socket -----------------------------------------------------------------------


def scgi(headers: dict[str, str], body: bytes = b"", **lengths: int) -> bytes:
    block = "".join(f"{name}\0{value}\0" for name, value in headers.items()).encode("latin-1")
    return b"%d:%s,%s" % (lengths.get("block", len(block)), block, body)


GOOD = {"CONTENT_LENGTH": "0", "DOCUMENT_URI": "/lookup/en", "QUERY_STRING": "address=a@b.test"}
NO_REQUESTS = (
    *(b"", b"x", b":", b",", b"5", b"5:", b"5:abc", b"3:abc,", b"3:abc", b"0:,", b"-1:,", b"1e3:,"),
    *(b"9" * 1000, b"9" * 1000 + b":", b"999999:" + b"x" * 10, b"\xff\xfe", b"\0" * 100),
    *(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\xd9\xa3:abc,", b" 3:abc,", b"3 :abc,"),
    *(scgi({name: value for name, value in GOOD.items() if name != without}) for without in GOOD),
    *(
        scgi({**GOOD, "CONTENT_LENGTH": value})
        for value in ("", "-1", "abc", "1e3", "0x1", "9" * 5000, "1.5", " 1", "\xb2", "+1")
    ),
    scgi(GOOD, block=10),
    scgi(GOOD, block=1000),
    scgi({"x": "y"}) * 3,
)
ODD_ONES = {
    **{
        scgi({**GOOD, "DOCUMENT_URI": value}): b"404 Not Found"
        for value in (
            "",
            "/",
            "/lookup/xx",
            "/lookup/en\n",
            "../../etc/passwd",
            "\xff",
        )
    },
    **{
        scgi({**GOOD, "QUERY_STRING": value}): b"200 OK"
        for value in (
            "",
            "&&&",
            "address",
            "address=%",
            "address=%ff%00",
            "address=\xff",
            "a=" * 99,
        )
    },
    # More, and less, than it says.
    scgi({**GOOD, "CONTENT_LENGTH": "99"}, b"<EMailAddress>\xff"): b"200 OK",
    scgi(GOOD, b"x" * 99): b"200 OK",
    scgi({**GOOD, "x": "y\0z", "CONTENT_LENGTH": "9" * 18}): b"200 OK",
}


@pytest.mark.usefixtures("log")
def test_the_page_answers_rubbish_on_its_socket_in_words(server: Server) -> None:
    for octets in NO_REQUESTS:
        answer = ask_page(server, octets)
        assert answer.startswith(b"Status: 400 Bad Request\r\nContent-Type: text/plain"), octets
        assert re.search(rb"\r\n\r\n(?:this is not SCGI|the header|CONTENT_LENGTH is)", answer)
    for octets, status in ODD_ONES.items():
        assert ask_page(server, octets).startswith(b"Status: " + status), octets
    assert b"a@b.test" in ask_page(server, scgi(GOOD))


def ask_page(server: Server, octets: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(server.state / "run/page/socket"))
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(octets)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


# --- Whoever is logged in ------------------------------------------------------------------------

ACTIONS = sorted(
    (path.parent.name, path.stem)
    for path in Path("/usr/share/roundcube/program/actions").glob("*/*.php")
)
RUBBISH = "&".join(f"{name}=%ff..%2f%00%22x" for name in NAMES if name not in {"_task", "_action"})
LISTS = "&".join(f"{name}[]=x&{name}[a][b]=y" for name in NAMES if name not in {"_task", "_action"})


@pytest.fixture(scope="module")
def roundcube() -> Iterator[Server]:
    with server_with("roundcube") as running:
        yield running


def test_roundcube_refuses_what_makes_no_sense(roundcube: Server) -> None:
    before = len(roundcube.log())
    session = Session(roundcube)
    token = session.open("odd@x.test")
    answers = {}
    for task, action in ACTIONS:
        path = f"/?_task={task}&_action={action}"
        for query in ("", "&_remote=1", "&_framed=1", f"&{RUBBISH}", f"&{LISTS}", "&_cid=x"):
            answers[path + query] = session.ask("GET", f"{path}{query}&_token={token}").status
        for body in (RUBBISH, LISTS, f"_remote=1&{LISTS}", f"_framed=1&{RUBBISH}"):
            form = f"{body}&_token={token}"
            answers["POST " + path + body] = session.ask("POST", path, form).status
        if action == "logout":
            token = session.open("odd@x.test")
    assert {one: status for one, status in answers.items() if status >= 500} == {}
    traces = re.compile(r"Stack trace|^php: #\d|PHP Fatal")
    lines = roundcube.log()[before:].splitlines()
    assert [line for line in lines if traces.search(line)] == []
    assert session.ask("GET", "/?_task=mail").status == 200
