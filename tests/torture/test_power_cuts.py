"""The power goes, under load and just after the very first start."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers.disk import Disk
from tests.helpers.ledger import Row, mail_flows
from tests.helpers.load import Load, mixed
from tests.helpers.server import Server

SETTINGS = {"webmail": "roundcube", "bounce_after": "30s"}


def state(disk: Disk, name: str) -> Path:
    """Make a state directory on the disk."""
    path = disk.place / name
    path.mkdir(mode=0o755)
    return path


def cut(disk: Disk, server: Server) -> None:
    """Cut the power, and switch the machine on again."""
    disk.cut_the_power()
    server.kill_all()
    disk.come_back()
    server.spawn()


def works(server: Server) -> bool:
    return server.is_healthy() and mail_flows(server)


def test_the_power_goes_under_load(
    disk: Disk, chance: random.Random, rounds: int, row: Callable[[str], Row]
) -> None:
    cuts = row("power cut")
    with Server(state(disk, "devmail"), **SETTINGS) as server:
        ca = server.ca.read_bytes()
        for _ in range(3 * rounds):
            with Load(server, mixed, clients=8, pause=0.02) as load:
                load.wait_for(chance.randrange(200, 500))
                load.ease()
                cut(disk, server)
                cuts.struck(lambda: works(server))
            cuts.settle(load, server)
        assert server.ca.read_bytes() == ca


def test_the_power_goes_when_a_server_has_just_begun(
    disk: Disk, chance: random.Random, rounds: int, row: Callable[[str], Row]
) -> None:
    cuts = row("power cut 0-10 s after the first start")
    for round_ in range(4 * rounds):
        # Most of what can go wrong does so in the first second.
        seconds = chance.uniform(0.2, 1.5) if round_ % 2 else chance.uniform(1.5, 10)
        cut_early(disk, Server(state(disk, f"devmail{round_}"), **SETTINGS), seconds, cuts)


def cut_early(disk: Disk, server: Server, seconds: float, cuts: Row) -> None:
    with contextlib.ExitStack() as stack:
        stack.push(server)
        server.spawn()
        load = stack.enter_context(Load(server, mixed, pause=0.1))
        # At any moment of a start: no condition to wait for.
        time.sleep(seconds)
        # What a client may have trusted by then.
        ca = server.ca.read_bytes() if load.accepted else None
        load.ease()
        cut(disk, server)
        cuts.struck(lambda: works(server))
        # There may have been no time to accept anything before the cut.
        load.wait_for(20)
        cuts.settle(load, server)
        assert ca in {None, server.ca.read_bytes()}
