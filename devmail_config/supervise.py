"""The last steps of a start: the lock, the daemons' own checks, exec of the supervisor.

Only this module and ``templates/supervisor`` know that the supervisor is s6 (https://skarnet.org).
"""

from __future__ import annotations

import fcntl
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath
from typing import NoReturn

from devmail_config import ending
from devmail_config.errors import DevmailError, Problem
from devmail_config.layout import Layout
from devmail_config.printable import say
from devmail_config.render import filled
from devmail_config.services import Service

_SUPERVISOR = "/usr/bin/s6-svscan"
_CONTROL = "/usr/bin/s6-svc"
# Daemons get no more of the environment than this: settings and secrets end with Python.
_KEPT_VARIABLES = ("TZ",)
# Written by templates/supervisor/svscan-finish.j2.
_ENDED = b"0\n"
# More than any daemon's limit of clients.
_OPEN_FILES = 16384
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def lock(layout: Layout) -> bool:
    """Mark the state directory as in use, until the last process of this server has ended.

    The open file goes through the exec below, so that it is the supervisor that holds the lock;
    its process id, which is ours, is what the file contains. An orderly end leaves 0 in its
    place: tell whether the server before this one came to such an end. A power cut may empty it.
    """
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DevmailError(
            [
                Problem(
                    str(layout.state),
                    "a server is already running on this state directory",
                    "stop it with `make down`, or set another DEVMAIL_STATE_DIR",
                )
            ]
        ) from None
    ended_in_order = os.pread(descriptor, len(_ENDED), 0) == _ENDED
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    # Before a daemon locks anything.
    os.fsync(descriptor)
    fcntl.fcntl(descriptor, fcntl.F_SETFD, 0)
    return ended_in_order


def judge_configuration(layout: Layout, services: Iterable[Service]) -> list[Problem]:
    """Let every daemon judge the configuration that was written for it, all at the same time.

    What a daemon warns of without refusing, such as a queue that a power cut left in disorder and
    that Postfix has put right by then, goes to standard error.
    """
    checks = [_Check(service, layout) for service in services if service.check]
    return [problem for check in checks for problem in check.finish()]


def reload(layout: Layout, services: Iterable[Service], changed: Collection[PurePosixPath]) -> None:
    """Have the daemons read their configuration again; sessions go on as they began.

    ``changed`` are paths below the run directory. The first daemon in the registry that has one of
    them is told, and all that follow: Postfix's processes keep a connection to Dovecot, and would
    go on with the old one. Those before it are left alone: who has connected to Dovecot, and has
    not logged in yet, cannot do so any more once it has read its configuration again.
    """
    directories = {path.parts[0] for path in changed}
    is_concerned = False
    for service in services:
        is_concerned = is_concerned or not directories.isdisjoint((service.name, *service.keeps))
        if is_concerned and service.reloads:
            directory = layout.scan_directory / service.name
            subprocess.run([_CONTROL, "-h", directory], check=True, env=_environment())


class _Check:
    """One daemon's own check of its configuration, running."""

    def __init__(self, service: Service, layout: Layout) -> None:
        self._service = service
        # A file that any user may write to: Postfix's tools open /dev/stdout anew, as who they are.
        self._output = layout.config(service.name) / "check.log"
        self._output.touch()
        self._output.chmod(0o666)
        self._command = filled(service.check, layout, service)
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="surrogateescape",
            )

    def finish(self) -> Iterable[Problem]:
        _, complaints = self._process.communicate()
        output = self._output.read_text(encoding="utf-8", errors="surrogateescape")
        self._output.unlink()
        if self._process.returncode != 0:
            # Which of the two the reason is on differs; doveconf prints all settings on the other.
            # Postfix says some things to a terminal only.
            hint = f"to see why, run {shlex.join(self._command)}"
            reason = complaints.strip() or output.strip() or hint
            yield Problem(
                f"{self._service.name}'s own check of its configuration",
                f"status {self._process.returncode}: {' '.join(reason.split())}",
                "this is a fault of devmail's templates: please report it with these lines",
            )
        else:
            for line in complaints.splitlines():
                say(f"{self._service.name}: {line}", stream=sys.stderr)


def raise_file_limit() -> None:
    """Let the daemons open as many files as their client limits need, as far as we may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def run(layout: Layout) -> NoReturn:
    """Become the supervisor, which starts the daemons; Python is gone after this."""
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal that comes now waits until the supervisor has a handler for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, ending.SIGNALS)
    os.execve(_SUPERVISOR, [_SUPERVISOR, str(layout.scan_directory)], _environment())


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {"PATH": _PATH, **kept}
