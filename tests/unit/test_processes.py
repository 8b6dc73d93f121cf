"""What a server has running, among the processes of a machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from devmail_config import processes
from devmail_config.layout import Layout
from devmail_config.settings import Settings


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout.of(Settings(state_dir=tmp_path), tmp_path)
    layout.run.mkdir()
    return layout


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_only_daemons_that_are_in_its_directories_belong_to_a_server(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = str(Path("/bin/sleep").resolve())
    monkeypatch.setattr(processes, "_DAEMONS", (sleep,))
    before = open_files()
    with (
        subprocess.Popen([sleep, "60"], cwd=layout.run) as inside,
        subprocess.Popen([sleep, "60"], cwd=tmp_path) as outside,
        subprocess.Popen(
            ["/bin/sh", "-c", "read x"], cwd=layout.run, stdin=subprocess.PIPE
        ) as other,
    ):
        with processes.of(layout) as found:
            assert [(one.number, one.name) for one in found] == [(inside.pid, "sleep")]
            # Of all those that it has looked at, kernel threads included.
            assert open_files() == before + 2
        assert processes.end(layout) == ["sleep"]
        assert inside.wait(timeout=10) == -15
        assert outside.poll() is None
        assert other.poll() is None
        outside.kill()
    assert open_files() == before


def test_a_process_that_ends_at_nothing_else_is_killed(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = str(Path("/bin/sh").resolve())
    monkeypatch.setattr(processes, "_DAEMONS", (shell,))
    monkeypatch.setattr(processes, "_PATIENCE", 0.2)
    stubborn = "trap '' TERM; echo; read x"
    with subprocess.Popen(
        [shell, "-c", stubborn], cwd=layout.run, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert processes.end(layout) == [Path(shell).name]
        assert process.wait(timeout=10) == -9


def test_who_holds_a_file_is_known(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.touch()
    assert not processes.holds(os.getpid(), file)
    with file.open():
        assert processes.holds(os.getpid(), file)
    assert not processes.holds(0, file)
