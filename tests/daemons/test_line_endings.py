"""Where a line ends, and where a message does: SMTP smuggling, and what else hangs on a bare LF."""

from __future__ import annotations

import base64
import os
import signal
import socket
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Self

import pytest

from tests.daemons.test_mail import a_real_message, body
from tests.helpers.clients import LOOPBACK, messages, smtp, wait_for_message
from tests.helpers.server import HOSTNAME, Server
from tests.helpers.wait import wait_for

LOGIN = "sender@lines.example"
HEADER = b"From: sender@lines.example\r\nSubject: first\r\n\r\n"
MODES = ("standard", "strict", "lenient")

# What may stand before the dot, and after it.
BEFORE = {
    "CRLF": b"\r\n",
    "LF": b"\n",
    "CR": b"\r",
    "CRCRLF": b"\r\r\n",
    "LFLF": b"\n\n",
    "CRLF NUL": b"\r\n\0",
    "LF NUL": b"\n\0",
}
AFTER = {
    "CRLF": b"\r\n",
    "LF": b"\n",
    "CR": b"\r",
    "CRCR": b"\r\r",
    "CRCRLF": b"\r\r\n",
    "NUL CRLF": b"\0\r\n",
    "NUL LF": b"\0\n",
    "blank CRLF": b" \r\n",
}
VARIANTS = list(product(BEFORE, AFTER))
# The only end that RFC 5321, section 4.1.1.4, knows. (Its first CR may follow another one.)
STANDARD_ENDS = {("CRLF", "CRLF"), ("CRCRLF", "CRLF")}
# What servers took for one before 2024, each in its own way; this is Postfix's.
LENIENT_ENDS = {
    ("CRLF", "CRLF"),
    ("CRLF", "LF"),
    ("CRLF", "CRCRLF"),
    ("LF", "CRLF"),
    ("LF", "LF"),
    ("LF", "CRCRLF"),
    ("CRCRLF", "CRLF"),
    ("CRCRLF", "LF"),
    ("CRCRLF", "CRCRLF"),
    ("LFLF", "CRLF"),
    ("LFLF", "LF"),
    ("LFLF", "CRCRLF"),
}


class Raw:
    """An SMTP session whose octets are all ours."""

    def __init__(
        self, server: Server, listener: str = "smtp", *, login: bool = True, esmtp: bool = True
    ) -> None:
        self.socket = socket.create_connection((LOOPBACK, server.port(listener)), timeout=20)
        if listener == "smtps":
            self.socket = server.tls_context().wrap_socket(self.socket, server_hostname=HOSTNAME)
        self._file = self.socket.makefile("rb")
        assert self.reply().startswith("220 ")
        if esmtp:
            assert self.command(b"EHLO lines.example").startswith("250 ")
        if login:
            secret = base64.b64encode(f"\0{LOGIN}\0sender".encode())
            assert self.command(b"AUTH PLAIN " + secret).startswith("235 ")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, octets: bytes) -> None:
        self.socket.sendall(octets)

    def reply(self) -> str:
        """Read the last line of a reply; nothing where the server has closed the connection."""
        while (line := self._file.readline())[3:4] == b"-":
            pass
        return line.decode().rstrip("\r\n")

    def command(self, line: bytes) -> str:
        self.send(line + b"\r\n")
        return self.reply()

    def to_data(self, recipient: str) -> None:
        assert self.command(f"MAIL FROM:<{LOGIN}>".encode()).startswith("250 ")
        assert self.command(f"RCPT TO:<{recipient}>".encode()).startswith("250 ")
        assert self.command(b"DATA").startswith("354 ")

    def replies_to_the_end(self) -> list[str]:
        return list(iter(self.reply, ""))


@pytest.fixture(scope="module")
def servers(server: Server) -> Iterator[dict[str, Server]]:
    with Server(line_endings="strict") as strict, Server(line_endings="lenient") as lenient:
        yield {"standard": server, "strict": strict, "lenient": lenient}


def mailboxes(mode: str, variant: tuple[str, str]) -> tuple[str, str]:
    """Give the recipient of the message, and that of the one that is hidden in it."""
    number = VARIANTS.index(variant)
    return f"first{number}@{mode}.example", f"second{number}@{mode}.example"


def smuggled(recipient: str) -> bytes:
    """Write a second message, for what may follow the end of the first, up to a true end."""
    return (
        b"MAIL FROM:<boss@lines.example>\r\n"
        b"RCPT TO:<" + recipient.encode() + b">\r\n"
        b"DATA\r\n"
        b"From: boss@lines.example\r\nSubject: second\r\n\r\nhello\r\n.\r\n"
        b"QUIT\r\n"
    )


def send_variant(server: Server, mode: str, variant: tuple[str, str]) -> list[str]:
    """Send a message with a doubtful end, a second one after it, and give all replies."""
    before, after = variant
    first, second = mailboxes(mode, variant)
    with Raw(server) as client:
        client.to_data(first)
        client.send(HEADER + b"text" + BEFORE[before] + b"." + AFTER[after] + smuggled(second))
        return [reply[:9] for reply in client.replies_to_the_end()]


def has_bare_lf(variant: tuple[str, str]) -> bool:
    return any("LF" in name.replace("CRLF", "") for name in variant)


variants = pytest.mark.parametrize("variant", VARIANTS, ids=" . ".join)


@variants
@pytest.mark.parametrize("mode", ["standard", "strict"])
def test_nothing_but_the_standard_end_ends_a_message(
    servers: dict[str, Server], mode: str, variant: tuple[str, str]
) -> None:
    server = servers[mode]
    first, second = mailboxes(mode, variant)
    replies = send_variant(server, mode, variant)
    if mode == "strict" and has_bare_lf(variant):
        assert replies == ["550 5.5.2", "221 2.0.0"]
        assert messages(server, first) == []
    elif variant in STANDARD_ENDS:
        # This is no smuggling, but a client that does not wait for the answer to DATA.
        assert replies == ["250 2.0.0", "250 2.1.0", "250 2.1.5", "554 5.5.0"]
        assert b"Subject: second" not in wait_for_message(server, first, "first")
    else:
        assert replies == ["250 2.0.0", "221 2.0.0"]
        assert b"\r\nSubject: second" in wait_for_message(server, first, "first")
    assert messages(server, second) == []


@variants
def test_with_the_lenient_setting_smuggling_works(
    servers: dict[str, Server], variant: tuple[str, str]
) -> None:
    server = servers["lenient"]
    first, second = mailboxes("lenient", variant)
    replies = send_variant(server, "lenient", variant)
    text = wait_for_message(server, first, "first")
    if variant in LENIENT_ENDS:
        accepted = ["250 2.0.0", "250 2.1.0", "250 2.1.5", "354 End d", "250 2.0.0", "221 2.0.0"]
        assert replies == accepted
        assert b"Subject: second" not in text
        found = wait_for_message(server, second, "second")
        assert found.startswith(b"Return-Path: <boss@lines.example>\r\n")
    else:
        assert replies == ["250 2.0.0", "221 2.0.0"]
        assert b"\r\nSubject: second" in text
        assert messages(server, second) == []


@pytest.mark.parametrize("listener", ["smtp", "submission", "smtps"])
@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n"])
def test_every_port_and_every_client_has_the_same_end(
    own_open: Server, listener: str, end: bytes
) -> None:
    """With DEVMAIL_REQUIRE_AUTH=no, every client is in $mynetworks, which Postfix leaves out."""
    recipient = f"{listener}-{end.hex()}@open.example"
    with Raw(own_open, listener, login=False) as client:
        client.to_data(recipient)
        client.send(HEADER + b"one" + end + b"two\r\n.\r\n")
        assert client.reply().startswith("250 2.0.0 ")
        assert client.command(b"NOOP") == "250 2.0.0 Ok"
    text = wait_for_message(own_open, recipient, "first")
    assert text.endswith(b"\r\n\r\none\r\ntwo\r\n")


@pytest.fixture(scope="module")
def own_open() -> Iterator[Server]:
    with Server(require_auth="no") as running:
        yield running


def test_who_ends_a_message_in_another_way_is_told_so_in_the_end(own_directory: Path) -> None:
    """After five minutes, which is Postfix's default and RFC 5321's least; here, after less."""
    with Server(own_directory) as server:
        config = server.state / "run" / "postfix" / "main.cf"
        config.write_text(f"{config.read_text()}smtpd_timeout = 2s\n")
        (master,) = server.processes("master")
        os.kill(master, signal.SIGHUP)

        def is_told() -> bool:
            with Raw(server) as client:
                client.to_data("joe@timeout.example")
                client.send(HEADER + b"text\n.\n")
                client.socket.settimeout(5)
                try:
                    reply = client.reply()
                except TimeoutError:
                    # A process from before the change.
                    return False
                assert reply == f"421 4.4.2 {HOSTNAME} Error: timeout exceeded"
                return client.reply() == ""

        wait_for(is_told, "the answer", timeout=60)
        wait_for(lambda: "timeout after DATA (5" in server.log(), "a line in the log")
        assert messages(server, "joe@timeout.example") == []


# --- Lines that end with LF alone, in a message that ends as it should ---

BARE = b"line one\nline two\n.dot\n\nend\r\n"
REPAIRED = b"line one\r\nline two\r\ndot\r\n\r\nend\r\n"


@pytest.mark.parametrize("mode", ["standard", "lenient"])
def test_a_bare_lf_ends_a_line(servers: dict[str, Server], mode: str) -> None:
    with Raw(servers[mode]) as client:
        client.to_data(f"bare@{mode}.example")
        client.send(HEADER + BARE + b".\r\n")
        assert client.reply().startswith("250 2.0.0 ")
        # So it does at the end of a command.
        client.send(b"NOOP\n")
        assert client.reply() == "250 2.0.0 Ok"
    assert body(wait_for_message(servers[mode], f"bare@{mode}.example", "first")) == REPAIRED


def test_a_bare_lf_is_refused_where_the_setting_says_so(servers: dict[str, Server]) -> None:
    refusal = f"550 5.5.2 {HOSTNAME} Error: bare <LF> received"
    with Raw(servers["strict"]) as client:
        client.to_data("bare@strict.example")
        client.send(HEADER + BARE + b".\r\n")
        assert client.reply() == refusal
        # The session goes on, with this message as with the next.
        assert client.command(f"MAIL FROM:<{LOGIN}>".encode()).startswith("250 ")
        assert client.command(b"RCPT TO:<bare@strict.example>").startswith("250 ")
        chunk = HEADER + BARE
        client.send(b"BDAT %d LAST\r\n" % len(chunk) + chunk)
        assert client.reply() == refusal
        client.to_data("good@strict.example")
        client.send(HEADER + b"good\r\n.\r\n")
        assert client.reply().startswith("250 2.0.0 ")
        # A command that ends so ends the session.
        client.send(b"NOOP\n")
        assert client.replies_to_the_end() == [refusal]
    wait_for_message(servers["strict"], "good@strict.example", "first")
    assert messages(servers["strict"], "bare@strict.example") == []


@pytest.mark.parametrize("mode", MODES)
def test_a_proper_message_is_the_same_whatever_the_setting(
    servers: dict[str, Server], mode: str
) -> None:
    sent = a_real_message(f"proper, {mode}")
    recipient = f"proper@{mode}.example"
    with smtp(servers[mode], LOGIN) as client:
        client.sendmail(LOGIN, [recipient], sent)
    assert body(wait_for_message(servers[mode], recipient, "proper")) == body(sent)


@pytest.mark.parametrize("mode", MODES)
def test_a_bare_cr_becomes_a_blank_whatever_the_setting(
    servers: dict[str, Server], mode: str
) -> None:
    with Raw(servers[mode]) as client:
        client.to_data(f"cr@{mode}.example")
        client.send(HEADER + b"one\rtwo\r\n.\r\n")
        assert client.reply().startswith("250 2.0.0 ")
    assert body(wait_for_message(servers[mode], f"cr@{mode}.example", "first")) == b"one two\r\n"


# --- Commands sent ahead of their answers ---

DIALOGUE = (
    b"MAIL FROM:<sender@lines.example>\r\nRCPT TO:<%b@lines.example>\r\n"
    b"RCPT TO:<other@lines.example>\r\nDATA\r\n"
)
GREETED = ["250 2.1.0", "250 2.1.5", "250 2.1.5", "354 End d"]


@pytest.mark.parametrize("mode", MODES)
def test_pipelining_works_as_rfc_2920_has_it(servers: dict[str, Server], mode: str) -> None:
    box = f"ahead-{mode}".encode()
    with Raw(servers[mode]) as client:
        client.send(DIALOGUE % box)
        assert [client.reply()[:9] for _ in GREETED] == GREETED
        # The end of a message, and the commands of the next one up to DATA.
        client.send(HEADER + b"one\r\n.\r\nRSET\r\n" + DIALOGUE % box)
        replies = [client.reply()[:9] for _ in range(6)]
        assert replies == ["250 2.0.0", "250 2.0.0", *GREETED]
        client.send(HEADER + b"two\r\n.\r\nQUIT\r\n")
        assert [reply[:9] for reply in client.replies_to_the_end()] == ["250 2.0.0", "221 2.0.0"]
        # RFC 3030, section 4.2: chunks may follow each other.
    with Raw(servers[mode]) as client:
        chunk = HEADER + b"three\r\n"
        commands = (DIALOGUE % box).replace(b"DATA\r\n", b"")
        client.send(commands + (b"BDAT %d\r\n" % len(chunk) + chunk) + b"BDAT 0 LAST\r\nQUIT\r\n")
        replies = [reply[:9] for reply in client.replies_to_the_end()]
        assert replies == [*GREETED[:3], "250 2.0.0", "250 2.0.0", "221 2.0.0"]
    mailbox = f"ahead-{mode}@lines.example"
    wait_for(lambda: len(messages(servers[mode], mailbox)) == 3, "three messages")


SYNCHRONIZATION = "554 5.5.0 Error: SMTP protocol synchronization"


@pytest.mark.parametrize("mode", ["standard", "strict"])
def test_who_does_not_wait_where_they_have_to_is_disconnected(
    servers: dict[str, Server], mode: str
) -> None:
    box = f"hasty-{mode}".encode()
    with Raw(servers[mode]) as client:
        client.send(DIALOGUE % box + HEADER + b"x\r\n.\r\nQUIT\r\n")
        replies = client.replies_to_the_end()
        assert [reply[:9] for reply in replies[:-1]] == GREETED[:3]
        assert replies[-1] == SYNCHRONIZATION
    # PIPELINING is offered in the answer to EHLO alone.
    with Raw(servers[mode], login=False, esmtp=False) as client:
        client.send(b"HELO lines.example\r\nNOOP\r\n")
        assert client.replies_to_the_end() == [SYNCHRONIZATION]
    with Raw(servers[mode], login=False) as client:
        client.send(b"EHLO again.example\r\nNOOP\r\n")
        assert client.replies_to_the_end() == [SYNCHRONIZATION]
    assert messages(servers[mode], f"hasty-{mode}@lines.example") == []


def test_with_the_lenient_setting_nobody_has_to_wait(servers: dict[str, Server]) -> None:
    with Raw(servers["lenient"]) as client:
        client.send(DIALOGUE % b"hasty-lenient" + HEADER + b"x\r\n.\r\nQUIT\r\n")
        replies = [reply[:9] for reply in client.replies_to_the_end()]
        assert replies == [*GREETED, "250 2.0.0", "221 2.0.0"]
    wait_for_message(servers["lenient"], "hasty-lenient@lines.example", "first")


@pytest.mark.parametrize("mode", MODES)
def test_no_command_is_carried_over_into_tls(servers: dict[str, Server], mode: str) -> None:
    """CVE-2011-0411."""
    with Raw(servers[mode], login=False) as client:
        client.send(b"STARTTLS\r\nRSET\r\n")
        assert client.reply() == "220 2.0.0 Ready to start TLS"
        context = servers[mode].tls_context()
        with context.wrap_socket(client.socket, server_hostname=HOSTNAME) as secure:
            secure.sendall(b"NOOP\r\n")
            assert secure.recv(1000) == b"250 2.0.0 Ok\r\n"
            secure.settimeout(0.5)
            with pytest.raises(TimeoutError):
                secure.recv(1000)


# --- The setting ---


def test_a_reload_takes_the_setting_over(own_directory: Path) -> None:
    config = own_directory / "devmail.yaml"
    config.write_text("line_endings: strict\n")
    with Server(own_directory, config=str(config)) as server:

        def answer() -> str:
            with Raw(server) as client:
                client.to_data("joe@reload.example")
                client.send(HEADER + BARE + b".\r\n")
                return client.reply()[:9]

        assert answer() == "550 5.5.2"
        config.write_text("line_endings: lenient\n")
        assert server.command("reload").returncode == 0
        wait_for(lambda: answer() == "250 2.0.0", "the new setting")
