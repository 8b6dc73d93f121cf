"""`make up` without a container: install what is missing, run in the background."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

from devmail_config import debian, health, processes, rainloop, surroundings, webmail
from devmail_config.errors import DevmailError, Problem
from devmail_config.layout import Layout
from devmail_config.printable import say
from devmail_config.settings import Settings
from devmail_config.surroundings import Machine

# Seconds. A start takes about one; this is for a machine that is very busy.
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0
_POLL_INTERVAL = 0.1
# Where the state goes when the daemons' users cannot enter the directory that it should be in.
_SYSTEM_STATE = Path("/var/lib/devmail")
_POLICY = Path("/usr/sbin/policy-rc.d")
_FORBIDDEN = 101
_UNITS = (
    *("dovecot.service", "nginx.service", debian.PHP_FPM_UNIT, "postfix.service"),
    "supervisor.service",
    *("phpsessionclean.timer", "roundcube-cleandb.timer", "roundcube-gc.timer"),
)
# What packages would else make up in /etc, or ask for a database of, and nothing here reads.
_ANSWERS = Path(__file__).parent.parent / "debian-answers.txt"


def install(needed: Sequence[str], machine: Machine) -> None:
    """Install the Debian packages that are missing, without starting any service of theirs.

    Raises ``DevmailError`` when that cannot be done, for example without being root.
    """
    missing = surroundings.missing_packages(needed, machine)
    if not missing or machine.user != 0:
        return
    say(f"installing Debian packages: {', '.join(missing)}")
    enabled_before = _enabled_units()
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    commands = (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
    )
    with _no_service_starts():
        subprocess.run(["debconf-set-selections", str(_ANSWERS)], check=False)
        for command in commands:
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode != 0:
                lines = (done.stderr or done.stdout).strip().splitlines()
                raise DevmailError(
                    [
                        Problem(
                            f"Debian packages ({', '.join(missing)})",
                            f"`{' '.join(command[:2])}` failed: {' / '.join(lines[-3:])}",
                            f"apt-get install --no-install-recommends {' '.join(missing)}",
                        )
                    ]
                )
    # The packages ask for their services to start with the machine; undo that, and only that.
    if new_units := [unit for unit in _enabled_units() if unit not in enabled_before]:
        subprocess.run(["systemctl", "--quiet", "disable", *new_units], capture_output=True)


def install_webmail(
    name: str,
    layout: Layout,
    machine: Machine,
    archive: Path | None = None,
    sha256: str = rainloop.SHA256,
) -> None:
    """Install a webmail: its Debian packages and, for RainLoop, the release.

    ``archive`` is that release, if it has been downloaded already. Raises ``DevmailError`` when a
    part cannot be had; then nothing has been installed of what comes after it.
    """
    if name == "roundcube" or rainloop.is_installed(layout.rainloop):
        install(webmail.packages(name), machine)
        return
    with tempfile.TemporaryDirectory(prefix="devmail-") as temporary:
        if archive is None:
            archive = Path(temporary) / "rainloop.zip"
            rainloop.download(archive)
        install(webmail.packages(name), machine)
        rainloop.install(layout.rainloop, archive, sha256)


def provide_webmail(settings: Settings, layout: Layout, machine: Machine) -> None:
    """Install the webmail that the settings ask for, if none that they allow is there.

    For ``auto``, Roundcube takes RainLoop's place where that cannot be had.
    """
    names = webmail.allowed(settings)
    if machine.user != 0 or any(not webmail.lacks(name, layout, machine) for name in names):
        return
    for name in names:
        try:
            install_webmail(name, layout, machine)
        except DevmailError as error:
            if name == names[-1]:
                raise
            say(f"{name} {error.problems[0].fault}: using {names[-1]} instead")
        else:
            return


def _enabled_units() -> list[str]:
    wanted = Path("/etc/systemd/system")
    return [unit for unit in _UNITS if any(wanted.glob(f"*.target.wants/{unit}"))]


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """Forbid packages to start services while they are installed (Debian policy, 9.3.3.1)."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text(f"#!/bin/sh\nexit {_FORBIDDEN}\n", encoding="ascii")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def choose_state_directory(settings: Settings, working_directory: Path) -> None:
    """Put the default state directory elsewhere if the daemons' users could not enter it.

    That is so in a checkout below /root. ``.devmail`` is then a link, and all else is as ever.
    """
    link = working_directory / settings.state_dir
    if settings.is_set("state_dir") or link.exists() or link.is_symlink():
        return
    if os.geteuid() != 0 or (blocked := surroundings.unreachable(working_directory)) is None:
        return
    checksum = hashlib.sha256(os.fsencode(working_directory)).hexdigest()[:8]
    target = _SYSTEM_STATE / f"{working_directory.name}-{checksum}"
    target.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    say(f"{link.name} is a link to {target}: the daemons' users cannot enter {blocked}")


def start(settings: Settings, layout: Layout, program: Sequence[str]) -> None:
    """Start the server in the background, and return when every service works.

    Raises ``DevmailError`` with the end of the log when it does not come up.
    """
    _wait_for_one_that_ends(layout)
    if surroundings.running_server(layout) is not None:
        say("the server is already running")
        process = None
        log_start = 0
    else:
        layout.state.mkdir(parents=True, exist_ok=True)
        with _open_log(layout.log) as log:
            log_start = log.tell()
            process = subprocess.Popen(
                [*program, "run"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    try:
        for line in health.progress(settings, layout, _START_TIMEOUT):
            if process and process.poll() is not None:
                if surroundings.running_server(layout) is None:
                    _fail(layout, log_start, f"ended with status {process.returncode}")
                # Another one was started at the same moment, and was faster.
                process = None
            if not process and surroundings.running_server(layout) is None:
                _fail(layout, log_start, "has ended")
            if line:
                say(line)
    except TimeoutError as error:
        _fail(layout, log_start, f"does not work after {_START_TIMEOUT:.0f} s: {error}")


def recover(layout: Layout) -> None:
    """End what a server has left whose supervisor was killed: it would keep the ports."""
    process = surroundings.running_server(layout)
    try:
        if process is not None and processes.holds(process, layout.lock):
            return
    except PermissionError:
        return
    _end_remains(layout)


def _end_remains(layout: Layout) -> bool:
    """End what no supervisor looks after; tell whether there was anything."""
    names = processes.end(layout)
    if names:
        say(f"ended what a supervisor that is gone has left: {', '.join(names)}")
    return bool(names)


def _wait_for_one_that_ends(layout: Layout) -> None:
    """Let a server that has been told to stop come to its end."""
    limit = time.monotonic() + _STOP_TIMEOUT
    while surroundings.running_server(layout) is not None and time.monotonic() < limit:
        if not (layout.scan_directory / "stopping").exists():
            return
        time.sleep(_POLL_INTERVAL / 2)


def _open_log(path: Path) -> BinaryIO:
    """Open the log, for root alone: it says who writes to whom. A link is not followed."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise DevmailError(
            [Problem(str(path), error.strerror or str(error), f"remove it: rm {path}")]
        ) from None
    # It may have been there with a wider mode.
    os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "ab")


def _fail(layout: Layout, log_start: int, fault: str) -> NoReturn:
    with layout.log.open("rb") as log:
        log.seek(log_start)
        lines = log.read().decode(errors="surrogateescape").strip().split("\n")
    say(*lines[-40:], stream=sys.stderr)
    raise DevmailError(
        [Problem("the server", fault, f"see the lines above, or all of {layout.log}")]
    )


def stop(layout: Layout) -> None:
    """Stop the server and wait for its last process to end; all is well if none is running."""
    began = time.monotonic()
    was_running = _stop_supervisor(layout)
    # Nothing is left, unless the supervisor itself was killed.
    had_remains = _end_remains(layout)
    if (process := surroundings.running_server(layout)) is not None:
        raise DevmailError(
            [Problem(f"process {process}", "does not stop", f"kill -KILL {process}")]
        )
    if was_running or had_remains:
        say(f"stopped ({time.monotonic() - began:.1f} s)")
    else:
        say(f"no server is running on {layout.state}")


def _stop_supervisor(layout: Layout) -> bool:
    """End a server in order, if its supervisor is there; tell whether one was."""
    process = surroundings.running_server(layout)
    try:
        if process is None or not processes.holds(process, layout.lock):
            return False
        os.kill(process, signal.SIGTERM)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise DevmailError(
            [Problem(f"process {process}", "belongs to another user", "stop it as that user")]
        ) from None
    limit = time.monotonic() + _STOP_TIMEOUT
    while surroundings.running_server(layout) == process and time.monotonic() < limit:
        time.sleep(_POLL_INTERVAL / 2)
    return True


def follow_log(layout: Layout) -> None:
    """Become a program that shows the log, and what is added to it."""
    if not layout.log.exists():
        raise DevmailError(
            [Problem(str(layout.log), "there is no log yet", "start the server with `make up`")]
        )
    if not os.access(layout.log, os.R_OK):
        raise DevmailError(
            [Problem(str(layout.log), "only root can read it", "run the same command as root")]
        )
    sys.stdout.flush()
    tail = shutil.which("tail") or "tail"
    os.execv(tail, [tail, "-n", "100", "-F", str(layout.log)])
