"""The kinds of value that a setting can have: how each is read from text and shown again.

Every kind reads *text*, because that is what the environment gives; a YAML scalar is turned into
the text that a person would have typed. A value that does not fit raises ``ValueError`` with a
message that completes the sentence "... is wrong: ".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devmail_config.addresses import Address, AddressError

# RFC 1123, section 2.1: letters, digits and hyphens, no hyphen at either end, 63 octets a label.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
# RFC 1035, section 2.3.4: 255 octets on the wire, which is 253 characters of text.
_HOSTNAME_LENGTH = 253

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
_BYTES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
# Postfix keeps sizes in a signed long, some of its tools in a signed int; times in an int.
_INT_MAX = 2**31 - 1
_HIGHEST_PORT = 65535


@dataclass(frozen=True)
class Kind:
    """What a setting's value may be; ``name`` is shown in the reference of settings."""

    name: str
    parse: Callable[[str], Any]
    example: str
    show: Callable[[Any], str] = str
    # Whether a YAML value may also be a mapping; it is read as lines of key=value.
    is_mapping: bool = False


def _hostname(text: str) -> str:
    name = text.lower().removesuffix(".")
    if len(name) > _HOSTNAME_LENGTH or not _HOSTNAME.fullmatch(name):
        raise ValueError("not a host name (letters, digits, hyphens and dots)")
    if name.rpartition(".")[2].isdigit():
        # RFC 3696, section 2: so that no name looks like an IPv4 address.
        raise ValueError("not a host name: its last part is a number")
    return name


def _domain(text: str) -> str:
    """Read a domain whose labels may be U-labels, and give it in A-labels (RFC 5890)."""
    if text.isascii():
        return _hostname(text)
    try:
        return _hostname(Address.parse(f"x@{text}").domain)
    except AddressError:
        raise ValueError("not an internationalised domain (RFC 5890)") from None


def _ip_address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError("not an IPv4 or IPv6 address") from None
    if "%" in text:
        raise ValueError("an IPv6 address with a zone, which only this machine could make sense of")
    return str(address)


def _hostname_or_ip(text: str) -> str:
    try:
        return _ip_address(text)
    except ValueError:
        try:
            return _hostname(text)
        except ValueError:
            raise ValueError("neither a host name nor an IP address") from None


def _origin(text: str) -> str:
    """Read where web pages are from (RFC 6454), and write it as a Content-Security-Policy does."""
    match = re.fullmatch(r"(https?)://([^\s/?#@\\:*'\";,]+)(?::(\d{1,5}))?/?", text, re.IGNORECASE)
    if not match:
        if re.match(r"https?://\[", text, re.IGNORECASE):
            raise ValueError("an IPv6 address, which no Content-Security-Policy can name")
        raise ValueError("not http:// or https:// with a host and no path")
    scheme, host, port = match[1].lower(), match[2], match[3]
    try:
        host = _ip_address(host)
    except ValueError:
        host = _domain(host)
    if port is None:
        return f"{scheme}://{host}"
    if not 1 <= int(port) <= _HIGHEST_PORT:
        raise ValueError(f"an origin whose port is not from 1 to {_HIGHEST_PORT}")
    return f"{scheme}://{host}:{int(port)}"


def _boolean(text: str) -> bool:
    # Two closed lists: a word outside of them must never quietly mean "no".
    if text.lower() in {"yes", "true", "on", "1"}:
        return True
    if text.lower() in {"no", "false", "off", "0"}:
        return False
    raise ValueError("neither yes nor no")


def _duration(text: str) -> int:
    match = re.fullmatch(r"(\d{1,9})\s*([smh]?)", text, re.ASCII)
    if not match or int(match[1]) == 0:
        raise ValueError("not a duration of at least one second")
    seconds = int(match[1]) * _SECONDS[match[2]]
    if seconds > _INT_MAX:
        raise ValueError("longer than the 68 years that Postfix can count")
    return seconds


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,12})\s*([kmg]?)(?:i?b)?", text.lower(), re.ASCII)
    if not match or int(match[1]) == 0:
        raise ValueError("not a size of at least one byte")
    size = int(match[1]) * _BYTES[match[2]]
    if size > _INT_MAX:
        raise ValueError("larger than the 2 GiB that Postfix can handle")
    return size


def _show_size(size: int) -> str:
    for suffix in ("g", "m", "k"):
        if size % _BYTES[suffix] == 0:
            return f"{size // _BYTES[suffix]}{suffix.upper()}"
    return str(size)


def _path(text: str) -> Path:
    if not text:
        raise ValueError("empty")
    if not is_plain_path(text):
        raise ValueError("a path with a character other than letters, digits and . _ - + = @ /")
    return Path(text)


def is_plain_path(text: str) -> bool:
    """Tell whether no daemon's configuration gives a meaning to a character of this path."""
    return re.fullmatch(r"[\w.+=@/-]+", text) is not None


def integer(lowest: int, highest: int) -> Kind:
    """Build the kind of whole numbers from ``lowest`` to ``highest``."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?\d{1,9}", text, re.ASCII) or not lowest <= int(text) <= highest:
            raise ValueError(f"not a whole number from {lowest} to {highest}")
        return int(text)

    return Kind(f"integer {lowest}-{highest}", parse, str(lowest))


def choice(*words: str) -> Kind:
    """Build the kind that is one of ``words``."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"not one of: {', '.join(words)}")
        return text.lower()

    return Kind(" or ".join(words), parse, words[0])


def list_of(kind: Kind, plural: str, example: str, *, may_be_empty: bool = True) -> Kind:
    """Build the kind of lists of ``kind``, written with commas or spaces in between."""

    def parse(text: str) -> tuple[Any, ...]:
        parsed = []
        for item in re.split(r"[\s,]+", text.strip()):
            if not item:
                continue
            try:
                parsed.append(kind.parse(item))
            except ValueError as error:
                raise ValueError(f"{item!r} is {error}") from None
        if not parsed and not may_be_empty:
            raise ValueError("an empty list")
        return tuple(dict.fromkeys(parsed))

    return Kind(f"list of {plural}", parse, example, lambda items: ", ".join(map(str, items)))


def or_none(kind: Kind) -> Kind:
    """Build the kind that is ``kind``, or "none" for what there shall not be."""

    def parse(text: str) -> Any:
        return None if text.lower() in {"", "none"} else kind.parse(text)

    def show(value: Any) -> str:
        return "none" if value is None else kind.show(value)

    return Kind(f"{kind.name} or none", parse, kind.example, show)


HOSTNAME = Kind("host name", _hostname, "mail.localhost")
DOMAIN = Kind("domain", _domain, "bad-domain.com")
HOSTNAME_OR_IP = Kind("host name or IP address", _hostname_or_ip, "mail.example.test")
IP_ADDRESS = Kind("IP address", _ip_address, "127.0.0.1")
ORIGIN = Kind("origin", _origin, "https://cdn.example")
BOOLEAN = Kind("yes or no", _boolean, "yes", lambda value: "yes" if value else "no")
DURATION = Kind("duration", _duration, "90s", lambda seconds: f"{seconds}s")
SIZE = Kind("size", _size, "64M", _show_size)
PATH = Kind("path", _path, "/srv/devmail.pem")
# devmail may take over what is in such a place, see ownership.py.
DIRECTORY = Kind("directory", _path, "/srv/devmail")
# Shown in no message and in no log.
SECRET = Kind("text", str, "correct horse", lambda text: "(not shown)" if text else "")
