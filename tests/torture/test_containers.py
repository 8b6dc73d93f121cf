"""A container is killed, restarted, stopped, and short of memory."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.clients import imap
from tests.helpers.container import Container, docker
from tests.helpers.ledger import Row, mail_flows
from tests.helpers.load import Load, mixed
from tests.helpers.visits import AWAY
from tests.helpers.wait import wait_for

OPTIONS = ("--env=DEVMAIL_BOUNCE_AFTER=30s",)
# What is done to a container, and the answer to whether it has to be started afterwards.
ENDS = {
    "docker kill": (("kill", "--signal=KILL"), True),
    "docker restart -t 0": (("restart", "--time=0"), False),
    "docker stop": (("stop",), True),
}


def works(container: Container) -> bool:
    return container.works() and mail_flows(container)


@pytest.mark.usefixtures("image")
def test_a_container_ends(chance: random.Random, rounds: int, row: Callable[[str], Row]) -> None:
    rows = {end: row(end) for end in ENDS}
    with Container(*OPTIONS) as container:
        for end, (command, is_over) in list(ENDS.items()) * 2 * rounds:
            with Load(container, mixed, pause=0.02) as load:
                load.wait_for(chance.randrange(100, 300))
                load.ease()
                docker(*command, container.name)
                if is_over:
                    docker("start", container.name)
                rows[end].struck(lambda: works(container))
            rows[end].settle(load, container)


@pytest.mark.usefixtures("image")
def test_a_container_is_short_of_memory(rounds: int, row: Callable[[str], Row]) -> None:
    """Sessions come until the kernel has killed something: mail flows all the same."""
    killed = row("out of memory, in 128 MB")
    limit = ("--memory=128m", "--memory-swap=128m")
    for _ in range(rounds):
        with Container(*OPTIONS, *limit) as container, Sessions(container) as sessions:
            with Load(container, mixed, pause=0.1) as load:
                wait_for(sessions.one_more, "the kernel to kill", timeout=60, interval=0)
                killed.struck(lambda: mail_flows(container))
                load.wait_for(100)
                # Of the webmail, there is not much to be seen in so little.
                more = ("--memory=1g", "--memory-swap=1g")
                docker("update", *more, container.name)
                wait_for(lambda: works(container), "the container to work", timeout=40)
            killed.settle(load, container)
            killed.times += sessions.kills() - 1


class Sessions(contextlib.ExitStack):
    """Clients of IMAP that stay, and take the memory of a container."""

    def __init__(self, container: Container) -> None:
        super().__init__()
        self._container = container
        # From outside: there may not be enough left to ask from inside.
        self._group = Path(f"/proc/{container.state['Pid']}/root/sys/fs/cgroup")
        self._count = 0

    def one_more(self) -> bool:
        """Add one; tell whether the kernel has killed something for lack of memory."""
        self._count += 1
        with contextlib.suppress(*AWAY):
            client = self.enter_context(imap(self._container, f"reader{self._count}@two.example"))
            client.select()
        return self.kills() >= 3

    def kills(self) -> int:
        """Count what the kernel has killed, by either version of control groups."""
        for name in ("memory.events", "memory/memory.oom_control"):
            with contextlib.suppress(FileNotFoundError):
                text = (self._group / name).read_text(encoding="ascii")
                return int(dict(line.split() for line in text.splitlines())["oom_kill"])
        raise AssertionError("no count of what the kernel has killed")
