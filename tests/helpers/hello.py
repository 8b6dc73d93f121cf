"""The first message of a TLS handshake, made by hand, and what a server answers to it.

No library offers all that a server has to refuse: suites for export, RC4, SSL 3.0.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

SSL_3_0, TLS_1_0, TLS_1_1, TLS_1_2 = 0x0300, 0x0301, 0x0302, 0x0303

# Every place where IANA's registry has suites of TLS 1.2 and before, and the private ones that were
# in use; without those of TLS 1.3 and the two numbers that are signals and no suites.
ALL_SUITES = frozenset(
    {*range(0x00FF), *range(0xC000, 0xC100), *range(0xCC00, 0xCD00), *range(0xD000, 0xD100)}
    | {0xFEFE, 0xFEFF, 0xFFE0, 0xFFE1}
)
# RFC 8422: X25519, P-256, P-384, P-521; and curves of 160 to 192 bits.
GOOD_GROUPS = (29, 23, 24, 25)
WEAK_GROUPS = (1, 2, 3, 15, 16, 17, 18, 19)
# RFC 8446, section 4.2.3: ECDSA and RSA with SHA-256, RSA-PSS; and with SHA-1 and MD5.
GOOD_SIGNATURES = (0x0403, 0x0401, 0x0804, 0x0503, 0x0501)
WEAK_SIGNATURES = (0x0203, 0x0201, 0x0101)

_ALERT, _HANDSHAKE, _SERVER_HELLO = 21, 22, 2


class Chosen(NamedTuple):
    """The version and the suite that a server has chosen."""

    version: int
    suite: int


Connect = Callable[[], socket.socket]


def offer(
    connect: Connect,
    suites: Iterable[int],
    *,
    version: int = TLS_1_2,
    groups: Iterable[int] = GOOD_GROUPS,
    signatures: Iterable[int] = GOOD_SIGNATURES,
) -> Chosen | None:
    """Offer suites to a server, and give what it chose; None if it refused all of them."""
    with connect() as connection:
        connection.sendall(_client_hello(version, suites, groups, signatures))
        try:
            kind, body = _record(connection)
        except (EOFError, ConnectionResetError):
            # Dovecot closes the connection, and sends no alert.
            return None
    if kind == _ALERT:
        return None
    assert (kind, body[0]) == (_HANDSHAKE, _SERVER_HELLO), body
    (chosen_version,) = struct.unpack_from(">H", body, 4)
    after_session = 4 + 2 + 32 + 1 + body[38]
    (suite,) = struct.unpack_from(">H", body, after_session)
    return Chosen(chosen_version, suite)


def accepted(connect: Connect, suites: Collection[int] = ALL_SUITES) -> set[int]:
    """Find every suite of TLS 1.2 that a server takes: offer all but those that it has chosen."""
    found: set[int] = set()
    while chosen := offer(connect, set(suites) - found):
        assert chosen.version == TLS_1_2
        assert chosen.suite not in found
        found.add(chosen.suite)
    return found


def _client_hello(
    version: int, suites: Iterable[int], groups: Iterable[int], signatures: Iterable[int]
) -> bytes:
    """Write the message of RFC 5246, section 7.4.1.2, in one record."""
    extensions = b"".join(
        _number(kind) + _vector(content)
        for kind, content in (
            (10, _vector(_numbers(groups))),
            (11, b"\x01\x00"),
            (13, _vector(_numbers(signatures))),
        )
    )
    body = (
        _number(version)
        + os.urandom(32)
        + b"\0"
        + _vector(_numbers(sorted(suites)))
        # No compression.
        + b"\x01\x00"
        + (_vector(extensions) if version > SSL_3_0 else b"")
    )
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return bytes([_HANDSHAKE]) + _number(min(version, TLS_1_0)) + _vector(message)


def _numbers(values: Iterable[int]) -> bytes:
    return b"".join(map(_number, values))


def _number(value: int) -> bytes:
    return value.to_bytes(2, "big")


def _vector(content: bytes) -> bytes:
    return _number(len(content)) + content


def _record(connection: socket.socket) -> tuple[int, bytes]:
    kind, _, length = struct.unpack(">BHH", _exactly(connection, 5))
    return kind, _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    return b"".join(_pieces(connection, count))


def _pieces(connection: socket.socket, count: int) -> Iterator[bytes]:
    while count:
        piece = connection.recv(count)
        if not piece:
            raise EOFError
        count -= len(piece)
        yield piece
