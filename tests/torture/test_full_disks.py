"""A disk is full under load, until room is made."""

from __future__ import annotations

import contextlib
import smtplib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.helpers.clients import smtp
from tests.helpers.ledger import Row, mail_flows
from tests.helpers.load import Load, mixed
from tests.helpers.server import Server
from tests.helpers.wait import wait_for

MIB = 1024**2
SETTINGS = {"bounce_after": "30s", "message_size_limit": "10M"}


def fill(directory: Path) -> Path:
    """Leave nothing of a disk to others, who write to it at the same time."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(MIB)):
            pass
    return ballast


def test_the_disk_of_the_mailboxes_is_full(
    mounted: Callable[[str], Path], own_directory: Path, rounds: int, row: Callable[[str], Row]
) -> None:
    """What is accepted meanwhile waits in the queue."""
    full = row("full disk: mailboxes")
    disk = mounted("size=130m,mode=755")
    with Server(own_directory, mail_dir=str(disk / "mail"), **SETTINGS) as server:
        for _ in range(rounds):
            with Load(server, mixed, pause=0.1) as load:
                load.wait_for(50)
                ballast = fill(disk)
                goal = deferred(server) + 20
                load.wait_for(100)
                wait_for(partial(has_deferred, server, goal), "mail that cannot be delivered")
                ballast.unlink()
                assert server.command("queue", "flush").returncode == 0
                full.struck(lambda: mail_flows(server))
            full.settle(load, server)


def has_deferred(server: Server, count: int) -> bool:
    return deferred(server) >= count


def deferred(server: Server) -> int:
    """Count the deliveries that were put off."""
    return server.log().count("status=deferred")


def test_the_disk_of_the_queue_is_full(
    mounted: Callable[[str], Path], rounds: int, row: Callable[[str], Row]
) -> None:
    """Nothing is accepted meanwhile."""
    full = row("full disk: queue and mailboxes")
    disk = mounted("size=130m,mode=755")
    with Server(disk, **SETTINGS) as server:
        for _ in range(rounds):
            with Load(server, mixed, pause=0.1) as load:
                load.wait_for(50)
                ballast = fill(disk)
                wait_for(lambda: refusal(server) == 452, "a refusal")
                ballast.unlink()
                full.struck(lambda: mail_flows(server))
            full.settle(load, server)


def refusal(server: Server) -> int:
    try:
        with smtp(server, "a@one.example") as client:
            return client.mail("a@one.example")[0]
    except (OSError, smtplib.SMTPException):
        return 0
