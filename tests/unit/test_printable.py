"""Which characters are shown, judged by Python's own table of them."""

from __future__ import annotations

import io
import json
import unicodedata

import pytest

from devmail_config.printable import printable, printable_json, say
from tests.helpers.octets import LETTERS

# Controls, format characters, separators of lines and of paragraphs, what was not UTF-8.
CATEGORIES = {"Cc", "Cf", "Zl", "Zp", "Cs"}
CODES = range(0x110000)


def test_exactly_what_acts_is_escaped() -> None:
    hidden = {code for code in CODES if printable(chr(code)) != chr(code)}
    acting = {code for code in CODES if unicodedata.category(chr(code)) in CATEGORIES}
    assert acting - hidden == {ord("\t")}
    # Between those are some that are no characters yet.
    assert {unicodedata.category(chr(code)) for code in hidden - acting} == {"Cn"}
    assert len(hidden - acting) < 100


def test_what_is_escaped_is_ascii() -> None:
    for code in CODES:
        text = printable(chr(code))
        assert text == chr(code) or (text.isascii() and text.isprintable()), hex(code)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\r\n", r"a\nb\r\n"),
        ("\x9b\u202e\ufeff", r"\x9b\u202e\ufeff"),
        (b"\xff\xc0\xaf".decode(errors="surrogateescape"), r"\udcff\udcc0\udcaf"),
        ("\U000e0041", r"\U000e0041"),
        ("a\tb", "a\tb"),
        (LETTERS, LETTERS),
        ("", ""),
    ],
)
def test_it_is_written_as_python_writes_it(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_json_means_the_same() -> None:
    for start in range(0, len(CODES), 0x100):
        text = json.dumps(
            {"x": "".join(map(chr, CODES[start : start + 0x100]))}, ensure_ascii=False
        )
        shown = printable_json(text)
        assert json.loads(shown) == json.loads(text)
        assert printable(shown) == shown, hex(start)
    letters = json.dumps(LETTERS, ensure_ascii=False)
    assert printable_json(letters) == letters


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "é\\x1b\\nb\nc\n"), ("ascii", "\\xe9\\x1b\\nb\nc\n")]
)
def test_lines_are_said_in_the_letters_of_the_terminal(encoding: str, shown: str) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    say("é\x1b\nb", "c", stream=terminal)
    assert terminal.buffer.getvalue().decode(encoding) == shown
