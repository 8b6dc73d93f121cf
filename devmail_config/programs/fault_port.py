"""One connection to a fault port that stands between a client and an ordinary port.

Started by Postfix's spawn(8), with the client's connection as standard input.
"""

from __future__ import annotations

import re
import selectors
import socket
from collections.abc import Sequence

_CHUNK = 65536
# After so many octets in one direction the connection is cut: a greeting and a login fit, most
# messages do not.
CUT_AFTER = 4096

# Replies that list capabilities, by how they begin, and what is taken out of them. A reply arrives
# in one piece, and no message begins like one.
_LISTS = (
    (re.compile(rb"250-"), re.compile(rb"250-STARTTLS\r\n")),
    (re.compile(rb"\+OK\r\nCAPA\r\n"), re.compile(rb"(?m:^)(STLS|UIDL)\r\n")),
    (
        re.compile(rb"(\* |\S+ OK \[)(OK \[)?CAPABILITY "),
        re.compile(rb" (STARTTLS|IDLE)(?=[\] \r])"),
    ),
)
# The commands themselves become ones that no server knows.
_COMMAND = re.compile(rb"(\S+ )?(STARTTLS|IDLE|STLS|UIDL)( \d+)?\r\n", re.IGNORECASE)


def main(arguments: Sequence[str]) -> int:
    """Pass on what comes; ``arguments``: bare or cut, host and port of the ordinary port."""
    breakage, host, port = arguments
    client = socket.socket(fileno=0)
    server = socket.create_connection((host, int(port)))
    relay(breakage, client, server)
    return 0


def relay(breakage: str, client: socket.socket, server: socket.socket) -> None:
    """Pass octets on between two connections until either side ends, or has to."""
    selector = selectors.DefaultSelector()
    selector.register(client, selectors.EVENT_READ, server)
    selector.register(server, selectors.EVENT_READ, client)
    passed = {client: 0, server: 0}
    while True:
        for key, _ in selector.select():
            source = client if key.data is server else server
            chunk = source.recv(_CHUNK)
            if not chunk:
                return
            if breakage == "cut":
                chunk = chunk[: CUT_AFTER - passed[source]]
            else:
                chunk = without_command(chunk) if source is client else without_capability(chunk)
            key.data.sendall(chunk)
            passed[source] += len(chunk)
            if breakage == "cut" and passed[source] >= CUT_AFTER:
                return


def without_command(chunk: bytes) -> bytes:
    """Spoil a command that is on its own in what the client has sent."""
    command = _COMMAND.fullmatch(chunk)
    return chunk[: command.start(2)] + b"X" + chunk[command.start(2) :] if command else chunk


def without_capability(chunk: bytes) -> bytes:
    """Take capabilities out of a reply that lists them."""
    for beginning, hidden in _LISTS:
        if beginning.match(chunk):
            return hidden.sub(b"", chunk)
    return chunk
