"""A container is killed, restarted, stopped, and short of memory."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable

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
                docker(*command, container.name)
                if is_over:
                    docker("start", container.name)
                rows[end].struck(lambda: works(container))
            rows[end].settle(load, container)


@pytest.mark.usefixtures("image")
def test_a_container_is_short_of_memory(rounds: int, row: Callable[[str], Row]) -> None:
    """Sessions come until the kernel has killed something; then mail flows all the same."""
    killed = row("out of memory in 128 MB")
    limit = ("--memory=128m", "--memory-swap=128m")
    with Container(*OPTIONS, *limit) as container, contextlib.ExitStack() as held:
        with Load(container, mixed, pause=0.1) as load:
            for number in range(400):
                with contextlib.suppress(*AWAY):
                    client = held.enter_context(imap(container, f"reader{number}@two.example"))
                    client.select()
                killed.times = oom_kills(container)
                if killed.times >= 3 * rounds:
                    break
            held.close()
            wait_for(lambda: works(container), "the container to work", timeout=60, interval=0.3)
        killed.settle(load, container)
    assert killed.times


def oom_kills(container: Container) -> int:
    """Count what the kernel has killed, by either version of control groups."""
    script = "cd /sys/fs/cgroup && cat memory.events memory/memory.oom_control 2>/dev/null || true"
    (count,) = re.findall(r"^oom_kill (\d+)$", container.execute("sh", "-c", script), re.MULTILINE)
    return int(count)
