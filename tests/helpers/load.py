"""A load of mail of which every message that was answered with 250 is known."""

from __future__ import annotations

import re
import smtplib
import threading

from tests.helpers.clients import LOOPBACK, Reachable, messages
from tests.helpers.wait import wait_for

_CLIENTS = 4
_MAILBOXES = 7


class Load:
    """Clients that send as fast as they can until they are told to stop, or cut off."""

    def __init__(self, server: Reachable) -> None:
        self._server = server
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(_CLIENTS)]
        self.accepted: list[str] = []
        for thread in self._threads:
            thread.start()

    def wait_for(self, count: int) -> None:
        """Wait until at least ``count`` messages were accepted."""
        wait_for(lambda: len(self.accepted) >= count, "a load of mail", timeout=30)

    def end(self) -> None:
        """Stop, and wait for the last answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def is_there(self) -> bool:
        """Tell whether every message that was accepted is in its mailbox."""
        found: set[str] = set()
        for box in range(_MAILBOXES):
            for message in messages(self._server, f"box{box}@two.example"):
                found.update(re.findall(r"Subject: (w\dn\d+)", message.decode()))
        return set(self.accepted) <= found

    def _send(self, worker: int) -> None:
        try:
            with smtplib.SMTP(LOOPBACK, self._server.port("smtp"), timeout=5) as client:
                client.login("a@one.example", "a")
                number = 0
                while not self._stop.is_set():
                    name = f"w{worker}n{number}"
                    recipient = f"box{number % _MAILBOXES}@two.example"
                    client.sendmail("a@one.example", [recipient], f"Subject: {name}\r\n\r\nx")
                    self.accepted.append(name)
                    number += 1
        except (smtplib.SMTPException, OSError):
            pass
