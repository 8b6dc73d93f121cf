"""The part of the web page that depends on an address: its login, and files for mail clients.

Answers one request that nginx passes on over SCGI (https://python.ca/scgi/protocol.txt) by filling
in one of the rendered templates. Standard input and output are the connection.
"""

from __future__ import annotations

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


def main(arguments: Sequence[str]) -> int:
    """Answer the request on standard input; ``arguments``: the directory of the templates."""
    (directory,) = arguments
    headers, body = read_request(sys.stdin.buffer)
    sys.stdout.buffer.write(answer(headers, body, Path(directory)))
    return 0


def read_request(stream: BinaryIO) -> tuple[dict[str, str], bytes]:
    """Read the headers, which are a netstring of names and values, and the body."""
    length = b""
    while (digit := stream.read(1)).isdigit():
        length += digit
    words = stream.read(int(length)).decode(errors="replace").split("\0")
    stream.read(1)  # the comma that ends a netstring
    headers = dict(zip(words[::2], words[1::2], strict=False))
    return headers, stream.read(min(int(headers["CONTENT_LENGTH"]), _BODY_BYTES))


def answer(headers: Mapping[str, str], body: bytes, directory: Path) -> bytes:
    """Give the whole response for a request."""
    template, refusal, content_type = _ANSWERS[headers["DOCUMENT_URI"].lower()]
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
        if "lookup" not in headers["DOCUMENT_URI"]:
            status = "404 Not Found"
    content = Template((directory / template).read_text(encoding="utf-8")).substitute(
        {name: html.escape(value) for name, value in values.items()}
    )
    head = f"Status: {status}\r\nContent-Type: {content_type}; charset=utf-8\r\n\r\n"
    return (head + content).encode()


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
