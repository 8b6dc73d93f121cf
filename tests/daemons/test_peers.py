"""As modern mail servers are: the same TLS on every port, and one way to end a message."""

from __future__ import annotations

import smtplib
import socket
import subprocess
from collections.abc import Iterator

import pytest

from devmail_config.services import LISTENERS, Listener
from tests.helpers.clients import LOOPBACK, sasl_plain
from tests.helpers.server import Server

WITH_TLS = [one for one in LISTENERS if one.tls != "none"]
HEADER = b"Subject: end\r\n\r\nbody"


def handshake(server: Server, listener: Listener, *options: str) -> bool:
    """Tell whether openssl, at its lowest level of security, agrees on something."""
    starttls = ["-starttls", listener.protocol.lower()] if listener.tls == "starttls" else []
    done = subprocess.run(
        [
            *("openssl", "s_client", "-connect", f"{LOOPBACK}:{server.port(listener.name)}"),
            *(*starttls, *options),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return "Cipher is (NONE)" not in done.stdout and "Cipher is " in done.stdout


@pytest.mark.parametrize("listener", WITH_TLS, ids=lambda one: one.name)
def test_every_port_has_the_same_floor(server: Server, listener: Listener) -> None:
    anything = ("-cipher", "ALL:eNULL:@SECLEVEL=0")
    assert handshake(server, listener, "-tls1_2", *anything)
    assert handshake(server, listener, "-tls1_3")
    assert not handshake(server, listener, "-tls1", *anything)
    assert not handshake(server, listener, "-tls1_1", *anything)
    for weak in ("aNULL", "eNULL", "EXPORT", "RC4"):
        assert not handshake(server, listener, "-tls1_2", "-cipher", f"{weak}:@SECLEVEL=0"), weak


@pytest.fixture(scope="module", params=["standard", "strict", "lenient"])
def choosy(request: pytest.FixtureRequest) -> Iterator[tuple[str, Server]]:
    with Server(None, line_endings=request.param) as server:
        yield request.param, server


def answer(server: Server, end: bytes) -> bytes:
    """Send a message that ends so; give its answer, which may only come after a proper end."""
    with smtplib.SMTP(LOOPBACK, server.port("smtp")) as client:
        client.ehlo()
        sasl_plain(client, "a@one.example", "a")
        client.mail("a@one.example")
        client.rcpt("end@two.example")
        assert client.docmd("DATA")[0] == 354
        assert isinstance(client.sock, socket.socket)
        client.sock.sendall(HEADER + end + b"MAIL FROM:<smuggled@x.test>\r\n")
        # Where the first was no end of the message, this one is.
        client.sock.sendall(b"\r\n.\r\nQUIT\r\n")
        received = b""
        while chunk := client.sock.recv(4096):
            received += chunk
        client.close()
        return received


# What some servers take for the end of a message, and others for a part of it.
FALSE_ENDS = [b"\n.\n", b"\n.\r\n", b"\r\n.\n"]
NEVER_ENDS = [b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\n.\r"]


@pytest.mark.parametrize("end", [*FALSE_ENDS, *NEVER_ENDS])
def test_only_the_proper_end_ends_a_message(choosy: tuple[str, Server], end: bytes) -> None:
    setting, server = choosy
    replies = [line[:3] for line in answer(server, end).splitlines()]
    if setting == "lenient" and end in FALSE_ENDS:
        # The rest was taken for commands: MAIL, an empty one, a dot, QUIT.
        assert replies[:2] == [b"250", b"250"]
    elif setting == "strict" and b"\n" in end.replace(b"\r\n", b""):
        assert replies == [b"550", b"221"]
    else:
        assert replies == [b"250", b"221"]


def test_a_message_with_proper_line_ends_is_taken(choosy: tuple[str, Server]) -> None:
    _, server = choosy
    assert answer(server, b"\r\n.\r\n").startswith(b"250 2.0.0 Ok: queued")
