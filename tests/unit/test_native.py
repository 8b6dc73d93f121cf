"""`up`, `down`, `logs` and `install`, with stand-ins for what they start."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from devmail_config import native, processes, surroundings
from devmail_config.errors import DevmailError, Problem
from devmail_config.layout import Layout
from devmail_config.settings import Settings, load
from devmail_config.surroundings import Machine
from tests.helpers.server import ROOT


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.of(Settings(state_dir=Path("state"), mail_dir=Path("mail")), tmp_path)


@pytest.fixture
def running(layout: Layout) -> Iterator[IO[str]]:
    """The lock of a server that runs, without the server."""
    layout.state.mkdir()
    with layout.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def say_who(lock: IO[str], process: int) -> None:
    lock.write(f"{process}\n")
    lock.flush()


# --- install ---

FAKE_APT = """\
#!/bin/sh
echo "$(basename "$0") $*" >> {log}
[ "$1" = install ] && cat {policy} >> {log}
[ "$1" = "{fails}" ] || exit 0
printf 'one\\ntwo\\nE: three\\nE: four\\n' >&2
exit 100
"""


class Apt:
    """apt-get and its friends, which note what they are asked for and fail on request."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        self._log = directory / "asked"
        self.policy = directory / "policy-rc.d"
        (directory / "bin").mkdir()
        monkeypatch.setenv("PATH", f"{directory / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setattr(native, "_POLICY", self.policy)
        self.fail("nothing")
        self.machine = Machine(dpkg_status=directory / "status", user=0)
        self.machine.dpkg_status.write_text("Package: nginx\nStatus: install ok installed\n")

    def fail(self, verb: str) -> None:
        script = FAKE_APT.format(log=self._log, policy=self.policy, fails=verb)
        for name in ("apt-get", "debconf-set-selections", "systemctl"):
            program = self._directory / "bin" / name
            program.write_text(script)
            program.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    return Apt(tmp_path, monkeypatch)


def test_missing_packages_are_installed_and_their_services_not_started(
    apt: Apt, capsys: pytest.CaptureFixture[str]
) -> None:
    native.install(["nginx", "postfix", "s6"], apt.machine)
    assert apt.asked == [
        f"debconf-set-selections {ROOT}/debian-answers.txt",
        "apt-get update -qq",
        "apt-get install -y -qq --no-install-recommends postfix s6",
        # Debian's policy for services while packages are installed: none may start.
        "#!/bin/sh",
        "exit 101",
    ]
    assert not apt.policy.exists()
    assert capsys.readouterr().out == "installing Debian packages: postfix, s6\n"


def test_nothing_is_installed_when_nothing_is_missing_or_one_may_not(apt: Apt) -> None:
    native.install(["nginx"], apt.machine)
    native.install(["postfix"], replace(apt.machine, user=1000))
    assert apt.asked == []


def test_a_policy_of_the_machine_stays(apt: Apt) -> None:
    apt.policy.write_text("# the owner's\n")
    native.install(["postfix"], apt.machine)
    assert apt.asked[-1] == "# the owner's"
    assert apt.policy.read_text() == "# the owner's\n"


@pytest.mark.parametrize("verb", ["update", "install"])
def test_a_failed_installation_is_told_in_the_words_of_apt(apt: Apt, verb: str) -> None:
    apt.fail(verb)
    with pytest.raises(DevmailError) as caught:
        native.install(["postfix", "s6"], apt.machine)
    assert caught.value.problems == (
        Problem(
            "Debian packages (postfix, s6)",
            f"`apt-get {verb}` failed: two / E: three / E: four",
            "apt-get install --no-install-recommends postfix s6",
        ),
    )
    assert not apt.policy.exists()


# --- up ---


def a_program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_server_that_ends_at_once_is_told_with_the_end_of_its_log(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    layout.state.mkdir()
    layout.log.write_text("of an earlier start\n")
    with pytest.raises(DevmailError) as caught:
        native.start(Settings(), layout, a_program("print('why'); raise SystemExit(3)"))
    assert caught.value.problems == (
        Problem(
            "the server", "ended with status 3", f"see the lines above, or all of {layout.log}"
        ),
    )
    assert capsys.readouterr().err == "why\n"


@pytest.mark.usefixtures("running")
def test_a_server_that_does_not_work_in_time_is_told(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layout.log.write_text("what it said\n")
    monkeypatch.setattr(native, "_START_TIMEOUT", 0.01)
    with pytest.raises(DevmailError) as caught:
        native.start(Settings(), layout, a_program(""))
    (problem,) = caught.value.problems
    assert (problem.subject, problem.fault) == (
        "the server",
        f"does not work after 0 s: there is no CA in {layout.tls}/ca.cert.pem yet",
    )
    assert capsys.readouterr() == ("the server is already running\n", "what it said\n")


def test_a_state_directory_that_daemons_could_not_enter_is_put_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    system = tmp_path / "system"
    monkeypatch.setattr(native, "_SYSTEM_STATE", system)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    closed = tmp_path / "closed" / "checkout"
    closed.mkdir(parents=True)
    closed.parent.chmod(0o700)
    # pytest's own directory is closed, too.
    monkeypatch.setattr(surroundings, "unreachable", lambda _: closed.parent)

    given, _ = load({"DEVMAIL_STATE_DIR": ".devmail"})
    native.choose_state_directory(given, closed)
    assert not (closed / ".devmail").exists()

    native.choose_state_directory(Settings(), closed)
    target = (closed / ".devmail").readlink()
    assert target.parent == system
    assert target.name.startswith("checkout-")
    assert capsys.readouterr().out == (
        f".devmail is a link to {target}: the daemons' users cannot enter {closed.parent}\n"
    )
    native.choose_state_directory(Settings(), closed)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("user", "blocked"), [(1000, Path("/root")), (0, None)])
def test_a_state_directory_stays_where_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, blocked: Path | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(surroundings, "unreachable", lambda _: blocked)
    native.choose_state_directory(Settings(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_log_is_for_its_owner_alone(layout: Layout) -> None:
    layout.state.mkdir()
    layout.log.write_text("before\n")
    layout.log.chmod(0o644)
    with pytest.raises(DevmailError):
        native.start(Settings(), layout, a_program("raise SystemExit(3)"))
    assert layout.log.stat().st_mode & 0o777 == 0o600
    assert layout.log.read_text().startswith("before\n")


def test_a_log_that_is_a_link_is_not_written_to(layout: Layout, tmp_path: Path) -> None:
    layout.state.mkdir()
    layout.log.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DevmailError) as caught:
        native.start(Settings(), layout, a_program(""))
    (problem,) = caught.value.problems
    assert problem == Problem(
        str(layout.log), "Too many levels of symbolic links", f"remove it: rm {layout.log}"
    )
    assert not (tmp_path / "elsewhere").exists()


# --- down ---


def test_there_may_be_nothing_to_stop(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    native.stop(layout)
    assert capsys.readouterr().out == f"no server is running on {layout.state}\n"


def test_a_server_that_does_not_stop_is_told(
    layout: Layout, running: IO[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_STOP_TIMEOUT", 0.01)
    # Has the lock open, as the supervisor has.
    with subprocess.Popen(["sleep", "60"], stdin=running) as stand_in:
        say_who(running, stand_in.pid)
        with pytest.raises(DevmailError) as caught:
            native.stop(layout)
    assert caught.value.problems == (
        Problem(f"process {stand_in.pid}", "does not stop", f"kill -KILL {stand_in.pid}"),
    )


def test_a_server_of_another_user_is_told(
    layout: Layout, running: IO[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise PermissionError(1, "Operation not permitted")

    say_who(running, 4321)
    monkeypatch.setattr(processes, "holds", refuse)
    with pytest.raises(DevmailError) as caught:
        native.stop(layout)
    assert caught.value.problems == (
        Problem("process 4321", "belongs to another user", "stop it as that user"),
    )


# --- logs ---


def test_there_may_be_no_log(layout: Layout) -> None:
    with pytest.raises(DevmailError) as caught:
        native.follow_log(layout)
    assert caught.value.problems == (
        Problem(str(layout.log), "there is no log yet", "start the server with `make up`"),
    )


def test_the_log_is_not_for_everyone(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    layout.state.mkdir()
    layout.log.touch()
    # Root may read everything.
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(DevmailError) as caught:
        native.follow_log(layout)
    assert caught.value.problems == (
        Problem(str(layout.log), "only root can read it", "run the same command as root"),
    )
