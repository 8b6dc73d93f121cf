"""Delivery status notifications (RFC 3464), read the way a program would."""

from __future__ import annotations

import email
from email.message import Message
from typing import NamedTuple

from tests.helpers.clients import messages
from tests.helpers.server import Server
from tests.helpers.wait import wait_for


class Report(NamedTuple):
    """One notification: its parts, and the fields about the first recipient."""

    message: Message
    text: str
    of_message: Message
    of_recipient: Message
    returned: Message

    @property
    def diagnosis(self) -> str:
        return " ".join(str(self.of_recipient["Diagnostic-Code"]).split())

    @classmethod
    def parse(cls, raw: bytes) -> Report | None:
        """Read a notification; None for any other message."""
        message = email.message_from_bytes(raw)
        if message.get_content_type() != "multipart/report":
            return None
        assert message.get_param("report-type") == "delivery-status"
        text, status, returned = parts(message)
        assert status.get_content_type() == "message/delivery-status"
        of_message, of_recipient = parts(status)[:2]
        return cls(message, text.as_string(), of_message, of_recipient, returned)


def parts(message: Message) -> list[Message]:
    """Give the parts of a message that has some."""
    payload = message.get_payload()
    assert isinstance(payload, list)
    return [part for part in payload if isinstance(part, Message)]


def reports(server: Server, mailbox: str) -> list[Report]:
    """Read every notification in a mailbox."""
    return [report for raw in messages(server, mailbox) if (report := Report.parse(raw))]


def wait_for_report(
    server: Server, mailbox: str, action: str = "failed", timeout: float = 20.0
) -> Report:
    """Wait for the first notification with this ``Action`` field."""

    def look() -> Report | None:
        found = reports(server, mailbox)
        return next((one for one in found if one.of_recipient["Action"] == action), None)

    report = wait_for(look, f"a notification {action} for {mailbox}", timeout, interval=0.05)
    assert report is not None
    return report
