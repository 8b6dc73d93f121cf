"""Small clients over the standard library's, for a server of the tests."""

from __future__ import annotations

import base64
import contextlib
import imaplib
import poplib
import smtplib
from collections.abc import Iterator
from typing import Protocol

from tests.helpers.server import HOSTNAME
from tests.helpers.wait import wait_for

LOOPBACK = "127.0.0.1"


class Reachable(Protocol):
    """A server on the loopback address, however it was started."""

    def port(self, listener: str) -> int: ...


@contextlib.contextmanager
def smtp(server: Reachable, login: str = "", password: str | None = None) -> Iterator[smtplib.SMTP]:
    """Connect to port 25 in the clear; log in if a login is given."""
    with smtplib.SMTP(LOOPBACK, server.port("smtp"), timeout=20) as client:
        client.ehlo()
        if login:
            sasl_plain(client, login, local_part(login) if password is None else password)
        yield client


def sasl_plain(client: smtplib.SMTP, login: str, password: str) -> None:
    """Log in with any UTF-8 text, which smtplib's own ``login`` cannot."""
    secret = base64.b64encode(f"\0{login}\0{password}".encode()).decode()
    code, reply = client.docmd("AUTH", f"PLAIN {secret}")
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, reply)


def send(server: Reachable, sender: str, recipient: str, subject: str, body: str = "hello") -> None:
    """Send a small message, logged in as its sender."""
    message = f"From: {sender}\r\nTo: {recipient}\r\nSubject: {subject}\r\n\r\n{body}\r\n"
    with smtp(server, sender) as client:
        client.sendmail(sender, [recipient], message)


@contextlib.contextmanager
def imap(server: Reachable, login: str, password: str | None = None) -> Iterator[imaplib.IMAP4]:
    """Log in to IMAP in the clear, with any UTF-8 text."""
    client = imaplib.IMAP4(LOOPBACK, server.port("imap"), timeout=20)
    secret = local_part(login) if password is None else password
    try:
        client.authenticate("PLAIN", lambda _: f"\0{login}\0{secret}".encode())
        yield client
    finally:
        try:
            client.logout()
        except (OSError, imaplib.IMAP4.error):
            # Then it has not closed the connection.
            with contextlib.suppress(OSError):
                client.shutdown()


@contextlib.contextmanager
def pop3(server: Reachable, login: str, password: str | None = None) -> Iterator[poplib.POP3]:
    """Log in to POP3 in the clear."""
    client = poplib.POP3(LOOPBACK, server.port("pop3"), timeout=20)
    try:
        client.user(login)
        client.pass_(local_part(login) if password is None else password)
        yield client
        client.quit()
    finally:
        client.close()


def messages(server: Reachable, login: str, password: str | None = None) -> list[bytes]:
    """Read every message of a mailbox over IMAP, oldest first."""
    with imap(server, login, password) as client:
        client.select("INBOX", readonly=True)
        _, found = client.search(None, "ALL")
        result = []
        for number in found[0].split():
            _, data = client.fetch(number, "(BODY.PEEK[])")
            part = data[0]
            assert isinstance(part, tuple)
            result.append(part[1])
        return result


def wait_for_message(
    server: Reachable, login: str, subject: str, timeout: float = 15.0, password: str | None = None
) -> bytes:
    """Wait for the message whose subject line contains ``subject``."""

    def look() -> bytes | None:
        needle = subject.encode()
        for message in messages(server, login, password):
            head = message.partition(b"\r\n\r\n")[0]
            if any(line.startswith(b"Subject:") and needle in line for line in head.split(b"\r\n")):
                return message
        return None

    found = wait_for(look, f"a message {subject!r} for {login}", timeout, interval=0.05)
    assert found is not None
    return found


def local_part(login: str) -> str:
    """The password of an ordinary address."""
    return login.rpartition("@")[0]


__all__ = [
    "HOSTNAME",
    "LOOPBACK",
    "imap",
    "local_part",
    "messages",
    "pop3",
    "sasl_plain",
    "send",
    "smtp",
    "wait_for_message",
]
