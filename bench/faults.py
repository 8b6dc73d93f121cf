"""What the built-in faults cost ordinary mail: ``python -m bench.faults``.

Prints messages per second, sent on kept connections to delivered, and the processor time of all
daemons for one of them, which other work on the machine disturbs less; with the faults on and off,
and the ratio of the two. Both servers run all the time, and take turns.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.helpers.clients import smtp
from tests.helpers.server import Server
from tests.helpers.wait import wait_for

_ROUNDS = 5
_CLIENTS = 4
_MESSAGES = 100
_BODY = "Subject: bench\r\n\r\n" + "hello there\r\n" * 150


def rate(server: Server, name: str, recipients: int) -> float:
    """Send messages to mailboxes of their own; give those delivered per second."""

    def send(client_number: int) -> None:
        to = [f"{name}{client_number}x{number}@bench.example" for number in range(recipients)]
        with smtp(server, "bench@bench.example") as client:
            for _ in range(_MESSAGES):
                client.sendmail("bench@bench.example", to, _BODY)

    began = time.monotonic()
    with ThreadPoolExecutor(_CLIENTS) as pool:
        list(pool.map(send, range(_CLIENTS)))
    expected = _CLIENTS * _MESSAGES * recipients
    mailboxes = server.mail / "bench.example"
    wait_for(
        lambda: sum(1 for _ in mailboxes.glob(f"{name}*/new/*")) >= expected,
        "the last message",
        timeout=120,
    )
    return _CLIENTS * _MESSAGES / (time.monotonic() - began)


def processor_seconds(server: Server) -> float:
    """Give the processor time of a server so far, its processes that have ended included."""
    ticks = 0
    supervisor = [server.process.pid] if server.process else []
    for process in (*supervisor, *server.processes()):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
            # proc(5): utime, stime, cutime and cstime.
            ticks += sum(map(int, stat.split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the figures for messages with one recipient and with three."""
    with Server() as on, Server(fault_suffix="none") as off:
        for recipients in (1, 3):
            rates: dict[str, list[float]] = {"on": [], "off": []}
            costs: dict[str, list[float]] = {"on": [], "off": []}
            for number in range(_ROUNDS):
                for name, server in (("on", on), ("off", off)):
                    before = processor_seconds(server)
                    rates[name].append(rate(server, f"r{recipients}n{number}c", recipients))
                    used = processor_seconds(server) - before
                    costs[name].append(1000 * used / (_CLIENTS * _MESSAGES))
            for unit, figures in (("messages/s", rates), ("ms of processor", costs)):
                with_faults, without = (statistics.median(figures[name]) for name in ("on", "off"))
                print(
                    f"{recipients} recipients: {with_faults:.1f} {unit} with the built-in faults, "
                    f"{without:.1f} without, ratio {with_faults / without:.2f}"
                )


if __name__ == "__main__":
    main()
