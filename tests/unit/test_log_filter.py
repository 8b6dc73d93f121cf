"""The filter of every service's log, octet by octet, as the program that runs."""

from __future__ import annotations

import random
import shlex
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pytest

from devmail_config.printable import printable
from devmail_config.services import Service, running
from devmail_config.settings import Settings
from tests.helpers.octets import complaints
from tests.unit.test_render import VARIANTS, rendered

PROGRAM = "log-filter.pl"
SERVICES = running(with_webmail=True)
# PIPE_BUF, see pipe(7).
PIECE = 4096


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that filters for a service that names itself in no line."""
    path = tmp_path_factory.mktemp("filter") / PROGRAM
    content = rendered(Settings())[PurePosixPath("libexec") / PROGRAM].content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ["perl", str(path)]


def filtered(
    program: Iterable[str], log: bytes, name: str = "x", own_line: str = "(?!)", *routine: str
) -> bytes:
    done = subprocess.run(
        [*program, name, own_line, *routine],
        # As the supervisor starts it.
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        input=log,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == b""
    return done.stdout


def in_words(text: str) -> str:
    """What the log has for a text: \\xNN for each octet of what is not shown."""
    return "".join(
        letter
        if printable(letter) == letter
        else "".join(f"\\x{octet:02x}" for octet in letter.encode(errors="surrogateescape"))
        for letter in text
    )


def test_each_octet_alone_is_a_letter_or_words(program: list[str]) -> None:
    octets = [bytes([number]) for number in range(256) if number != ord("\n")]
    lines = filtered(program, b"".join(b"<%b>\n" % octet for octet in octets)).split(b"\n")
    assert lines.pop() == b""
    for octet, line in zip(octets, lines, strict=True):
        shown = octet == b"\t" or b" " <= octet <= b"~"
        assert line == b"x: <%b>" % (octet if shown else b"\\x%02x" % ord(octet))


def test_each_character_of_unicode_is_itself_or_words(program: list[str]) -> None:
    codes = [
        code
        for code in range(0x80, 0x110000)
        if not 0xD800 <= code < 0xE000  # surrogates, which are not characters
    ]
    rows = ["".join(map(chr, codes[at : at + 256])) for at in range(0, len(codes), 256)]
    log = "".join(f"{row}\n" for row in rows).encode()
    lines = filtered(program, log).decode().split("\n")
    assert lines.pop() == ""
    for row, line in zip(rows, lines, strict=True):
        assert line == f"x: {in_words(row)}"
    assert complaints(log) != []
    assert complaints("\n".join(lines).encode()) == []


def test_what_is_not_utf_8_is_in_words_and_its_neighbours_are_not(program: list[str]) -> None:
    chance = random.Random(1)  # noqa: S311 - not for a secret
    # Each pair of octets, and what is likely to be almost a character.
    likely = (*range(0x7E, 0xA2), *range(0xBE, 0xC4), *range(0xDE, 0x100))
    probes = [
        *(bytes([first, second]) for first in range(256) for second in range(256)),
        *(bytes(chance.choices(likely, k=chance.randint(3, 6))) for _ in range(30000)),
    ]
    probes = ["ю".encode() + probe + "é".encode() for probe in probes if b"\n" not in probe]
    output = filtered(program, b"".join(probe + b"\n" for probe in probes))
    assert complaints(output) == []
    lines = output.split(b"\n")[:-1]
    for probe, line in zip(probes, lines, strict=True):
        expected = in_words(probe.decode(errors="surrogateescape"))
        assert line == f"x: {expected}".encode()


LETTERS = "юзер josé 漢字 😀 a\tb ~ \\x1b"


@pytest.mark.parametrize("end", ["\n", ""], ids=["with its end", "the last line, cut off"])
def test_letters_stay_as_they_are(program: list[str], end: str) -> None:
    assert filtered(program, f"{LETTERS}{end}".encode()).decode() == f"x: {LETTERS}\n"


def test_each_line_leaves_at_once(program: list[str]) -> None:
    with subprocess.Popen(
        [*program, "x", "(?!)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(20, process.kill)
        timer.start()
        for line in (b"one\n", b"two\n", b"\x1b\n"):
            process.stdin.write(line)
            assert process.stdout.readline() == b"x: " + line.replace(b"\x1b", b"\\x1b")
        timer.cancel()
        process.stdin.close()
        assert process.wait() == 0


@pytest.mark.parametrize("letter", ["a", "é", "漢", "😀", "\x1b", "\udcff"])
@pytest.mark.parametrize("length", [4089, 4090, 4092, 4093, 4095, 4096, 4097, 70000])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_long_line_is_several_that_name_the_service(
    program: list[str], letter: str, length: int, end: bytes
) -> None:
    octets = letter.encode(errors="surrogateescape")
    start = b"x: %d" % length
    line = start[3:] + octets * (length // len(octets))
    output = filtered(program, line + end)
    assert complaints(output) == []
    pieces = output.split(b"\n")
    assert pieces.pop() == b""
    assert all(len(piece) < PIECE for piece in pieces)
    assert pieces[0].startswith(start)
    assert all(piece.startswith(b"x: ...") for piece in pieces[1:])
    whole = pieces[0][3:] + b"".join(piece[6:] for piece in pieces[1:])
    assert whole.decode() == in_words(line.decode(errors="surrogateescape"))


def test_a_line_that_never_ends_takes_no_memory(program: list[str]) -> None:
    with subprocess.Popen(
        [*program, "x", "(?!)"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0
    ) as process:
        assert process.stdin is not None
        for _ in range(20):
            process.stdin.write(b"\xe2\x80\xae~" * 4096)
        for _ in range(64):
            process.stdin.write(b"y" * 1024**2)
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0])
        process.stdin.close()
    # kB; as much as it takes for one short line, and a little.
    assert peak < 12 * 1024


def test_the_rest_of_a_long_line_does_not_pass_for_a_line(program: list[str]) -> None:
    """Not even where it begins as the service's own lines do, or as what is left out."""
    forged = b"Nov 25 00:00:00 dovecot: forged"
    own_line = next(one.own_line for one in SERVICES if one.name == "dovecot")
    for length in range(PIECE - 40, PIECE + 10):
        line = b"Nov 25 00:00:00 dovecot: " + b"y" * length + forged + b" routine" + b"z" * PIECE
        output = filtered(program, line, "dovecot", own_line, "routine")
        first, *others = output.split(b"\n")[:-1]
        assert first.startswith(b"Nov 25 00:00:00 dovecot: y")
        assert others
        assert all(piece.startswith(b"dovecot: ...") for piece in others)
        assert b"routine" in output.replace(b"\ndovecot: ...", b"")


# A line as the daemon writes it, and one that only looks like it, or comes from elsewhere.
OWN_LINES = {
    "dovecot": "Nov  5 07:00:00 dovecot: imap-login: Info: Login: user=<a@b.example>",
    "postfix": "Nov 25 07:00:00 mail postfix/smtps/smtpd[12]: connect from unknown[127.0.0.1]",
}
OTHER_LINES = (
    "doveconf: Fatal: Error in configuration file",
    "x Nov 25 07:00:00 dovecot: x",
    "Nov 25 07:00:00 mail sshd[1]: x",
    "Nov 25 07:00:00 dovecot x",
    "dovecot: x",
    "devmail: dovecot ended with signal 9 and is started again",
)


@pytest.mark.parametrize("service", SERVICES, ids=lambda one: one.name)
def test_each_line_begins_with_the_name_of_its_service(
    program: list[str], service: Service
) -> None:
    own = OWN_LINES.get(service.name)
    log = "".join(f"{line}\n" for line in (*OWN_LINES.values(), *OTHER_LINES))
    output = filtered(program, log.encode(), service.name, service.own_line, *service.routine)
    expected = [
        line if line == own else f"{service.name}: {line}"
        for line in (*OWN_LINES.values(), *OTHER_LINES)
    ]
    assert output.decode().splitlines() == expected


def test_a_service_that_dies_within_a_line_does_not_spoil_the_next_one(program: list[str]) -> None:
    """Its finish script ends the line; empty lines say nothing."""
    finish = rendered(Settings())[PurePosixPath("supervisor/nginx/finish")].content
    assert isinstance(finish, str)
    assert "\necho\n" in finish
    assert filtered(program, b"half a line\n\nended\n\n\n") == b"x: half a line\nx: ended\n"


@pytest.mark.parametrize(("settings", "addresses", "webmail"), VARIANTS)
def test_every_service_has_the_filter(
    settings: Settings, addresses: tuple[str, ...], webmail: None
) -> None:
    tree = rendered(settings, addresses, webmail)
    for service in running(with_webmail=webmail is not None):
        script = tree[PurePosixPath(f"supervisor/{service.name}/log/run")]
        assert script.executable
        assert isinstance(script.content, str)
        *_, command = script.content.splitlines()
        words = shlex.split(command)
        assert words[:4] == ["exec", "s6-setuidgid", "dovenull", "perl"]
        assert words[4] == f"/state/run/libexec/{PROGRAM}"
        routine = () if settings.log_level == "debug" else service.routine
        assert words[5:] == [service.name, service.own_line, *routine]
