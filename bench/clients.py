"""Mail clients over plain sockets, written so that the client is not what is measured.

A client is a generator of steps: it yields what to send and how the reply ends, and is sent the
reply. ``run`` drives any number of them on one thread, over epoll. ``Dialogue`` is one client that
waits, where a measure is about one.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# Seconds that a server may leave a client without an answer.
_PATIENCE = 60.0
_CHUNK = 1 << 18


class BrokenMeasureError(Exception):
    """The server did not answer as it should, so that there is nothing to measure."""


class Endpoint(NamedTuple):
    """Where a client connects to: a port of this machine, with TLS from the start or without."""

    port: int
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    name: str = "mail.localhost"
    # LMTP: a Unix socket instead of a port.
    path: str = ""


Ending = Callable[[bytearray], bool]


class Connect(NamedTuple):
    """A step: open a new connection, and wait for the greeting."""

    endpoint: Endpoint
    ending: Ending


class Say(NamedTuple):
    """A step: send ``data``, and wait for a reply that ``ending`` recognises."""

    data: bytes
    ending: Ending


Client = Generator[Connect | Say, bytes, None]


def line(buffer: bytearray) -> bool:
    """End at the first line, as POP3's replies and IMAP's greeting do."""
    return buffer.endswith(b"\r\n")


def silence(buffer: bytearray) -> bool:
    """End at once: the server does not speak first, as over HTTP."""
    del buffer
    return True


def anything(buffer: bytearray) -> bool:
    """End as soon as the server says anything."""
    return bool(buffer)


def lines(count: int) -> Ending:
    """End after so many final SMTP reply lines: the replies to commands sent together."""
    final = re.compile(rb"^\d{3} .*\r\n", re.MULTILINE)

    def ending(buffer: bytearray) -> bool:
        return buffer.endswith(b"\r\n") and len(final.findall(buffer)) >= count

    return ending


def smtp_reply(buffer: bytearray) -> bool:
    """End at a line that has a space after its code (RFC 5321, section 4.2)."""
    start = buffer.rfind(b"\n", 0, len(buffer) - 1) + 1
    return buffer.endswith(b"\r\n") and buffer[start + 3 : start + 4] == b" "


def tagged(buffer: bytearray) -> bool:
    """End at IMAP's reply with the tag ``a``, or at a request to go on."""
    start = buffer.rfind(b"\n", 0, len(buffer) - 1) + 1
    return buffer.endswith(b"\r\n") and buffer.startswith((b"a ", b"+ "), start)


def expect(reply: bytes, start: bytes) -> None:
    """Raise ``BrokenMeasureError`` unless a line of the reply begins with ``start``."""
    if not reply.startswith(start) and b"\r\n" + start not in reply:
        raise BrokenMeasureError(f"the server answered {reply[-200:]!r} instead of {start!r}")


def imap_logins(endpoint: Endpoint, logins: Iterator[str], clock: Clock) -> Client:
    """Log in and out over IMAP, each time on a new connection."""
    while clock.begin():
        login = next(logins)
        expect((yield Connect(endpoint, line)), b"* OK")
        password = login.partition("@")[0]
        expect(
            (yield Say(b"a LOGIN %b %b\r\n" % (login.encode(), password.encode()), tagged)), b"a OK"
        )
        clock.end()
        yield Say(b"a LOGOUT\r\n", tagged)


def pop3_logins(endpoint: Endpoint, logins: Iterator[str], clock: Clock) -> Client:
    """Log in and out over POP3, each time on a new connection."""
    while clock.begin():
        login = next(logins)
        expect((yield Connect(endpoint, line)), b"+OK")
        password = login.partition("@")[0]
        expect((yield Say(b"USER %b\r\n" % login.encode(), line)), b"+OK")
        expect((yield Say(b"PASS %b\r\n" % password.encode(), line)), b"+OK")
        clock.end()
        yield Say(b"QUIT\r\n", line)


def smtp_sessions(endpoint: Endpoint, letters: Iterator[Letter], clock: Clock) -> Client:
    """Connect, log in, send one message and quit, each time on a new connection."""
    while clock.begin():
        letter = next(letters)
        expect((yield Connect(endpoint, smtp_reply)), b"220")
        expect((yield Say(b"EHLO bench\r\n", smtp_reply)), b"250")
        expect((yield Say(auth_plain(letter.sender), smtp_reply)), b"235")
        yield from _send(letter)
        yield Say(b"QUIT\r\n", smtp_reply)
        clock.end()


def smtp_stream(
    endpoint: Endpoint, letters: Iterator[Letter], clock: Clock, login: str | None
) -> Client:
    """Log in once, and send messages on that connection as long as there are any.

    Without a login it is LMTP (RFC 2033) that is spoken.
    """
    expect((yield Connect(endpoint, smtp_reply)), b"220")
    expect((yield Say(b"EHLO bench\r\n" if login else b"LHLO bench\r\n", smtp_reply)), b"250")
    if login:
        expect((yield Say(auth_plain(login), smtp_reply)), b"235")
    while clock.begin():
        letter = next(letters, None)
        if letter is None:
            break
        yield from _send(letter)
        clock.end()
    yield Say(b"QUIT\r\n", smtp_reply)


def _send(letter: Letter) -> Client:
    # Two round trips a message, as a client does that knows PIPELINING (RFC 2920).
    envelope = b"MAIL FROM:<%b>\r\nRCPT TO:<%b>\r\nDATA\r\n" % (
        letter.sender.encode(),
        letter.recipient.encode(),
    )
    expect((yield Say(envelope, lines(3))), b"354")
    expect((yield Say(letter.content, smtp_reply)), b"250")


class Letter(NamedTuple):
    """One message; ``content`` ends with the line that ends DATA."""

    sender: str
    recipient: str
    content: bytes


def letters(recipients: Iterator[str], size: int = 2000, sender: str = "") -> Iterator[Letter]:
    """Give a message of ``size`` octets to each of ``recipients``."""
    body = (b"x" * 70 + b"\r\n") * max(1, (size - 250) // 72)
    for number in itertools.count():
        recipient = next(recipients, None)
        if recipient is None:
            return
        head = (
            f"From: <bench@bench.example>\r\nTo: <{recipient}>\r\nSubject: letter {number}\r\n\r\n"
        )
        yield Letter(
            sender or f"sender{number % 100}@bench.example",
            recipient,
            head.encode() + body + b".\r\n",
        )


def auth_plain(login: str) -> bytes:
    """Give the SMTP command that logs in (RFC 4616)."""
    secret = f"\0{login}\0{login.partition('@')[0]}".encode()
    return b"AUTH PLAIN " + base64.b64encode(secret) + b"\r\n"


class Clock:
    """Counts and times what clients do, and says when to stop."""

    def __init__(self, seconds: float = _PATIENCE, count: int | None = None) -> None:
        """Let clients begin for ``seconds``, and ``count`` times at most."""
        self._seconds = seconds
        self._until: float | None = None
        self._left = count
        self._began: dict[object, float] = {}
        self.current: object = None
        self.latencies: list[float] = []

    def begin(self) -> bool:
        """Note that the current client begins; False when it is too late for that."""
        now = time.perf_counter()
        # The time runs from the first client on, not from before it.
        self._until = self._until or now + self._seconds
        if now > self._until or self._left == 0:
            return False
        if self._left is not None:
            self._left -= 1
        self._began[self.current] = now
        return True

    def end(self) -> None:
        """Note that the current client has got what it began."""
        self.latencies.append(time.perf_counter() - self._began[self.current])


@dataclass
class Outcome:
    """What a run gave: operations a second, seconds that each took, and the client's own share."""

    count: int
    seconds: float
    latencies: Sequence[float] = field(repr=False)
    # How much of one core the client took, from 0 to 1.
    client_share: float

    @property
    def rate(self) -> float:
        """Operations a second, from the first connection to the last reply."""
        return self.count / self.seconds


class _Connection:
    """One client's socket, and the step that it waits in."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.socket: socket.socket | None = None
        self.descriptor = -1
        self.outgoing = b""
        self.incoming = bytearray()
        self.ending: Ending = line
        self.is_shaking_hands = False


def run(clients: Sequence[Client], clock: Clock) -> Outcome:
    """Drive ``clients`` until all have ended.

    Raises ``BrokenMeasureError`` when a server does not answer as it should.
    """
    poll = select.epoll()
    waiting: dict[int, _Connection] = {}
    began, cpu_began = time.perf_counter(), time.process_time()
    try:
        for client in clients:
            _advance(_Connection(client), None, poll, waiting, clock)
        while waiting:
            events = poll.poll(_PATIENCE)
            if not events:
                raise BrokenMeasureError(f"no answer within {_PATIENCE:.0f} s")
            for descriptor, _ in events:
                connection = waiting[descriptor]
                if _is_answered(connection, poll):
                    reply = bytes(connection.incoming)
                    connection.incoming.clear()
                    _advance(connection, reply, poll, waiting, clock)
    finally:
        for connection in waiting.values():
            if connection.socket:
                connection.socket.close()
        poll.close()
    seconds = time.perf_counter() - began
    share = (time.process_time() - cpu_began) / seconds
    return Outcome(len(clock.latencies), seconds, clock.latencies, share)


def _advance(
    connection: _Connection,
    reply: bytes | None,
    poll: select.epoll,
    waiting: dict[int, _Connection],
    clock: Clock,
) -> None:
    """Let a client go on, with the reply that it waited for, to its next step."""
    clock.current = connection
    try:
        step = next(connection.client) if reply is None else connection.client.send(reply)
    except StopIteration:
        _close(connection, poll, waiting)
        return
    if isinstance(step, Connect):
        _close(connection, poll, waiting)
        connection.socket = opened(step.endpoint)
        connection.socket.setblocking(False)
        connection.descriptor = connection.socket.fileno()
        connection.is_shaking_hands = step.endpoint.tls is not None
        connection.outgoing = b""
        waiting[connection.descriptor] = connection
        poll.register(connection.descriptor, select.EPOLLIN)
    else:
        connection.outgoing = step.data
    connection.ending = step.ending
    _progress(connection, poll)


def _close(connection: _Connection, poll: select.epoll, waiting: dict[int, _Connection]) -> None:
    if connection.socket:
        del waiting[connection.descriptor]
        poll.unregister(connection.descriptor)
        connection.socket.close()
        connection.socket = None


def _progress(connection: _Connection, poll: select.epoll) -> None:
    """Go on with the handshake and with sending, as far as the socket allows."""
    assert connection.socket is not None
    try:
        if connection.is_shaking_hands:
            assert isinstance(connection.socket, ssl.SSLSocket)
            connection.socket.do_handshake()
            connection.is_shaking_hands = False
        while connection.outgoing:
            sent = connection.socket.send(connection.outgoing[:_CHUNK])
            connection.outgoing = connection.outgoing[sent:]
            if not connection.outgoing:
                poll.modify(connection.descriptor, select.EPOLLIN)
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
        wanted = select.EPOLLIN | (select.EPOLLOUT if connection.outgoing else 0)
        poll.modify(connection.descriptor, wanted)


def _is_answered(connection: _Connection, poll: select.epoll) -> bool:
    assert connection.socket is not None
    if connection.is_shaking_hands or connection.outgoing:
        _progress(connection, poll)
        if connection.is_shaking_hands:
            return False
    try:
        while True:
            chunk = connection.socket.recv(65536)
            if not chunk:
                raise BrokenMeasureError(
                    f"the server closed the connection after {bytes(connection.incoming[-200:])!r}"
                )
            connection.incoming += chunk
            if not isinstance(connection.socket, ssl.SSLSocket) or not connection.socket.pending():
                break
    except (ssl.SSLWantReadError, BlockingIOError):
        pass
    return connection.ending(connection.incoming)


def opened(endpoint: Endpoint) -> socket.socket:
    """Connect; with TLS, the handshake is left to do."""
    if endpoint.path:
        local = socket.socket(socket.AF_UNIX)
        local.connect(endpoint.path)
        return local
    plain = socket.create_connection((endpoint.host, endpoint.port), _PATIENCE)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if endpoint.tls is None:
        return plain
    return endpoint.tls.wrap_socket(
        plain, server_hostname=endpoint.name, do_handshake_on_connect=False
    )


class Dialogue:
    """One client that waits for each reply."""

    def __init__(self, endpoint: Endpoint, ending: Ending) -> None:
        """Connect, and read the greeting."""
        self._socket = opened(endpoint)
        self._socket.settimeout(_PATIENCE)
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.do_handshake()
        self.greeting = self.wait(ending)

    def say(self, data: bytes, ending: Ending = tagged) -> bytes:
        """Send, and give the reply."""
        self.send(data)
        return self.wait(ending)

    def send(self, data: bytes) -> None:
        """Send, and do not wait."""
        self._socket.sendall(data)

    def wait(self, ending: Ending) -> bytes:
        """Read until ``ending`` says that this is all."""
        buffer = bytearray()
        while not ending(buffer):
            chunk = self._socket.recv(_CHUNK)
            if not chunk:
                raise BrokenMeasureError(
                    f"the server closed the connection after {bytes(buffer[-200:])!r}"
                )
            buffer += chunk
        return bytes(buffer)

    def close(self) -> None:
        """Close the connection without a word."""
        self._socket.close()


def imap_session(endpoint: Endpoint, login: str) -> Dialogue:
    """Log in to IMAP, and select the INBOX."""
    dialogue = Dialogue(endpoint, line)
    password = login.partition("@")[0]
    expect(dialogue.say(b"a LOGIN %b %b\r\n" % (login.encode(), password.encode())), b"a OK")
    expect(dialogue.say(b"a SELECT INBOX\r\n"), b"a OK")
    return dialogue


def smtp_session(endpoint: Endpoint, login: str) -> Dialogue:
    """Log in to SMTP."""
    dialogue = Dialogue(endpoint, smtp_reply)
    expect(dialogue.say(b"EHLO bench\r\n", smtp_reply), b"250")
    expect(dialogue.say(auth_plain(login), smtp_reply), b"235")
    return dialogue


def new_logins(prefix: str) -> Iterator[str]:
    """Give an address that was never used before, every time."""
    unique = f"{os.getpid()}-{time.monotonic_ns():x}"
    return (f"{prefix}{number}@new-{unique}.example" for number in itertools.count())
