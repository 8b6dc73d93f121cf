"""What waits in Postfix's queue: to see it, to have it tried now, to have it come back now."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from devmail_config.errors import DevmailError, Problem
from devmail_config.layout import Layout
from devmail_config.printable import printable, printable_json

_HEADINGS = ("queue id", "arrived", "size", "sender", "recipient", "why it waits")


@dataclass(frozen=True)
class Waiting:
    """One message that waits, as `postqueue -j` describes it; see postqueue(1)."""

    queue_id: str
    queue_name: str
    arrived: datetime
    size: int
    sender: str
    # Each with the reason why it was not delivered, which is empty before the first try.
    recipients: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, line: str) -> Waiting:
        """Read one line of JSON."""
        fields: dict[str, Any] = json.loads(line)
        return cls(
            fields["queue_id"],
            fields["queue_name"],
            datetime.fromtimestamp(fields["arrival_time"]).astimezone(),
            fields["message_size"],
            fields["sender"],
            tuple((one["address"], one.get("delay_reason", "")) for one in fields["recipients"]),
        )


def listing(layout: Layout) -> tuple[list[str], list[Waiting]]:
    """Give the queue: as lines of JSON, and read, the oldest message first."""
    # Other characters than this are new lines to splitlines(), and no end of a message.
    lines = _run(layout, "/usr/sbin/postqueue", "-j").split("\n")
    waiting = [Waiting.parse(line) for line in lines if line]
    return (
        [printable_json(line) for line in lines if line],
        sorted(waiting, key=lambda one: one.arrived),
    )


def table(waiting: Sequence[Waiting]) -> str:
    """Write the queue for a person, a line for each recipient."""
    if not waiting:
        return "the queue is empty"
    # Senders, recipients and reasons contain whatever a client has said.
    rows = [
        (
            *(one.queue_id, f"{one.arrived:%H:%M:%S}", str(one.size)),
            *(printable(one.sender) or "<>", printable(address)),
            printable(reason) or one.queue_name,
        )
        for one in waiting
        for address, reason in one.recipients
    ]
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in (_HEADINGS, *rows)
    )


def flush(layout: Layout) -> None:
    """Have everything tried again now."""
    _run(layout, "/usr/sbin/postqueue", "-f")


def expire(layout: Layout) -> None:
    """Have everything that waits come back to its sender now."""
    _run(layout, "/usr/sbin/postsuper", "-e", "ALL")
    # Postfix looks at the mark when it tries the message the next time.
    flush(layout)


def _run(layout: Layout, program: str, *arguments: str) -> str:
    config = layout.config("postfix")
    if not (config / "main.cf").exists():
        raise DevmailError(
            [
                Problem(
                    f"the queue of {layout.state}",
                    "no server has run there",
                    "start one, or set DEVMAIL_STATE_DIR to that of another",
                )
            ]
        )
    done = subprocess.run(
        [program, "-c", config, *arguments],
        capture_output=True,
        encoding="utf-8",
        # What is not UTF-8 stays recognisable.
        errors="surrogateescape",
    )
    if done.returncode != 0:
        raise DevmailError(
            [
                Problem(
                    f"the queue of {layout.state}",
                    " ".join(done.stderr.split()),
                    "see whether the server runs, and be root",
                )
            ]
        )
    return done.stdout
