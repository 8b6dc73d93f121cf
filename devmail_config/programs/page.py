"""The part of the web page that depends on an address: its login, and files for mail clients.

Answers one request that nginx passes on over SCGI (https://python.ca/scgi/protocol.txt) by filling
in one of the rendered templates. Standard input and output are the connection.
"""

from __future__ import annotations

import contextlib
import html
import re
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import BinaryIO
from urllib.parse import parse_qs, quote

from devmail_config.addresses import Address, AddressError

# Enough for Outlook's question, whose body is a few hundred bytes.
_BODY_BYTES = 65536
# nginx passes on less than 100 kB of headers.
_HEADER_DIGITS = 6
_EMAIL_ADDRESS = re.compile(r"<EMailAddress>\s*([^<]*?)\s*</EMailAddress>")
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "devmail")

# By the end of the path: the template, the template for what is no address, and the type.
_ANSWERS = {
    "/lookup/en": ("lookup.en.html", "refusal.en.html", "text/html"),
    "/lookup/ru": ("lookup.ru.html", "refusal.ru.html", "text/html"),
    "/profile.mobileconfig": (
        "profile.mobileconfig",
        "refusal.en.html",
        "application/x-apple-aspen-config",
    ),
    "/autodiscover/autodiscover.xml": ("autodiscover.xml", "refusal.en.html", "application/xml"),
}


class BadRequestError(Exception):
    """This is no request that nginx would pass on; the text says why."""


def main(arguments: Sequence[str]) -> int:
    """Answer the request on standard input; ``arguments``: the directory of the templates."""
    (directory,) = arguments
    # Whoever asked may be gone, which Python's own standard output would complain about at the end.
    with (
        contextlib.suppress(BrokenPipeError, ConnectionResetError),
        open(sys.stdout.fileno(), "wb", closefd=False) as output,
    ):
        try:
            response = answer(*read_request(sys.stdin.buffer), Path(directory))
        except BadRequestError as error:
            response = _response("400 Bad Request", "text/plain", f"{error}\n")
        output.write(response)
    return 0


def read_request(stream: BinaryIO) -> tuple[dict[str, str], bytes]:
    """Read the headers, which are a netstring of names and values, and the body.

    Raises ``BadRequestError``.
    """
    length = b""
    while (digit := stream.read(1)).isdigit():
        length += digit
        if len(length) > _HEADER_DIGITS:
            raise BadRequestError("the headers are too long")
    if not length or digit != b":":
        raise BadRequestError("this is not SCGI: it does not begin with a length and a colon")
    block = stream.read(int(length))
    if len(block) < int(length) or stream.read(1) != b",":
        raise BadRequestError("the headers have another length than they say")
    words = block.decode(errors="replace").split("\0")
    headers = dict(zip(words[::2], words[1::2], strict=False))
    for name in ("CONTENT_LENGTH", "DOCUMENT_URI", "QUERY_STRING"):
        if name not in headers:
            raise BadRequestError(f"the header {name} is missing")
    # Not str.isdigit(), which knows digits that int() does not.
    if not re.fullmatch("[0-9]{1,18}", headers["CONTENT_LENGTH"]):
        raise BadRequestError("CONTENT_LENGTH is not a number")
    return headers, stream.read(min(int(headers["CONTENT_LENGTH"]), _BODY_BYTES))


def answer(headers: Mapping[str, str], body: bytes, directory: Path) -> bytes:
    """Give the whole response for a request."""
    path = headers["DOCUMENT_URI"].lower()
    if path not in _ANSWERS:
        return _response("404 Not Found", "text/plain", "There is nothing here.\n")
    template, refusal, content_type = _ANSWERS[path]
    written_by_outlook = _EMAIL_ADDRESS.search(body.decode(errors="replace"))
    if written_by_outlook:
        text = html.unescape(written_by_outlook[1])
    else:
        text = parse_qs(headers["QUERY_STRING"], errors="replace").get("address", [""])[0].strip()
    status = "200 OK"
    try:
        values = _values(Address.parse(text))
    except AddressError as error:
        values = {"reason": str(error)}
        template, content_type = refusal, "text/html"
        if not path.startswith("/lookup/"):
            status = "404 Not Found"
    content = Template((directory / template).read_text(encoding="utf-8")).substitute(
        {name: html.escape(value) for name, value in values.items()}
    )
    return _response(status, content_type, content)


def _response(status: str, content_type: str, content: str) -> bytes:
    head = f"Status: {status}\r\nContent-Type: {content_type}; charset=utf-8\r\n\r\n"
    return (head + content).encode(errors="replace")


def _values(address: Address) -> dict[str, str]:
    identity = uuid.uuid5(_NAMESPACE, address.mailbox)
    return {
        "written": address.written,
        "password": address.password,
        "directory": address.directory,
        "query": quote(address.written, safe="@"),
        "uuid": str(identity),
        "uuid_ca": str(uuid.uuid5(identity, "ca")),
        "uuid_mail": str(uuid.uuid5(identity, "mail")),
    }
