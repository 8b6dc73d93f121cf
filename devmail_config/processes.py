"""The processes of a server, known by what they run and where; a number in a file is no proof."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from devmail_config.layout import Layout

_PROC = Path("/proc")
# What the daemons are. Interpreters are not among them: a user's own may be anywhere, and ours end
# with the daemon that they were started by.
_DAEMONS = (
    *("/usr/sbin/dovecot", "/usr/lib/dovecot/", "/usr/lib/postfix/sbin/"),
    *("/usr/sbin/nginx", "/usr/sbin/php-fpm", "/usr/bin/s6-"),
)
# Seconds in which a process ends when it is told to, and after which it is killed.
_PATIENCE = 3.0
_POLL_INTERVAL = 0.02


@dataclass(frozen=True)
class Process:
    """One process, by a descriptor that stays with it whatever becomes of its number."""

    number: int
    name: str
    descriptor: int

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended gets none."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, number)


@contextlib.contextmanager
def of(layout: Layout) -> Iterator[list[Process]]:
    """Find the daemons of the server of ``layout``, whoever looks after them by now."""
    found: list[Process] = []
    with contextlib.ExitStack() as opened:
        for directory in _PROC.glob("[0-9]*"):
            # It may have ended by now, be the kernel's, or another user's.
            with contextlib.suppress(OSError), contextlib.ExitStack() as this_one:
                descriptor = os.pidfd_open(int(directory.name))
                this_one.callback(os.close, descriptor)
                # Looked at after it was opened: by then, the number can be no other's.
                if _is_daemon(directory, layout):
                    name = (directory / "comm").read_text().strip()
                    found.append(Process(int(directory.name), name, descriptor))
                    opened.push(this_one.pop_all())
        yield found


def end(layout: Layout) -> list[str]:
    """End the daemons that no supervisor looks after any more; give their names."""
    names: set[str] = set()
    for number in (signal.SIGTERM, signal.SIGKILL):
        limit = time.monotonic() + _PATIENCE
        told: set[int] = set()
        while True:
            with of(layout) as left:
                names.update(process.name for process in left)
                for process in left:
                    # What was started meanwhile has not been told.
                    if process.number not in told:
                        process.send(number)
                told.update(process.number for process in left)
                if not left or time.monotonic() > limit:
                    break
            time.sleep(_POLL_INTERVAL)
    return sorted(names)


def holds(number: int, file: Path) -> bool:
    """Tell whether a process has ``file`` open. Raises ``PermissionError`` if it is another's."""
    try:
        links = list((_PROC / str(number) / "fd").iterdir())
    except FileNotFoundError:
        return False
    for link in links:
        with contextlib.suppress(FileNotFoundError):
            if link.readlink() == file:
                return True
    return False


def _is_daemon(process: Path, layout: Layout) -> bool:
    program, place = str((process / "exe").readlink()), (process / "cwd").readlink()
    places = (layout.run, layout.spool, layout.mail)
    return program.startswith(_DAEMONS) and any(map(place.is_relative_to, places))
