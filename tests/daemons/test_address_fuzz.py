"""Junk in the place of addresses: bounded, and the same in every run."""

from __future__ import annotations

import base64
import random
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from devmail_config.addresses import Address, AddressError
from devmail_config.programs.checkpassword import mailbox_for
from tests.helpers.addresses import INVALID, VALID
from tests.helpers.clients import LOOPBACK
from tests.helpers.server import Server
from tests.helpers.wait import wait_for

SEED = 3696
PROBE = b"probe@fuzz.example"
COMMANDS = 800
LOGINS = 120

# What means something to one of the parsers on the way, or to a file system, or to a shell.
FRAGMENTS = (
    *(
        b"@",
        b"@@",
        b"..",
        b".",
        b"/",
        b"../",
        b"../../",
        b"\\",
        b'"',
        b'""',
        b"<",
        b">",
        b" ",
        b"\t",
    ),
    *(b"[", b"]", b"[1.2.3.4]", b"IPv6:", b"::1", b":", b";", b",", b"(", b")", b"+", b"-", b"%"),
    *(b"%u", b"%d", b"%{if;1;=;1;x;y}", b"%{", b"}", b"{PLAIN}", b"{CRYPT}*", b";~;.*;", b"$HOME"),
    *(b"\0", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"),
    *("é".encode(), "e\u0301".encode(), "用户".encode(), "\u202e".encode(), "\ufffe".encode()),
    *(b"xn--", b"xn--a", "ß".encode(), "。".encode(), b"cur", b"new", b"tmp", b"dovecot.index"),
    *(b"joe", b"example", b".com", b"localhost", b"`id`", b"|", b"*", b"?", b"~", b"~root", b"'"),
    *(b"l" * 64, b"d" * 63, b"x" * 300, b" SIZE=1", b" SMTPUTF8", b"postmaster", b"=", b"&", b"!"),
)


def junk(rng: random.Random) -> bytes:
    """Make up something: octets, fragments, or an address of the tables with a few changes."""
    kind = rng.randrange(12)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 60))
    if kind == 1:
        return rng.choice(FRAGMENTS) * rng.choice([100, 1000, 3000])
    if kind in {2, 3}:
        return b"".join(rng.choices(FRAGMENTS, k=rng.randrange(1, 8)))
    if kind == 4:
        local, domain = (b"".join(rng.choices(FRAGMENTS, k=rng.randrange(1, 4))) for _ in "12")
        return local + b"@" + domain
    text = rng.choice(INVALID).text.encode() if kind == 5 else rng.choice(VALID).address.encode()
    for _ in range(rng.randrange(3)):
        place = rng.randrange(len(text) + 1)
        text = text[:place] + rng.choice(FRAGMENTS) + text[place + rng.randrange(2) :]
    return text


def one_line(text: bytes) -> bytes:
    """Take out what would end a command."""
    return re.sub(rb"[\r\n]", b"", text)


class Connection:
    """A line at a time, of any octets."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), timeout=20)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def line(self) -> bytes:
        return self._file.readline()

    def send(self, text: bytes) -> None:
        self._socket.sendall(text)

    def smtp(self, command: bytes = b"") -> bytes:
        """Send a command of SMTP, if any, and give the last line of the reply."""
        if command:
            self.send(command + b"\r\n")
        while (line := self.line())[3:4] == b"-":
            pass
        return line


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def named() -> set[str]:
    """The mailboxes that were named, as the rule gives them, by all tests so far."""
    # The check that tells whether the server works logs in as this one.
    return {"mail.localhost/devmail-health"}


def smtp_session(server: Server) -> Connection:
    connection = Connection(server.port("smtp"))
    connection.smtp()
    connection.smtp(b"EHLO fuzz.example")
    login = base64.b64encode(b"\0" + PROBE + b"\0probe")
    assert connection.smtp(b"AUTH PLAIN " + login).startswith(b"235")
    return connection


def address_in(path: bytes) -> Address | None:
    """Say which address a path in MAIL or RCPT names, or None."""
    try:
        text = path.decode()
        return Address.parse(re.sub(r"^@[^\"():;<>\\ ]+:", "", text))
    except (UnicodeDecodeError, AddressError):
        return None


@pytest.fixture
def unharmed(fuzzed: Server) -> Iterator[Server]:
    """Assert that no daemon crashed, and that nothing was written where it should not be."""
    masters = {name: fuzzed.processes(name) for name in ("master", "dovecot", "nginx")}
    before = outside(fuzzed)
    start = len(fuzzed.log())
    yield fuzzed
    assert fuzzed.is_healthy()
    for name in ("master", "dovecot", "nginx"):
        assert fuzzed.processes(name) == masters[name], name
    said = fuzzed.log()[start:]
    assert not re.search(r"(?i)panic|segfault|signal \d|core dump|traceback|fatal|killed", said)
    assert outside(fuzzed) - before == set()


def outside(server: Server) -> set[Path]:
    """List what is in the state directory and around, the mailboxes and the queue left out."""
    inside = {server.state / "mail", server.state / "spool"}
    folders = [server.state, *(path for path in server.state.iterdir() if path.is_dir())]
    found = {path for folder in folders if folder not in inside for path in folder.rglob("*")}
    found = {path for path in found if not inside & {path, *path.parents}}
    return found | set(Path("/").iterdir()) | set(Path("/var/mail").iterdir())


def mailboxes(server: Server) -> set[str]:
    return {str(folder.relative_to(server.mail)) for folder in server.mail.glob("*/*")}


def queued(server: Server) -> list[Path]:
    folders = [server.state / "spool" / name for name in ("incoming", "active", "deferred")]
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def test_junk_in_rcpt_and_mail_is_refused_or_is_the_address_that_the_rule_sees(
    unharmed: Server, named: set[str]
) -> None:
    rng = random.Random(SEED)  # noqa: S311 - no secrets
    connection = smtp_session(unharmed)
    try:
        for _ in range(COMMANDS):
            path = one_line(junk(rng))
            # What follows a NUL is not seen.
            seen = (b"<" + path + b">").partition(b"\0")[0]
            address = address_in(seen[1:-1]) if seen.endswith(b">") else None
            if not connection.smtp(b"RSET").startswith(b"250"):
                connection.__exit__()
                connection = smtp_session(unharmed)
            reply = connection.smtp(b"MAIL FROM:<" + path + b"> SMTPUTF8")
            accepted = reply.startswith(b"250")
            assert accepted == (address is not None or seen == b"<>"), (path, reply)
            if accepted:
                connection.smtp(b"RSET")
            connection.smtp(b"MAIL FROM:<" + PROBE + b"> SMTPUTF8")
            if path.lower() == b"postmaster":
                address = Address.parse("postmaster@mail.localhost")
            reply = connection.smtp(b"RCPT TO:<" + path + b">")
            accepted = reply.startswith(b"250")
            assert accepted == (address is not None), (path, reply)
            if address:
                assert connection.smtp(b"DATA").startswith(b"354")
                assert connection.smtp(b"Subject: fuzz\r\n\r\nx\r\n.").startswith(b"250")
                named.add(address.directory)
                verified = connection.smtp(b"VRFY <" + path + b"> SMTPUTF8")
                assert verified.startswith(b"252 2.0.0 "), (path, verified)
            else:
                assert connection.smtp(b"VRFY <" + path + b"> SMTPUTF8") == reply, path
                assert re.match(rb"5\d\d 5\.\d\.\d |500 |502 |503 |421 ", reply), (path, reply)
    finally:
        connection.__exit__()
    assert len(named) > 50, "enough of it was valid"
    wait_for(lambda: not queued(unharmed), "the queue to be empty", timeout=60)
    assert mailboxes(unharmed) == named


def test_junk_in_the_place_of_commands_breaks_nothing(unharmed: Server, named: set[str]) -> None:
    rng = random.Random(SEED + 1)  # noqa: S311
    verbs = [
        b"",
        b"RCPT TO:",
        b"MAIL FROM:",
        b"RCPT TO: <",
        b"RCPT TO:<a@b>",
        b"AUTH ",
        b"AUTH PLAIN ",
    ]
    for listener in ("smtp", "imap", "pop3"):
        for _ in range(40):
            with Connection(unharmed.port(listener)) as connection:
                connection.line()
                for _ in range(5):
                    text = rng.choice(verbs) + junk(rng)
                    try:
                        connection.send(text + rng.choice([b"\r\n", b"\n", b"\r", b""]))
                    except OSError:
                        # The server may end a conversation like this one.
                        break
    assert mailboxes(unharmed) - named == set()


def opens(login: bytes, password: bytes) -> str | None:
    """Say which mailbox the rule opens, or None."""
    try:
        return mailbox_for(login.decode(), password.decode(), "separate")
    except (UnicodeDecodeError, AddressError):
        return None


def imap_login(server: Server, login: bytes, password: bytes) -> bool:
    with Connection(server.port("imap")) as connection:
        connection.line()
        connection.send(b"x LOGIN {%d}\r\n" % len(login))
        for text in (login + b" {%d}\r\n" % len(password), password + b"\r\n"):
            line = connection.line()
            if not line.startswith(b"+"):
                return False
            connection.send(text)
        while (line := connection.line()).startswith(b"*"):
            pass
        return line.startswith(b"x OK")


def imap_plain(server: Server, login: bytes, password: bytes) -> bool:
    with Connection(server.port("imap")) as connection:
        connection.line()
        secret = base64.b64encode(b"\0" + login + b"\0" + password)
        connection.send(b"x AUTHENTICATE PLAIN " + secret + b"\r\n")
        while (line := connection.line()).startswith(b"*"):
            pass
        return line.startswith(b"x OK")


def pop3_user(server: Server, login: bytes, password: bytes) -> bool:
    with Connection(server.port("pop3")) as connection:
        connection.line()
        connection.send(b"USER " + one_line(login) + b"\r\n")
        if not connection.line().startswith(b"+OK"):
            return False
        connection.send(b"PASS " + one_line(password) + b"\r\n")
        return connection.line().startswith(b"+OK")


def smtp_plain(server: Server, login: bytes, password: bytes) -> bool:
    with Connection(server.port("smtp")) as connection:
        connection.smtp()
        connection.smtp(b"EHLO fuzz.example")
        secret = base64.b64encode(b"\0" + login + b"\0" + password)
        return connection.smtp(b"AUTH PLAIN " + secret).startswith(b"235")


def smtp_login(server: Server, login: bytes, password: bytes) -> bool:
    with Connection(server.port("smtp")) as connection:
        connection.smtp()
        connection.smtp(b"EHLO fuzz.example")
        connection.smtp(b"AUTH LOGIN " + base64.b64encode(login))
        return connection.smtp(base64.b64encode(password)).startswith(b"235")


@pytest.mark.parametrize("way", [imap_login, imap_plain, pop3_user, smtp_plain, smtp_login])
def test_junk_logs_in_only_where_the_rule_opens_a_mailbox(
    unharmed: Server, named: set[str], way: Callable[[Server, bytes, bytes], bool]
) -> None:
    rng = random.Random(f"{SEED}{way.__name__}")  # noqa: S311
    opened = 0
    for _ in range(LOGINS):
        login = one_line(junk(rng)).replace(b"\0", b"")
        address = address_in(login)
        right = address.password.encode() if address else login.rpartition(b"@")[0]
        password = rng.choice([right, right, right, one_line(junk(rng)), login, b"%n", b"x"])
        password = password.replace(b"\0", b"") or b"x"
        mailbox = opens(login, password)
        try:
            is_open = way(unharmed, login, password)
        except ConnectionError:
            # The server ends a conversation that goes too far.
            is_open = False
        assert is_open == (mailbox is not None), (login, password)
        if mailbox:
            opened += 1
            local, _, domain = mailbox.partition("@")
            named.add(f"{domain}/{local}")
    assert opened > 10, "enough of it was valid"
    assert mailboxes(unharmed) - named == set()


@pytest.mark.parametrize("octets", [600, 5000, 70000, 1000000])
def test_a_very_long_line_is_refused_and_the_next_client_is_served(
    unharmed: Server, octets: int
) -> None:
    long = b"l" * octets
    for way in (imap_login, imap_plain, pop3_user, smtp_plain, smtp_login):
        try:
            assert not way(unharmed, long + b"@example.com", long)
        except OSError:
            # The server has closed the connection before the end of the line.
            continue
    with smtp_session(unharmed) as connection:
        for command in (b"MAIL FROM:<", b"RCPT TO:<"):
            try:
                reply = connection.smtp(command + long + b"@example.com>")
            except OSError:
                break
            assert not reply.startswith(b"250")
