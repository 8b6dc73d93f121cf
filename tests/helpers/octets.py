"""Octets that steer a terminal or forge a line, the ways by which a client brings them in, and a
judge of what comes out. Nothing here knows how the server keeps them out.
"""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import ssl
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from devmail_config.fault_ports import fault_ports
from devmail_config.services import LISTENERS
from devmail_config.settings import Settings
from tests.helpers.clients import LOOPBACK
from tests.helpers.server import Server

# A date that no daemon writes.
FORGED = b"Feb 30 00:00:00 mail postfix/smtpd[1]: FORGED"
PAYLOADS = {
    "ESC": b"\x1b]0;title\x07\x1b[31m",
    "CR": b"\r" + FORGED,
    "LF": b"\n" + FORGED,
    "CRLF": b"\r\n" + FORGED,
    "VT, FF": b"\x0b\x0c" + FORGED,
    "BEL, BS": b"\x07\x08",
    "DEL": b"\x7f",
    "NUL": b"\x00\x01",
    "C1 in UTF-8": "\x9b31m\x85".encode() + FORGED,
    "C1 alone": b"\x9b31m\x85" + FORGED,
    "bidi": "\u202e\u2066\u061c\u200f".encode(),
    "separators": "\u2028\u2029".encode() + FORGED,
    "invisible": "\ufeff\u200b\u00ad\U000e0041".encode(),
    "not UTF-8": b"\xff\xfe\xc0\xaf\xed\xa0\x80\xe2(\xf4\x90\x80\x80\xd1",
}
# These stay as they are.
LETTERS = "\u044e\u0437\u0435\u0440 jos\u00e9 \u6f22\u5b57 \U0001f600"

_STAMP = rb"\w{3} [ \d]\d [\d:]{8} "
_OWN = rb"(?:%b\S+ postfix/[\w/-]+\[\d+\]: |%bdovecot: )" % (_STAMP, _STAMP)
_BEGINNING = re.compile(_OWN + rb"|(devmail|dovecot|nginx|page|php|postfix): ")
# Behind the name of a service and its words, too, but not behind what it quotes.
_IS_FORGED = re.compile(rb"(?:%b)?(?:[\w() ,-]+: )*%b" % (_OWN, re.escape(FORGED)), re.IGNORECASE)
# By Python's own table: controls but the tab, format characters, separators of lines.
_LETTERS_THAT_ACT = [
    letter
    for letter in map(chr, range(0x110000))
    if unicodedata.category(letter) in {"Cc", "Cf", "Zl", "Zp"} and letter != "\t"
]
_ACTING = re.compile(f"[{''.join(_LETTERS_THAT_ACT)}]")
# Seconds. A server that has nothing to say to what it got.
_PATIENCE = 2.0

Way = Callable[[bytes], Sequence[bytes]]


def _b64(text: bytes) -> bytes:
    return base64.b64encode(text)


def _sent_in(dialogue: Sequence[bytes], *, login: bytes = b"") -> Way:
    """Give the way that puts the payload in place of each ``?`` of a dialogue."""
    before = [login] if login else []
    return lambda payload: [*before, *(turn.replace(b"?", payload) for turn in dialogue)]


_AUTH = b"AUTH PLAIN " + _b64(b"\0joe@probe.example\0joe") + b"\r\n"
_MAIL = b"MAIL FROM:<joe@probe.example>\r\n"
_RCPT = b"RCPT TO:<joe@probe.example>\r\n"
_EHLO = b"EHLO probe\r\n"
_SMTP_WAYS: dict[str, Way] = {
    "EHLO": _sent_in([b"EHLO ?\r\n", _AUTH, _MAIL]),
    "HELO": _sent_in([b"HELO ?\r\n", _MAIL, _RCPT]),
    "command": _sent_in([_EHLO, b"X? y\r\n", b"?\r\n"]),
    "verbs": _sent_in([_EHLO, *(b"%b ?\r\n" % verb for verb in (b"HELP", b"NOOP", b"RSET"))]),
    "VRFY, EXPN, ETRN": _sent_in([_EHLO, b"VRFY ?@x.test\r\n", b"EXPN ?\r\n", b"ETRN ?\r\n"]),
    "XCLIENT": _sent_in([_EHLO, b"XCLIENT NAME=? LOGIN=?\r\n", b"XFORWARD NAME=? HELO=?\r\n"]),
    "STARTTLS": _sent_in([_EHLO, b"STARTTLS ?\r\n"]),
    "another protocol": _sent_in([b"GET /? HTTP/1.1\r\nHost: ?\r\n\r\n"]),
    "AUTH": lambda x: [_EHLO, b"AUTH PLAIN " + _b64(b"\0%b@x.test\0%b" % (x, x)) + b"\r\n"],
    "AUTH authorization": lambda x: [
        *(_EHLO, b"AUTH PLAIN " + _b64(b"%b@x.test\0joe@x.test\0joe" % x) + b"\r\n")
    ],
    "AUTH LOGIN": lambda x: [
        *(_EHLO, b"AUTH LOGIN\r\n", _b64(x + b"@x.test") + b"\r\n", _b64(x) + b"\r\n")
    ],
    "AUTH mechanism": _sent_in([_EHLO, b"AUTH ? ?\r\n", b"AUTH PLAIN ?\r\n"]),
    "MAIL": _sent_in([_EHLO, _AUTH, b"MAIL FROM:<?@x.test>\r\n"]),
    "MAIL quoted": _sent_in([_EHLO, _AUTH, b'MAIL FROM:<"?"@x.test> SMTPUTF8\r\n', _RCPT]),
    "MAIL domain": _sent_in([_EHLO, _AUTH, b"MAIL FROM:<joe@?.test> SMTPUTF8\r\n", _RCPT]),
    "MAIL parameter": _sent_in([_EHLO, _AUTH, _MAIL[:-2] + b" ?=? SIZE=?\r\n"]),
    "MAIL ENVID": _sent_in([_EHLO, _AUTH, _MAIL[:-2] + b" ENVID=? RET=?\r\n"]),
    "RCPT": _sent_in([_EHLO, _AUTH, _MAIL, b"RCPT TO:<?@x.test>\r\n"]),
    "RCPT quoted": _sent_in(
        [_EHLO, _AUTH, _MAIL[:-2] + b" SMTPUTF8\r\n", b'RCPT TO:<"?"@x.test>\r\n']
    ),
    "RCPT domain": _sent_in(
        [_EHLO, _AUTH, _MAIL[:-2] + b" SMTPUTF8\r\n", b"RCPT TO:<joe@[?]>\r\n"]
    ),
    "RCPT ORCPT": _sent_in([_EHLO, _AUTH, _MAIL, _RCPT[:-2] + b" ORCPT=rfc822;?\r\n"]),
    "RCPT before AUTH": _sent_in([_EHLO, _MAIL, b"RCPT TO:<?@x.test>\r\n"]),
    "header": _sent_in(
        [
            *(_EHLO, _AUTH, _MAIL, _RCPT, b"DATA\r\n"),
            b"\r\n".join(
                [
                    *(b"Subject: ?", b"From: ? <?@x.test>", b"To: ?", b"Message-ID: <?@x.test>"),
                    *(b"?: ?", b"Content-Type: text/?; charset=?", b"", b"?", b".", b""),
                ]
            ),
        ]
    ),
    "Message-ID": _sent_in(
        [*(_EHLO, _AUTH, _MAIL, _RCPT, b"DATA\r\n"), b"Message-ID: <?@x.test>\r\n\r\n?\r\n.\r\n"]
    ),
    "header with SMTPUTF8": _sent_in(
        [
            *(_EHLO, _AUTH, _MAIL[:-2] + b" SMTPUTF8\r\n", _RCPT, b"DATA\r\n"),
            b"Message-ID: <?@x.test>\r\nSubject: ?\r\n\r\n?\r\n.\r\n",
        ]
    ),
    "BDAT": _sent_in([_EHLO, _AUTH, _MAIL, _RCPT, b"BDAT ?\r\n", b"BDAT 3 LAST\r\n?\r\n"]),
    # Delivered by the program for rare addresses, and tried again and again.
    "delivery": _sent_in(
        [
            *(_EHLO, _AUTH, _MAIL[:-2] + b" SMTPUTF8\r\n"),
            b'RCPT TO:<"?"@x.test>\r\n',
            b'RCPT TO:<"?"@bad-domain.com>\r\n',
            *(b"DATA\r\n", b"Subject: x\r\n\r\nx\r\n.\r\n"),
        ]
    ),
}

_IMAP_LOGIN = b"l LOGIN joe@probe.example joe\r\n"
_IMAP_WAYS: dict[str, Way] = {
    "tag": _sent_in([b"? NOOP\r\n", b"?\r\n", b"? LOGIN joe@x.test joe\r\n"]),
    "command": _sent_in([b"a X?\r\n", b"a NOOP ?\r\n"]),
    "another protocol": _sent_in([b"GET /? HTTP/1.1\r\nHost: ?\r\n\r\n"]),
    "PROXY": _sent_in([b"PROXY TCP4 ? ? 1 2\r\n"]),
    "LOGIN": _sent_in([b"a LOGIN ?@x.test ?\r\n"]),
    "LOGIN quoted": _sent_in([b'a LOGIN "?@x.test" "?"\r\n']),
    "LOGIN literal": lambda x: [
        *(b"a LOGIN {%d}\r\n" % len(x + b"@x.test"), x + b"@x.test {%d}\r\n" % len(x), x + b"\r\n")
    ],
    "AUTHENTICATE": lambda x: [
        b"a AUTHENTICATE PLAIN\r\n",
        _b64(b"\0%b@x.test\0%b" % (x, x)) + b"\r\n",
    ],
    "AUTHENTICATE at once": lambda x: [
        b"a AUTHENTICATE PLAIN " + _b64(b"%b@x.test\0joe@x.test\0joe" % x) + b"\r\n"
    ],
    "AUTHENTICATE mechanism": _sent_in([b"a AUTHENTICATE ?\r\n", b"a AUTHENTICATE PLAIN ?\r\n"]),
    "ID": _sent_in([b'a ID ("name" "?" "?" "y" "x-originating-ip" "?" "x-session-id" "?")\r\n']),
    "ID after login": _sent_in([b'a ID ("name" "?" "?" "y")\r\n'], login=_IMAP_LOGIN),
    "command after login": _sent_in(
        [b"a X? ?\r\n", b"?\r\n", b"? CHECK ?\r\n", b"a ENABLE ?\r\n"], login=_IMAP_LOGIN
    ),
    "folder": _sent_in(
        [b'a CREATE "?"\r\n', b'a SELECT "?"\r\n', b'a RENAME "?" "y?"\r\n', b'a LIST "" "?"\r\n'],
        login=_IMAP_LOGIN,
    ),
    "folder as a literal": lambda x: [
        *(_IMAP_LOGIN, b"a CREATE {%d+}\r\n" % len(x) + x + b"\r\n"),
        *(b"a STATUS {%d+}\r\n" % len(x) + x + b" (MESSAGES)\r\n",),
    ],
    "search and flags": _sent_in(
        [
            *(b"a SELECT INBOX\r\n", b'a SEARCH SUBJECT "?"\r\n', b"a SEARCH CHARSET ? TEXT x\r\n"),
            *(b"a STORE 1 +FLAGS (?)\r\n", b"a FETCH 1 BODY[HEADER.FIELDS (?)]\r\n"),
        ],
        login=_IMAP_LOGIN,
    ),
    "APPEND": lambda x: [
        _IMAP_LOGIN,
        b"a APPEND INBOX {%d+}\r\nMessage-ID: <%b>\r\n\r\n\r\n" % (len(x) + 18, x),
        b"a SELECT INBOX\r\n",
        *(b"a COPY 1 INBOX\r\n", b"a STORE 1 +FLAGS \\Deleted\r\n", b"a EXPUNGE\r\n"),
    ],
}

_POP3_LOGIN = b"USER joe@probe.example\r\nPASS joe\r\n"
_POP3_WAYS: dict[str, Way] = {
    "USER, PASS": _sent_in([b"USER ?@x.test\r\n", b"PASS ?\r\n"]),
    "APOP": _sent_in([b"APOP ?@x.test 0123456789abcdef0123456789abcdef\r\n"]),
    "AUTH": lambda x: [b"AUTH PLAIN " + _b64(b"\0%b@x.test\0%b" % (x, x)) + b"\r\n"],
    "AUTH mechanism": _sent_in([b"AUTH ? ?\r\n", b"AUTH PLAIN ?\r\n"]),
    "command": _sent_in([b"?\r\n", b"X? ?\r\n", b"CAPA ?\r\n"]),
    "XCLIENT": _sent_in([b"XCLIENT ADDR=? SESSION=?\r\n"]),
    "another protocol": _sent_in([b"GET /? HTTP/1.1\r\nHost: ?\r\n\r\n"]),
    "command after login": _sent_in(
        [b"X? ?\r\n", b"TOP ? ?\r\n", b"RETR ?\r\n", b"UIDL ?\r\n"], login=_POP3_LOGIN
    ),
}


def _get(target: bytes, *headers: bytes) -> Way:
    head = [b"GET " + target + b" HTTP/1.1", b"Host: localhost", *headers, b"Connection: close"]
    return _sent_in([b"\r\n".join(head) + b"\r\n\r\n"])


def _encoded(target: bytes) -> Way:
    """Percent-encode the payload: that is how a browser sends what a page asks it for."""
    way = _get(target)
    return lambda payload: way(quote(payload, safe="").encode())


def _post(target: bytes, media_type: bytes, body: bytes) -> Way:
    def way(payload: bytes) -> Sequence[bytes]:
        filled = body.replace(b"?", payload)
        return [
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%b" % (target, media_type, len(filled), filled)
        ]

    return way


_OUTLOOK = b"<Autodiscover><Request><EMailAddress>?@x.test</EMailAddress></Request></Autodiscover>"
_PATHS = (
    *(b"/?", b"/?/", b"/icon.svg/?", b"/icon.svg/?/", b"/en/?", b"/en?x", b"//?", b"/./?/../?"),
    *(b"/lookup/en/?", b"/lookup/?", b"/autodiscover/?/autodiscover.xml", b"/mail/?.xml"),
    *(b"/.well-known/?", b"/" + b"y" * 300 + b"?", b"/" + b"y" * 300 + b"?/", b"/ca.crt?"),
    *(b"/skins/?.css", b"/plugins/?.js", b"/program/js/?.js", b"/skins/elastic/?/x.css"),
    *(b"/index.php/?", b"/index.php?", b"/as/?", b"/as/?@x.test", b"/as?"),
)
# Here a question mark is one, and the payload is in place of the asterisk.
_QUERIES = (
    *(b"/?x=*", b"/lookup/en?address=*", b"/lookup/ru?address=*@x.test", b"/lookup/en?*=*"),
    *(b"/profile.mobileconfig?address=*@x.test", b"/autodiscover/autodiscover.xml?address=*"),
    *(b"/mail/config-v1.1.xml?emailaddress=*@x.test", b"/as/?address=*@x.test"),
)


def _query(target: bytes, *, encoded: bool) -> Way:
    def way(payload: bytes) -> Sequence[bytes]:
        value = quote(payload, safe="").encode() if encoded else payload
        return [
            b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            % target.replace(b"*", value)
        ]

    return way


_HTTP_WAYS: dict[str, Way] = {
    **{f"raw path {path[:40].decode()}": _get(path) for path in _PATHS},
    **{f"path {path[:40].decode()}": _encoded(path) for path in _PATHS},
    **{f"raw query {query.decode()}": _query(query, encoded=False) for query in _QUERIES},
    **{f"query {query.decode()}": _query(query, encoded=True) for query in _QUERIES},
    "User-Agent": _get(b"/", b"User-Agent: ?"),
    "Referer": _get(b"/nowhere", b"Referer: http://x.test/?"),
    "header name": _get(b"/", b"?: ?", b"X?: y"),
    "languages, cookies": _get(b"/", b"Accept-Language: ?", b"Cookie: ?=?", b"Range: bytes=?"),
    "Authorization": lambda x: _get(b"/", b"Authorization: Basic " + _b64(x + b":" + x))(b""),
    "Host": _sent_in([b"GET /nowhere HTTP/1.1\r\nHost: ?\r\nConnection: close\r\n\r\n"]),
    "URI with a host": _sent_in([b"GET http://?/nowhere HTTP/1.1\r\nHost: ?\r\n\r\n"]),
    "method": _sent_in([b"? / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]),
    "version": _sent_in([b"GET / HTTP/?\r\nHost: x\r\n\r\n", b"GET /?\r\n"]),
    "Content-Length": _get(b"/", b"Content-Length: ?"),
    "Transfer-Encoding": _get(b"/", b"Transfer-Encoding: ?"),
    "form": _post(b"/lookup/en", b"application/x-www-form-urlencoded", b"address=?@x.test"),
    "form to the page": _post(b"/nowhere", b"text/plain", b"?"),
    "type": _post(b"/autodiscover/autodiscover.xml", b"?", b"?"),
    "autodiscover": _post(b"/autodiscover/autodiscover.xml", b"text/xml", _OUTLOOK),
    "as": _post(b"/as/", b"application/x-www-form-urlencoded", b"address=?@x.test"),
    "no protocol": _sent_in([b"?\r\n\r\n"]),
}

# By protocol, see ``services.LISTENERS``.
WAYS: dict[str, dict[str, Way]] = {
    "SMTP": _SMTP_WAYS,
    "IMAP": _IMAP_WAYS,
    "POP3": _POP3_WAYS,
    "HTTP": _HTTP_WAYS,
}
_FAREWELLS = {"SMTP": b"QUIT\r\n", "IMAP": b"z LOGOUT\r\n", "POP3": b"QUIT\r\n"}


def connect(port: int, context: ssl.SSLContext | None) -> socket.socket:
    """Connect to a port, with TLS if there is a context."""
    plain = socket.create_connection((LOOPBACK, port), timeout=_PATIENCE)
    if context is None:
        return plain
    return context.wrap_socket(plain, server_hostname="localhost")


def converse(connection: socket.socket, protocol: str, turns: Sequence[bytes]) -> None:
    """Say one thing after the other, as soon as the last one was answered, until the end."""
    with connection, contextlib.suppress(OSError):
        if protocol in _FAREWELLS:
            connection.recv(65536)
        for turn in turns:
            connection.sendall(turn)
            if protocol and not connection.recv(65536):
                return
        if protocol != "HTTP":
            connection.sendall(_FAREWELLS.get(protocol, b""))
            # Who waits for more gets none; nginx would take that for a client that is gone.
            connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def hellos(payload: bytes) -> Iterator[bytes]:
    """Give what begins like TLS, with the payload in it, and what does not."""
    placeholder = "y" * len(payload)
    for name, protocol in ((placeholder, "z"), ("localhost", placeholder)):
        context = ssl.create_default_context()
        context.set_alpn_protocols([protocol])
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname=name)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        yield outgoing.read().replace(placeholder.encode(), payload)
    yield b"\x16\x03\x01\x00" + bytes([len(payload)]) + payload
    yield payload + b"\r\n\r\n"
    yield b"GET /%b HTTP/1.1\r\nHost: %b\r\n\r\n" % (payload, payload)


@dataclass(frozen=True)
class Probe:
    """One conversation with a payload in it, and the words around it, which are nowhere else."""

    listener: str
    protocol: str
    way: str
    token: bytes
    port: int
    context: ssl.SSLContext | None
    turns: Sequence[bytes]

    def send(self) -> None:
        """Have the conversation."""
        with contextlib.suppress(OSError):
            converse(connect(self.port, self.context), self.protocol, self.turns)


# These keep the machine busy: each starts a program of ours.
_STARTS_A_PROGRAM = re.compile(r"(lookup|profile|autodiscover).*\*|^(form|type|autodiscover)$")
# Where every way is tried with every payload; on the other ports, the same code listens.
FULLY_TRIED = ("smtp", "imap", "pop3", "http")


def probes(server: Server, fully_tried: Sequence[str] = FULLY_TRIED) -> Iterator[Probe]:
    """Give every way into every port, those that fail on demand included."""
    context = server.tls_context()
    payloads = list(PAYLOADS.values())
    number = 0
    for listener in LISTENERS:
        own_context = context if listener.tls == "implicit" else None
        for shift, (way, fill) in enumerate(WAYS[listener.protocol].items()):
            if listener.name not in fully_tried:
                chosen: Sequence[int] = (0, 5)
            elif _STARTS_A_PROGRAM.search(way):
                chosen = (0, 3, 6, 9, 12)
            else:
                chosen = range(len(payloads))
            for payload in (payloads[(shift + more) % len(payloads)] for more in chosen):
                number += 1
                token = b"p%05dq" % number
                yield Probe(
                    *(listener.name, listener.protocol, way, token, server.port(listener.name)),
                    *(own_context, fill(token + payload + token)),
                )
    broken = fault_ports(Settings(fault_ports=server.settings.get("fault_ports") == "yes"))
    ports = [(one.name, one.port) for one in LISTENERS] + [(one.name, one.port) for one in broken]
    for shift, (name, port) in enumerate(ports):
        for payload in payloads[shift % 3 :: 3]:
            number += 1
            token = b"p%05dq" % number
            for hello in hellos(token + payload):
                # Not a word of any protocol is waited for.
                yield Probe(name, "", "hello", token, port + server.offset, None, [hello])


def complaints(output: bytes) -> list[bytes]:
    """Give the lines that a terminal would not show as they are, or that are not UTF-8."""
    return [line for line in output.split(b"\n") if not _is_harmless(line)]


def _is_harmless(line: bytes) -> bool:
    try:
        return not _ACTING.search(line.decode())
    except UnicodeDecodeError:
        return False


def unnamed(log: bytes) -> list[bytes]:
    """Give the lines of a log that do not begin as a line of their service does."""
    lines = log.removesuffix(b"\n").split(b"\n")
    return [line for line in lines if not _BEGINNING.match(line) or _IS_FORGED.match(line)]


def raw_log(server: Server) -> bytes:
    """Give the log of a server as it is."""
    return (server.state / "test.log").read_bytes()
