"""What the log shows of a conversation."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.clients import imap, send, wait_for_message
from tests.helpers.server import Server
from tests.helpers.wait import wait_for


def test_debug_logs_the_conversation_command_by_command(own_directory: Path) -> None:
    with Server(own_directory, log_level="debug") as server:
        send(server, "a@one.example", "b@two.example", "seen")
        wait_for_message(server, "b@two.example", "seen")
        with imap(server, "b@two.example") as client:
            client.select("INBOX")
            client.search(None, "SUBJECT", "seen")
        for expected in (
            "postfix/smtpd",
            "< unknown[127.0.0.1]: mail FROM:<a@one.example>",
            "> unknown[127.0.0.1]: 250 2.1.5 Ok",
            "< unknown[127.0.0.1]: rcpt TO:<b@two.example>",
            "imap(b@two.example)",
            "Command finished: SELECT INBOX",
            "Command finished: SEARCH SUBJECT",
        ):
            wait_for(lambda: expected in server.log(), f"{expected!r} in the log")  # noqa: B023


def test_a_message_can_be_followed_through_the_log(server: Server) -> None:
    """The default level: who connected and logged in, which message, where it went."""
    send(server, "from@trace.example", "to@trace.example", "traced")
    wait_for_message(server, "to@trace.example", "traced")
    for expected in (
        "sasl_method=PLAIN, sasl_username=from@trace.example",
        "from=<from@trace.example>, size=",
        "lmtp(to@trace.example)",
        "to=<to@trace.example>, relay=",
        "dovecot: imap-login: Info: Login: user=<to@trace.example>",
    ):
        wait_for(lambda: expected in server.log(), f"{expected!r} in the log")  # noqa: B023
    assert "Command finished" not in server.log()
