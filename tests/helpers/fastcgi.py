"""A client of FastCGI (https://fastcgi-archives.github.io/FastCGI_Specification.html).

It can run scripts in the webmail's PHP that nginx would not ask it for.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_BEGIN_REQUEST, _END_REQUEST, _PARAMS, _STDIN, _STDOUT, _STDERR = 1, 3, 4, 5, 6, 7
_RESPONDER = 1


def _record(kind: int, content: bytes) -> bytes:
    return struct.pack("!BBHHBx", 1, kind, 1, len(content), 0) + content


def _length(octets: bytes) -> bytes:
    return struct.pack("!I", len(octets) | 1 << 31)


def _records(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    while len(head := stream.read(8)) == 8:
        _, kind, _, length, padding = struct.unpack("!BBHHBx", head)
        content = stream.read(length)
        stream.read(padding)
        yield kind, content
        if kind == _END_REQUEST:
            return


def run_script(path: Path, script: Path, timeout: float = 60) -> tuple[str, str]:
    """Have the PHP behind the socket ``path`` run a script: what it writes, and its errors."""
    parameters = {
        "SCRIPT_FILENAME": str(script),
        "SCRIPT_NAME": f"/{script.name}",
        "DOCUMENT_ROOT": str(script.parent),
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": "/",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "QUERY_STRING": "",
    }
    words = b"".join(
        _length(name.encode()) + _length(value.encode()) + name.encode() + value.encode()
        for name, value in parameters.items()
    )
    written = {_STDOUT: b"", _STDERR: b""}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        connection.sendall(
            _record(_BEGIN_REQUEST, struct.pack("!HB5x", _RESPONDER, 0))
            + b"".join(_record(_PARAMS, content) for content in (words, b""))
            + _record(_STDIN, b"")
        )
        with connection.makefile("rb") as stream:
            for kind, content in _records(stream):
                if kind in written:
                    written[kind] += content
    head, _, body = written[_STDOUT].decode(errors="replace").partition("\r\n\r\n")
    return body or head, written[_STDERR].decode(errors="replace")
