"""What a kind of fault costs: one row of the table in docs/reliability.md."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from tests.helpers.clients import Reachable, send
from tests.helpers.load import UNREACHABLE, Account, Load, subjects
from tests.helpers.visits import AWAY
from tests.helpers.wait import wait_for

_HEADINGS = (
    *("fault, under load", "times", "acknowledged", "delivered", "bounced", "lost", "duplicated"),
    "works again after: median (most)",
)
_PROBES = itertools.count()


class Settling(Reachable, Protocol):
    """A server whose queue can be looked at."""

    def queue(self, *arguments: str) -> str: ...


class Row:
    """One kind of fault: how often, what became of the mail, how long it took to work again."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.times = 0
        self.account = Account()
        # How long it took to work again, and what it was that had been struck.
        self.seconds: list[tuple[float, str]] = []

    def struck(self, works: Callable[[], object], what: str = "") -> None:
        """Count a fault that has just been injected, and wait until the server works again."""
        self.times += 1
        began = time.monotonic()
        wait_for(works, f"the server to work after {self.fault} {what}".rstrip(), timeout=20)
        self.seconds.append((time.monotonic() - began, what))

    def settle(self, load: Load, server: Settling) -> None:
        """End a load, and account for it when nothing is on its way any more."""
        load.end()
        wait_for(lambda: has_settled(server), "an empty queue", timeout=90, interval=0.3)
        account = load.account()
        self.account = self.account.plus(account)
        assert account.acknowledged > 0, "nothing was accepted"
        assert not account.lost, f"lost: {account.lost}"
        # The faults last for less than mail is tried.
        assert not account.returned, f"returned although it can be delivered: {account.returned}"

    def cells(self) -> list[str]:
        account = self.account
        counts = (self.times, *account[:3], len(account.lost), account.duplicated)
        seconds = "-"
        if self.seconds:
            median = statistics.median(took for took, _ in self.seconds)
            longest, what = max(self.seconds)
            seconds = f"{median:.2f} s ({longest:.2f}{what and f', {what}'})"
        return [self.fault, *(f"{count:,}" for count in counts), seconds]


def table(rows: Iterable[Row]) -> list[str]:
    """Write rows in Markdown, with their sum."""
    total = Row("**all**")
    lines = [list(_HEADINGS), ["---", *["---:"] * (len(_HEADINGS) - 1)]]
    for row in rows:
        total.times += row.times
        total.account = total.account.plus(row.account)
        lines.append(row.cells())
    return [f"| {' | '.join(cells)} |" for cells in (*lines, total.cells())]


def has_settled(server: Settling) -> bool:
    """Tell whether the queue is empty; if it would be but for bounces, have these come now."""
    waiting = server.queue().strip().splitlines()
    if all(UNREACHABLE in line for line in waiting[1:]):
        server.queue("expire")
    return waiting == ["the queue is empty"]


def mail_flows(server: Reachable) -> bool:
    """Send a message to a mailbox that is new, and look for it there."""
    name = f"probe{next(_PROBES)}"
    box = f"{name}@three.example"
    try:
        send(server, "probe@three.example", box, name)
        wait_for(lambda: name in subjects(server, box), "the probe", timeout=5)
    except (*AWAY, AssertionError):
        return False
    return True
