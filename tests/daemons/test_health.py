"""`devmail health` sees what a client does not: mail that is refused, or not delivered."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from devmail_config.services import LISTENERS
from tests.helpers.clients import send, wait_for_message
from tests.helpers.server import Server
from tests.helpers.session import deliver
from tests.helpers.wait import wait_for

MIB = 1024**2


def verdicts(server: Server) -> dict[str, str]:
    done = server.command("health")
    assert done.stderr == ""
    found = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert done.returncode == (set(found.values()) != {"ok"})
    return found


def fill(directory: Path, left: int) -> Path:
    """Leave so many octets of a disk to others."""
    disk = os.statvfs(directory)
    ballast = directory / "ballast"
    ballast.write_bytes(bytes(disk.f_bavail * disk.f_frsize - left))
    return ballast


def test_a_server_that_works_is_well_whatever_fails_on_demand(own_directory: Path) -> None:
    with Server(own_directory, bounce_after="1h") as server:
        assert deliver(server, "joe@bad-domain.com").last.code == 250
        assert deliver(server, "joe@unreachable.fault.test").last.code == 250
        wait_for(lambda: server.command("queue").stdout.count("timed out") == 2, "the first try")
        names = [*(listener.name for listener in LISTENERS), "mailboxes", "queue"]
        assert verdicts(server) == dict.fromkeys(names, "ok")


def test_mailboxes_on_a_full_disk(mounted: Callable[[str], Path], own_directory: Path) -> None:
    disk = mounted("size=130m,mode=755")
    settings = {"message_size_limit": "10M", "bounce_after": "1h"}
    with Server(own_directory, mail_dir=str(disk / "mail"), **settings) as server:
        ballast = fill(disk, left=11 * MIB)
        assert set(verdicts(server).values()) == {"ok"}
        ballast.unlink()
        ballast = fill(disk, left=0)
        send(server, "a@one.example", "b@two.example", "waits")
        rare = "rare one"
        send(server, "a@one.example", f'"{rare}"@two.example', "waits, too")
        wait_for(lambda: "again: 2;" in verdicts(server)["queue"], "the first tries")
        found = verdicts(server)
        assert found["smtp"] == "ok"
        assert found["mailboxes"].startswith("the disk is full: 0 MiB and ")
        assert f" free at {disk}/mail, which the largest message" in found["mailboxes"]
        assert found["queue"].startswith("not delivered, and tried again: 2; the oldest: ")
        ballast.unlink()
        assert server.command("queue", "flush").returncode == 0
        wait_for_message(server, "b@two.example", "waits")
        wait_for_message(server, f'"{rare}"@two.example', "waits, too", password=rare)
        wait_for(lambda: set(verdicts(server).values()) == {"ok"}, "all to be well")


def test_a_queue_on_a_full_disk(mounted: Callable[[str], Path]) -> None:
    disk = mounted("size=130m,mode=755")
    with Server(disk, message_size_limit="10M") as server:
        fill(disk, left=14 * MIB)
        found = verdicts(server)
        for name in ("smtp", "submission", "smtps"):
            assert found[name] == "it answers 452 4.3.1 Insufficient system storage"
        assert found["imap"] == "ok"
