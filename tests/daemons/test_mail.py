"""Mail from any address to any address, over every port and protocol."""

from __future__ import annotations

from tests.helpers.clients import send, wait_for_message
from tests.helpers.server import Server


def test_a_message_arrives(server: Server) -> None:
    send(server, "mail1@company1.com", "mail2@company2.com", "first")
    assert b"\r\n\r\nhello\r\n" in wait_for_message(server, "mail2@company2.com", "first")
