r"""Text for a person: it steers no terminal and forges no line.

Whoever can reach a port chooses part of what the log, the queue and the messages of a command
repeat. The table below alone says which characters are not shown as they are: the log's filter
(``templates/libexec/log-filter.pl.j2``) is rendered from it, and all that commands print goes
through ``say``. The log has ``\xNN`` for each octet, the commands what Python writes in a string.
"""

from __future__ import annotations

import itertools
import re
import sys
from typing import TextIO

# Everything in Unicode's categories Cc (controls), Cf (invisible, or changes the direction of what
# follows), Zl and Zp (line and paragraph separators), apart from the tab, and what stands between
# some of it without being a character yet. Each as first and last.
_HIDDEN = (
    *((0x00, 0x08), (0x0A, 0x1F), (0x7F, 0x9F)),
    *((0xAD, 0xAD), (0x600, 0x605), (0x61C, 0x61C), (0x6DD, 0x6DD), (0x70F, 0x70F)),
    *((0x890, 0x891), (0x8E2, 0x8E2), (0x180E, 0x180E)),
    *((0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F), (0xFEFF, 0xFEFF), (0xFFF0, 0xFFFB)),
    *((0x110BD, 0x110BD), (0x110CD, 0x110CD), (0x13430, 0x1343F), (0x1BCA0, 0x1BCA3)),
    *((0x1D173, 0x1D17A), (0xE0000, 0xE007F)),
)
# What octets that are not UTF-8 have become in Python.
_SURROGATES = (0xD800, 0xDFFF)
_HIDDEN_CHARACTER = re.compile(
    "[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in (*_HIDDEN, _SURROGATES)) + "]"
)


def printable(text: str) -> str:
    """Give ``text`` as one line that any terminal shows as it is."""
    return _HIDDEN_CHARACTER.sub(lambda match: repr(match[0])[1:-1], text)


def printable_json(text: str) -> str:
    """Give JSON that means the same, and that any terminal shows as it is."""
    # Such characters stand in strings alone, where each is as good as its escapes (RFC 8259).
    return _HIDDEN_CHARACTER.sub(lambda match: _escaped_for_json(match[0]), text)


def _escaped_for_json(character: str) -> str:
    octets = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{octets[at : at + 2].hex()}" for at in range(0, len(octets), 2))


def say(*lines: str, stream: TextIO | None = None) -> None:
    """Print lines, on standard output unless said otherwise; a new line inside of one is shown."""
    stream = stream or sys.stdout
    # Letters that the terminal's encoding has not are escaped, too.
    encoding = stream.encoding or "utf-8"
    for line in lines:
        text = printable(line).encode(encoding, "backslashreplace").decode(encoding)
        stream.write(f"{text}\n")
    stream.flush()


def hidden_octets() -> str:
    """Write the table as a regular expression that looks at the octets of UTF-8."""
    characters = (chr(code) for first, last in _HIDDEN for code in range(first, last + 1))
    words = []
    for start, group in itertools.groupby(map(str.encode, characters), lambda octets: octets[:-1]):
        ends = [octets[-1] for octets in group]
        words.append("".join(map(_escaped, start)) + _octet_class(ends))
    return "|".join(words)


def _octet_class(octets: list[int]) -> str:
    runs = itertools.groupby(enumerate(octets), lambda pair: pair[1] - pair[0])
    ranges = [[octet for _, octet in run] for _, run in runs]
    return "[" + "".join(f"{_escaped(run[0])}-{_escaped(run[-1])}" for run in ranges) + "]"


def _escaped(octet: int) -> str:
    return f"\\x{octet:02x}"
