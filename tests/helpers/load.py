"""A load of mail, and its ledger: what was answered with 250, and what became of it."""

from __future__ import annotations

import re
import smtplib
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

from tests.helpers.clients import LOOPBACK, Reachable, imap, local_part
from tests.helpers.wait import wait_for

_BOXES = tuple(f"box{number}@two.example" for number in range(7))
# What has no ordinary spelling, and takes the way round Dovecot's LMTP, with the password of each.
_RARE = {f'"rare {number}"@two.example': f"rare {number}" for number in range(2)}
UNREACHABLE = "nobody@bad-domain.com"


def ordinary(number: int) -> Sequence[str]:
    """Give the recipients of the message with this number: one mailbox after the other."""
    return [_BOXES[number % len(_BOXES)]]


def mixed(number: int) -> Sequence[str]:
    """As ``ordinary``, with rare addresses, several recipients and an unreachable domain."""
    rare = list(_RARE)[number % len(_RARE)]
    return {
        3: [rare],
        6: [*_BOXES[:3], rare],
        8: [_BOXES[number % len(_BOXES)], UNREACHABLE],
    }.get(number % 10) or ordinary(number)


class Entry(NamedTuple):
    """One recipient of one message that was answered with 250."""

    message: str
    recipient: str


class Account(NamedTuple):
    """What became of those recipients. All that was acknowledged is delivered, bounced or lost."""

    acknowledged: int = 0
    delivered: int = 0
    bounced: int = 0
    lost: tuple[Entry, ...] = ()
    # Copies beyond the first.
    duplicated: int = 0
    # What came back although its mailbox can be reached.
    returned: int = 0

    def plus(self, other: Account) -> Account:
        return Account(
            self.acknowledged + other.acknowledged,
            self.delivered + other.delivered,
            self.bounced + other.bounced,
            self.lost + other.lost,
            self.duplicated + other.duplicated,
            self.returned + other.returned,
        )


class Load:
    """Clients that send until they are told to stop; who is cut off connects again.

    As a context manager, they stop at its end.
    """

    def __init__(
        self,
        server: Reachable,
        recipients: Callable[[int], Sequence[str]] = ordinary,
        *,
        clients: int = 4,
        pause: float = 0,
    ) -> None:
        """Send to ``recipients`` of 0, 1, 2, ..., with ``pause`` seconds in between."""
        self._server = server
        self._recipients = recipients
        self._pause = pause
        # No other load has messages of these names, and neither has a sender another one's.
        self._name = f"load{uuid.uuid4().hex[:8]}"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(clients)]
        self.accepted: list[Entry] = []
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def wait_for(self, count: int) -> None:
        """Wait until ``count`` more recipients were accepted."""
        goal = len(self.accepted) + count
        wait_for(lambda: len(self.accepted) >= goal, "a load of mail", timeout=60)

    def ease(self) -> None:
        """Go on slowly, so that the queue does not grow, and other mail is not far behind."""
        self._pause = max(self._pause, 0.25)

    def end(self) -> None:
        """Stop, and wait for the last answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def is_there(self) -> bool:
        """Tell whether every message that was accepted is in its mailbox, or has come back."""
        return not self.account().lost

    def account(self) -> Account:
        """Look for everything that was accepted."""
        acknowledged = set(self.accepted)
        assert len(acknowledged) == len(self.accepted)
        delivered = Counter(
            Entry(message, box)
            for box in {entry.recipient for entry in acknowledged} - {UNREACHABLE}
            for message in self._names(subjects(self._server, box, _RARE.get(box)))
        )
        bounced = Counter(self._bounces())
        found = (delivered + bounced).items()
        return Account(
            acknowledged=len(acknowledged),
            delivered=len(acknowledged & delivered.keys()),
            bounced=len((acknowledged & bounced.keys()) - delivered.keys()),
            returned=sum(entry.recipient != UNREACHABLE for entry in acknowledged & bounced.keys()),
            lost=tuple(sorted(acknowledged - delivered.keys() - bounced.keys())),
            duplicated=sum(count - 1 for entry, count in found if entry in acknowledged),
        )

    def _names(self, text: str) -> list[str]:
        return re.findall(rf"^Subject: ({self._name}w\d+n\d+)\r$", text, re.MULTILINE)

    def _bounces(self) -> list[Entry]:
        """Read the failed recipients of every notification, each with its message."""
        return [
            Entry(message, recipient)
            for text in fetch(self._server, self._sender, "BODY.PEEK[]")
            for message in self._names(text)
            for recipient in re.findall(r"^Final-Recipient: rfc822; (.+)\r$", text, re.MULTILINE)
        ]

    @property
    def _sender(self) -> str:
        return f"{self._name}@one.example"

    def _work(self, worker: int) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                with smtplib.SMTP(LOOPBACK, self._server.port("smtp"), timeout=5) as client:
                    client.login(self._sender, local_part(self._sender))
                    while not self._stop.wait(self._pause):
                        # A name is used once: what was sent without an answer may have arrived.
                        number += 1
                        self._send(client, f"{self._name}w{worker}n{number}", number)
            except (smtplib.SMTPException, OSError):
                # The server, or a part of it, is away for now.
                self._stop.wait(0.05)

    def _send(self, client: smtplib.SMTP, name: str, number: int) -> None:
        recipients = self._recipients(number)
        text = f"Subject: {name}\r\n\r\nx"
        refused = client.sendmail(self._sender, recipients, text)
        self.accepted += [Entry(name, one) for one in recipients if one not in refused]


def subjects(server: Reachable, login: str, password: str | None = None) -> str:
    """Read the subject lines of a mailbox, oldest first."""
    return "".join(fetch(server, login, "BODY.PEEK[HEADER.FIELDS (SUBJECT)]", password))


def fetch(server: Reachable, login: str, item: str, password: str | None = None) -> list[str]:
    """Read one item of every message of a mailbox, all with one command."""
    with imap(server, login, password) as client:
        _, count = client.select("INBOX", readonly=True)
        if count == [b"0"]:
            return []
        _, data = client.fetch("1:*", f"({item})")
        return [part[1].decode(errors="replace") for part in data if isinstance(part, tuple)]
