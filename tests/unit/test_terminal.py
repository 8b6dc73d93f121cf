"""Commands repeat what they were given, and no terminal obeys it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from devmail_config import cli
from devmail_config.errors import DevmailError, Problem
from devmail_config.queue import Waiting, table
from tests.helpers.octets import FORGED, LETTERS, PAYLOADS, complaints
from tests.helpers.server import DEVMAIL, ROOT

COMMANDS = (
    *(["run"], ["check"], ["health"], ["summary"], ["reload"], ["queue"], ["queue", "--json"]),
    *(["queue", "flush"], ["queue", "expire"], ["up"], ["down"], ["logs"], ["settings"]),
    ["render", "--output", "out"],
)
# What the environment and a command line can hold.
VALUES = {name: payload for name, payload in PAYLOADS.items() if b"\0" not in payload}


Run = Callable[..., subprocess.CompletedProcess[bytes]]


def command(
    arguments: Sequence[str | bytes],
    environ: Mapping[bytes, bytes],
    directory: bytes | Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run the program; unlike ``run_devmail``, keep what it says as it is."""
    own = {b"PATH": os.environb[b"PATH"], b"PYTHONPATH": os.fsencode(ROOT)}
    return subprocess.run(
        [*DEVMAIL, *arguments],
        env={**own, **environ},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


def hostile(payload: bytes) -> dict[bytes, bytes]:
    """Give an environment in which everything is wrong that has a text."""
    value = b"x" + payload
    return {
        b"DEVMAIL_UNKNOWN" + payload.replace(b"=", b""): value,
        b"DEVMAIL_CONFIG": value,
        b"DEVMAIL_RAINLOOP_ADMIN_PASSWORD_FILE": value,
        b"DEVMAIL_STATE_DIR": b"state" + payload,
        **{
            b"DEVMAIL_" + name: value
            for name in (
                *(b"HOSTNAME", b"TLS_NAMES", b"TLS_CA_PATH", b"TLS_CERT_PATH", b"TLS_KEY_PATH"),
                *(b"BIND_ADDRESS", b"PORT_OFFSET", b"BOUNCE_AFTER", b"MESSAGE_SIZE_LIMIT"),
                *(b"BAD_DOMAINS", b"FAULTS", b"FAULT_SUFFIX", b"LOG_LEVEL", b"WEBMAIL"),
                *(b"MAIL_DIR", b"REQUIRE_AUTH", b"PLUS_ADDRESSES"),
            )
        },
    }


def check_output(done: subprocess.CompletedProcess[bytes]) -> None:
    """See that what a command says is harmless, is no traceback, and forges no line."""
    output = done.stdout + done.stderr
    assert complaints(output) == []
    assert b"Traceback" not in output
    assert not any(line.startswith(FORGED) for line in output.splitlines())


def check_problems(done: subprocess.CompletedProcess[bytes]) -> int:
    """See that each problem is two lines, whatever it repeats; give their number."""
    check_output(done)
    assert done.returncode == 1
    head, *lines = done.stderr.removesuffix(b"\n").split(b"\n")
    assert head.startswith(b"devmail: %d problem" % (len(lines) // 2)), done.stderr
    assert all(line.startswith(b"    -> ") for line in lines[1::2]), done.stderr
    return len(lines) // 2


@pytest.fixture
def devmail(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, own_directory: Path
) -> Iterator[Run]:
    """Run the program in this process, which is faster, in a directory to work in."""
    for name in [name for name in os.environ if name.startswith("DEVMAIL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(own_directory)
    umask = os.umask(0o022)

    def run(*arguments: bytes) -> subprocess.CompletedProcess[bytes]:
        with pytest.raises(SystemExit) as ended:
            cli.main([os.fsdecode(word) for word in arguments])
        status = ended.value.code or 0
        assert isinstance(status, int)
        return subprocess.CompletedProcess(arguments, status, *capfdbinary.readouterr())

    yield run
    os.umask(umask)


@pytest.mark.parametrize("payload", VALUES.values(), ids=VALUES.keys())
def test_no_setting_steers_the_terminal_that_it_is_repeated_on(
    devmail: Run, monkeypatch: pytest.MonkeyPatch, payload: bytes
) -> None:
    with monkeypatch.context() as environment:
        for name, value in hostile(payload).items():
            environment.setenv(os.fsdecode(name), os.fsdecode(value))
        assert check_problems(devmail(b"check")) >= 15

    config = Path("config.yaml")
    monkeypatch.setenv("DEVMAIL_CONFIG", str(config))
    text = payload.decode(errors="replace")
    document = {f"unknown{text}": 1, "hostname": text, "bounce_after": [text], "faults": {text: 1}}
    config.write_text(json.dumps(document))
    assert check_problems(devmail(b"check")) >= 3
    # As it stands, it is no YAML in most cases.
    config.write_bytes(b"hostname: " + payload + b"\n" + payload)
    assert check_problems(devmail(b"check")) >= 1


@pytest.mark.parametrize("payload", VALUES.values(), ids=VALUES.keys())
def test_no_name_of_a_directory_steers_the_terminal(devmail: Run, payload: bytes) -> None:
    """It is in messages of success, too."""
    name = payload.replace(b"/", b"")
    output = b"out" + name
    done = devmail(b"render", b"--output", output)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1
    check_output(done)
    done = devmail(b"render", b"--output", output)
    assert b"the directory is not empty" in done.stderr
    assert check_problems(done) == 1

    Path(os.fsdecode(b"d" + name)).mkdir()
    os.chdir(b"d" + name)
    for arguments in ([b"check"], [b"render", b"--output", b"out"]):
        done = devmail(*arguments)
        assert b"has a character that the daemons' configuration gives a meaning to" in done.stderr
        assert check_problems(done) >= 1
    for command in (b"summary", b"down"):
        done = devmail(command)
        assert done.returncode == 0
        check_output(done)


@pytest.mark.parametrize("payload", VALUES.values(), ids=VALUES.keys())
def test_no_word_of_a_command_line_steers_the_terminal(devmail: Run, payload: bytes) -> None:
    for arguments in ([payload], [b"--" + payload], [b"health", b"--wait", payload]):
        done = devmail(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(b"Usage: devmail ")
        assert b"\nError: " in done.stderr
        assert complaints(done.stdout + done.stderr) == []


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_command_repeats_what_steers_a_terminal(
    own_directory: Path, arguments: Sequence[str]
) -> None:
    done = command(arguments, hostile(b"".join(VALUES.values())), own_directory)
    if arguments == ["settings"]:
        assert done.returncode == 0
        check_output(done)
    else:
        assert check_problems(done) >= 15


def test_letters_of_every_language_are_repeated() -> None:
    done = command(["check"], {b"DEVMAIL_WEBMAIL": LETTERS.encode()})
    assert LETTERS.encode() in done.stderr


def test_a_problem_is_two_lines_whatever_it_is_about() -> None:
    error = DevmailError([Problem("a\n  b", "\x1b[2J\r", "\u202e\x9b")])
    assert str(error) == "1 problem:\n  a\\n  b: \\x1b[2J\\r\n    -> \\u202e\\x9b"


def test_each_recipient_in_the_queue_is_one_line() -> None:
    line = {
        "queue_name": "deferred",
        "queue_id": "4bZ1",
        "arrival_time": 1700000000,
        "message_size": 512,
        "sender": "a\x1b\n@\u202e",
        "recipients": [{"address": f"{LETTERS}\r\u2028@x", "delay_reason": "\x9b\x85 no\n"}],
    }
    _, row = table([Waiting.parse(json.dumps(line))]).split("\n")
    assert row.endswith(f"512   a\\x1b\\n@\\u202e  {LETTERS}\\r\\u2028@x  \\x9b\\x85 no\\n")
