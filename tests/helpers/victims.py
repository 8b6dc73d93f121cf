"""The processes of a server by what they are, to be killed one kind after the other."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from tests.helpers.server import Server

# Where the daemons' programs are, and whose they are.
_OWNERS = {"/usr/lib/postfix/sbin": "postfix ", "/usr/lib/dovecot": "dovecot "}
# They prepare a daemon, or clean up after one, and become or leave another program in a moment.
_PASSING = {
    "cat",
    "dash",
    "env",
    "rm",
    "s6-permafailon",
    "s6-setuidgid",
    "setpriv",
    "sleep",
    "stdbuf",
}


def kind_of(process: int) -> str | None:
    """Say what a process is; None for one that is on its way to become something, or has ended."""
    directory = Path("/proc") / str(process)
    try:
        program = (directory / "exe").readlink()
        if program.name in _PASSING:
            return None
        words = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    if program.name.startswith("python3"):
        # /usr/bin/python3 -ISE <libexec> <name> ...; any other Python is not a daemon's.
        return f"devmail {words[3]}" if words[1:2] == ["-ISE"] and len(words) > 4 else None
    if program.name.startswith(("nginx", "php-fpm")):
        role = "master" if "master" in words[0] else "worker"
        return f"{program.name.rstrip('0123456789.')} {role}"
    return _OWNERS.get(str(program.parent), "") + program.name


class Killer:
    """Kills a process of every kind that it finds, each kind once, in an order of chance."""

    def __init__(self, server: Server, chance: random.Random) -> None:
        self._server = server
        self._chance = chance
        # The supervisor is left alone: nobody is there to start it again.
        self.struck = {"s6-svscan"}

    def strike(self) -> str | None:
        """Kill one process of a kind that is left, and say which; None if there is none now."""
        processes = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        self._chance.shuffle(processes)
        for process in processes:
            # Some are there for a moment only: this looks fast, and does not look twice.
            kind = kind_of(process)
            if not kind or kind in self.struck or not self._server.is_ours(process):
                continue
            if _kill(process, kind):
                self.struck.add(kind)
                return kind
        return None


def _kill(process: int, kind: str) -> bool:
    """Kill a process if it still is what it was: its number may be another one's by now."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return False
    try:
        if kind_of(process) != kind:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True
