"""The commands as they are typed: what they print, their status, and never a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from devmail_config import __version__, authority, cli, native
from devmail_config.services import LISTENERS, SERVICES
from devmail_config.settings import reference
from tests.helpers.server import ROOT, free_offset, run_devmail

# Without daemons, these get no further than the judges.
COMMANDS = ("run", "check", "render", "health", "summary", "up", "down", "logs")


@pytest.fixture(autouse=True)
def _as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A directory to work in, none of the tester's settings, and the umask as before."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DEVMAIL_")]:
        monkeypatch.delenv(name)
    umask = os.umask(0o022)
    yield
    os.umask(umask)


@pytest.fixture
def devmail(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run the program in this process; give status, standard output and standard error."""

    def call(*arguments: str, **settings: str | Path) -> tuple[int, str, str]:
        for name, value in settings.items():
            monkeypatch.setenv(f"DEVMAIL_{name.upper()}", str(value))
        if arguments == ("render",):
            arguments = ("render", "--output", "out")
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        status = ended.value.code or 0
        assert isinstance(status, int)
        return status, *capfd.readouterr()

    return call


Run = Callable[..., tuple[int, str, str]]


def said(status: int, error: str) -> list[str]:
    """Check that a failure is told to a person, and give its problems."""
    assert status == 1
    match = re.fullmatch(r"devmail: (\d+) problems?:\n((?:  \S.*\n    -> \S.*\n)+)", error)
    assert match, error
    lines = match[2].splitlines()
    assert len(lines) == 2 * int(match[1])
    return [
        f"{fault.strip()} {remedy.strip()}"
        for fault, remedy in zip(lines[::2], lines[1::2], strict=True)
    ]


# --- What the commands do ---


def test_help_and_version(devmail: Run) -> None:
    status, out, _ = devmail("--help")
    assert status == 0
    assert set(re.findall(r"^  (\w+)  ", out, re.MULTILINE)) == {
        *(*COMMANDS, "install", "settings"),
        *("queue", "reload"),
    }
    assert devmail("--version") == (0, f"devmail, version {__version__}\n", "")


def test_settings_prints_the_reference(devmail: Run) -> None:
    assert devmail("settings") == (0, reference(), "")


def test_render_writes_the_configuration_and_starts_nothing(devmail: Run, tmp_path: Path) -> None:
    status, out, _ = devmail("render", "--output", "new/out", state_dir=tmp_path / "state")
    written = [path for path in (tmp_path / "new/out").rglob("*") if path.is_file()]
    written = [path for path in written if path.suffix != ".pyc"]
    assert (status, out) == (0, f"devmail: {len(written)} files are in new/out\n")
    assert {service.name for service in SERVICES} <= {
        path.name for path in (tmp_path / "new/out").iterdir()
    }
    assert not (tmp_path / "state").exists()


def test_health_says_for_each_service_what_is_wrong_with_it(devmail: Run, tmp_path: Path) -> None:
    authority.ensure(tmp_path / "tls", ["mail.localhost"], datetime.now(UTC))
    status, out, error = devmail("health", state_dir=tmp_path, port_offset=str(free_offset()))
    assert (status, error) == (1, "")
    assert out.splitlines() == [
        *(f"{one.name:<11}nothing listens on its port" for one in LISTENERS),
        "mailboxes  ok",
        "queue      ok",
    ]


def test_health_before_the_first_start(devmail: Run, tmp_path: Path) -> None:
    status, _, error = devmail("health", state_dir=tmp_path)
    (problem,) = said(status, error)
    assert problem == (
        f"the CA in {tmp_path}/tls/ca.cert.pem: there is none yet, or it cannot be read "
        "-> start the server first, with the same settings"
    )


def test_down_when_nothing_runs(devmail: Run, tmp_path: Path) -> None:
    assert devmail("down", state_dir=tmp_path) == (0, f"no server is running on {tmp_path}\n", "")


def test_install_when_nothing_is_missing(
    devmail: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packages").write_text("# none\n\n")
    monkeypatch.setattr(cli, "_PACKAGES", tmp_path / "packages")
    assert devmail("install") == (0, "", "")


# --- What users do wrong ---


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_bad_settings_all_at_once(devmail: Run, command: str) -> None:
    status, out, error = devmail(command, bounce_after="soon", hostnam="a.test")
    problems = said(status, error)
    assert out == ""
    assert problems[0] == (
        "DEVMAIL_HOSTNAM (environment): there is no such setting -> did you mean DEVMAIL_HOSTNAME?"
    )
    assert problems[1].startswith("DEVMAIL_BOUNCE_AFTER='soon' (environment): ")
    # Some judge the machine as well.
    assert len(problems) == 2 or command in {"run", "check"}


@pytest.mark.parametrize("command", ["run", "check", "up"])
def test_surroundings_and_tls_are_judged_together(
    devmail: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(native, "install", lambda *_: None)
    (tmp_path / "file").touch()
    status, out, error = devmail(
        command, state_dir="file", bind_address="192.0.2.7", tls_ca_path="absent.pem"
    )
    assert out == ""
    named = [problem.partition("=")[0] for problem in said(status, error) if "=" in problem]
    assert [name.removeprefix("DEVMAIL_") for name in named if name.startswith("DEVMAIL_")] == [
        "STATE_DIR",
        "BIND_ADDRESS",
        "TLS_KEY_PATH",
        "TLS_CERT_PATH",
        "TLS_CA_PATH",
    ]


@pytest.mark.parametrize(
    ("output", "fault", "remedy"),
    [
        ("full", "the directory is not empty", "give a new directory"),
        (".", "the directory is not empty", "give a new directory"),
        ("", "the directory is not empty", "give a new directory"),
        ("full/file", "Not a directory", "give a directory to write to"),
        ("full/file/below", "Not a directory", "give a directory to write to"),
        ("loop", "File exists", "give a directory to write to"),
        ("/proc/below", "No such file or directory", "give a directory to write to"),
        ("x" * 300, "File name too long", "give a directory to write to"),
    ],
)
def test_render_refuses_to_write_where_it_cannot_or_should_not(
    devmail: Run, tmp_path: Path, output: str, fault: str, remedy: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    (tmp_path / "loop").symlink_to("loop")
    status, out, error = devmail("render", "--output", output)
    assert out == ""
    assert said(status, error) == [f"--output {output or '.'}: {fault} -> {remedy}"]
    assert (tmp_path / "full" / "file").read_text() == "kept"


def test_logs_before_the_first_start(devmail: Run, tmp_path: Path) -> None:
    status, _, error = devmail("logs", state_dir=tmp_path)
    (problem,) = said(status, error)
    assert problem == (
        f"{tmp_path}/devmail.log: there is no log yet -> start the server with `make up`"
    )


def test_what_the_machine_refuses_beyond_that_is_a_message_too(
    devmail: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system", "/srv/state")

    monkeypatch.setattr(native, "stop", refuse)
    status, _, error = devmail("down")
    (problem,) = said(status, error)
    assert problem == "/srv/state: Read-only file system -> correct that, or set DEVMAIL_STATE_DIR"


@pytest.mark.parametrize("arguments", [("fly",), ("--fly",), ("render",), ("up", "now")])
def test_a_wrong_command_line_is_answered_with_its_usage(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = run_devmail(arguments, {}, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: devmail ")
    assert "Traceback" not in done.stderr


ODD: list[dict[str, str]] = [
    {"CONFIG": ""},
    {"CONFIG": "/"},
    {"CONFIG": "absent.yaml"},
    {"CONFIG": "/dev/full/x"},
    {"CONFIG": "list.yaml"},
    {"CONFIG": "binary.yaml"},
    {"CONFIG": "date.yaml"},
    {"CONFIG": "x" * 5000},
    {"HOSTNAME": "\udcff"},
    {"HOSTNAME_FILE": "binary.yaml"},
    {"HOSTNAME_FILE": "\udcff"},
    {"X\udcff": "1"},
    {"STATE_DIR": ""},
    {"STATE_DIR": "x" * 5000},
    {"STATE_DIR": "list.yaml"},
    {"STATE_DIR": "loop"},
    {"STATE_DIR": "loop/below"},
    {"MAIL_DIR": "x" * 300},
    {"MAIL_DIR": "list.yaml/x"},
    {"TLS_CA_PATH": "x" * 300},
    {"BIND_ADDRESS": ","},
    {"BIND_ADDRESS": "::1%lo"},
    {"PORT_OFFSET": "9" * 5000},
    {"BOUNCE_AFTER": "999999999h"},
    {"HOSTNAME": "127.0.0.1"},
]


@pytest.mark.parametrize("command", ["check", "render", "health"])
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_setting_is_refused_in_words_or_does_no_harm(
    devmail: Run, tmp_path: Path, command: str, odd: dict[str, str]
) -> None:
    (tmp_path / "list.yaml").write_text("- hostname\n")
    (tmp_path / "binary.yaml").write_bytes(b"hostname: \xff\0")
    (tmp_path / "date.yaml").write_text("hostname: 2020-99-99\n")
    (tmp_path / "loop").symlink_to("loop")
    status, _, error = devmail(command, **odd)
    problems = said(status, error) if status != 0 else []
    (name,) = odd
    name = name.removesuffix("\udcff")
    assert any(name in problem for problem in problems) or command != "check"


def test_a_working_directory_that_is_gone(devmail: Run, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    for command in COMMANDS:
        status, _, error = devmail(command)
        (problem,) = said(status, error)
        assert problem == ("the working directory: it has been removed -> change to another one")


def test_a_working_directory_with_an_odd_name(tmp_path: Path) -> None:
    odd = tmp_path / "dev mail \udcff"
    odd.mkdir()
    done = run_devmail(["check"], {}, odd)
    assert (
        f"DEVMAIL_STATE_DIR='.devmail' (default): {tmp_path}/dev mail \\udcff/.devmail "
        "has a character that the daemons' configuration gives a meaning to "
        "-> choose a path of letters, digits and . _ - + = @ /"
    ) in said(done.returncode, done.stderr)


def test_nobody_who_reads_on_is_no_error() -> None:
    """As in `devmail settings | head -1`."""
    command = f"{sys.executable} -m devmail_config settings | true"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, check=False)
    assert done.stderr == b""


def test_output_to_a_full_disk_is_a_message() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "devmail_config", "settings"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    (problem,) = said(done.returncode, done.stderr)
    assert problem.startswith("this machine: No space left on device -> ")
