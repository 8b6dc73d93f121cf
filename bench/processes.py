"""The processes of a contender: all that descend from this one, orphans included."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path

# linux/prctl.h: orphaned descendants become our children, so that none is lost from sight.
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.02


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def descendants(root: int) -> list[int]:
    """List the living processes below ``root``."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # proc(5): the command's name, which may contain anything, stands in parentheses.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
    found = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def end(roots: Iterable[int], patience: float) -> None:
    """Ask ``roots`` to end, and wait for all our descendants; kill those that do not end in time.

    Processes that ask to be left alone, such as Postfix's master under ``postfix start-fg``, are
    killed once nothing else is left to wait for.
    """
    for process in roots:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    until = time.monotonic() + patience
    while left := descendants(os.getpid()):
        _reap()
        if time.monotonic() > until:
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    _reap()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def proportional_memory(processes: Iterable[int]) -> int:
    """Add up the proportional set sizes, in bytes: shared pages are counted once in all."""
    total = 0
    for process in processes:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            if match := re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE):
                total += int(match[1]) * 1024
    return total


def processor_seconds(processes: Iterable[int]) -> float:
    """Add up the processor time that the processes have used so far."""
    ticks = 0
    for process in processes:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            # utime, stime, and both of the children that were waited for.
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")
