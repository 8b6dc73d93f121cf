"""The last steps of a start, with programs in the place of daemons."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pytest

from devmail_config import supervise
from devmail_config.errors import DevmailError, Problem
from devmail_config.layout import Layout
from devmail_config.services import Service, running
from devmail_config.settings import Settings
from devmail_config.surroundings import running_server


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.of(Settings(state_dir=tmp_path), tmp_path)


def judged(layout: Layout, *scripts: Sequence[str]) -> list[Problem]:
    """Let services that are checked by these shell scripts judge their configuration."""
    services = []
    for number, script in enumerate(scripts):
        name = f"daemon{number}"
        layout.config(name).mkdir(parents=True)
        services.append(Service(name, command=(), check=("/bin/sh", "-c", *script)))
    return supervise.judge_configuration(layout, services)


def test_a_daemon_that_refuses_its_configuration_is_quoted(
    layout: Layout,
) -> None:
    scripts = [
        ["echo '  line 3:'; echo 'all settings'; echo '  bad  word' >&2; exit 7"],
        ["true"],
        ["echo 'on the other output'; exit 1"],
        ["exit 2 # {config}"],
    ]
    remedy = "this is a fault of devmail's templates: please report it with these lines"
    silent = f"to see why, run /bin/sh -c 'exit 2 # {layout.config('daemon3')}'"
    assert judged(layout, *scripts) == [
        Problem(f"{name}'s own check of its configuration", fault, remedy)
        for name, fault in (
            ("daemon0", "status 7: bad word"),
            ("daemon2", "status 1: on the other output"),
            ("daemon3", f"status 2: {silent}"),
        )
    ]


def test_a_warning_is_passed_on_with_the_name_of_its_daemon(
    layout: Layout, capfd: pytest.CaptureFixture[str]
) -> None:
    assert judged(layout, ["echo 'take care' >&2; echo all settings"]) == []
    assert capfd.readouterr() == ("", "daemon0: take care\n")


def test_a_daemon_judges_without_the_environment(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEVMAIL_HOSTNAME", "secret.test")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert judged(layout, ["env >&2"]) == []
    names = {line.split(": ")[1].split("=")[0] for line in capfd.readouterr().err.splitlines()}
    # The shell itself sets the last two.
    assert names <= {"PATH", "TZ", "PWD", "_"}
    assert {"PATH", "TZ"} <= names


def test_a_state_directory_has_one_server(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    open_as_ever = os.open

    def remember(path: Path, flags: int, mode: int) -> int:
        opened.append(open_as_ever(path, flags, mode))
        return opened[-1]

    monkeypatch.setattr(os, "open", remember)
    assert running_server(layout) is None
    assert not supervise.lock(layout)
    try:
        assert running_server(layout) == os.getpid()
        # It goes through the exec of the supervisor.
        assert os.get_inheritable(opened[0])
        with pytest.raises(DevmailError) as caught:
            supervise.lock(layout)
    finally:
        for descriptor in opened:
            os.close(descriptor)
    assert running_server(layout) is None
    assert caught.value.problems == (
        Problem(
            str(layout.state),
            "a server is already running on this state directory",
            "stop it with `make down`, or set another DEVMAIL_STATE_DIR",
        ),
    )


def test_an_orderly_end_has_left_its_mark(layout: Layout) -> None:
    layout.lock.write_text("0\n")
    assert supervise.lock(layout)


@pytest.mark.parametrize("content", ["", "0", "1234\n"])
def test_what_a_kill_or_a_power_cut_left_is_no_such_mark(layout: Layout, content: str) -> None:
    layout.lock.write_text(content)
    assert not supervise.lock(layout)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["dovecot/dovecot.conf"], "dovecot postfix nginx"),
        (["postfix/main.cf", "nginx/nginx.conf"], "postfix nginx"),
        (["libexec/faults.json"], "postfix nginx"),
        (["nginx/www/index.en.html"], "nginx"),
        (["page/faults.json", "fixed-settings.json"], ""),
        ([], ""),
    ],
)
def test_a_reload_is_for_the_first_daemon_that_something_changed_for_and_those_after_it(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, changed: list[str], told: str
) -> None:
    called: list[str] = []

    def note(command: Sequence[object], **_: object) -> None:
        program, option, directory = map(str, command)
        assert (program, option) == ("/usr/bin/s6-svc", "-h")
        called.append(Path(directory).name)

    monkeypatch.setattr(subprocess, "run", note)
    supervise.reload(layout, running(with_webmail=True), {*map(PurePosixPath, changed)})
    assert called == told.split()


def test_the_file_limit_is_raised_as_far_as_it_may_be() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        supervise.raise_file_limit()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert hard == before[1]
        assert soft == min(16384, hard if hard != resource.RLIM_INFINITY else 16384)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
