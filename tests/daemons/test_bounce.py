"""Mail that cannot be delivered comes back."""

from __future__ import annotations

import email
import fcntl
import os
import time
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

from tests.helpers.clients import messages, send, smtp, wait_for_message
from tests.helpers.server import Server, run_devmail, state_directory
from tests.helpers.wait import wait_for

SENDER = "sender@company1.com"
BOUNCE_AFTER = 4
RETRY = 2


@pytest.fixture(scope="module")
def quick() -> Iterator[Server]:
    """A server that gives up on unreachable domains after a few seconds."""
    with Server(
        bounce_after=f"{BOUNCE_AFTER}s", bad_domains="bad-domain.com down.example нет.example"
    ) as it:
        yield it


def bounce(server: Server, sender: str) -> Message:
    wait_for_message(server, sender, "Undelivered Mail Returned to Sender", timeout=40)
    return email.message_from_bytes(messages(server, sender)[0])


def parts(message: Message) -> list[Message]:
    """Give the parts of a message that has some."""
    payload = message.get_payload()
    assert isinstance(payload, list)
    return [part for part in payload if isinstance(part, Message)]


def test_a_bounce_is_a_complete_delivery_status_notification(quick: Server) -> None:
    began = time.monotonic()
    send(quick, SENDER, "joe@bad-domain.com", "is anybody there", body="the text")
    assert not messages(quick, SENDER), "it is tried for a while before it comes back"
    report = bounce(quick, SENDER)
    # Postfix counts whole seconds. The configured time, one retry, the queue's own rhythm, and a
    # busy machine.
    assert BOUNCE_AFTER - 1 <= time.monotonic() - began < BOUNCE_AFTER + 2 * RETRY + 10

    # RFC 3464, section 2, and RFC 5321, section 4.5.5.
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    assert report["Return-Path"] == "<>"
    assert report["Auto-Submitted"] == "auto-replied"
    assert report["To"] == SENDER
    text, status, original = parts(report)
    assert "joe@bad-domain.com" in text.as_string()
    of_message, of_recipient = parts(status)
    assert of_message["Reporting-MTA"] == "dns; mail.localhost"
    assert of_recipient["Final-Recipient"] == "rfc822; joe@bad-domain.com"
    assert of_recipient["Action"] == "failed"
    assert of_recipient["Status"] == "4.4.1"
    diagnosis = " ".join(of_recipient["Diagnostic-Code"].split())
    assert diagnosis == ("X-Postfix; connect to bad-domain.com[192.0.2.1]:25: Connection timed out")
    assert original.get_content_type() == "message/rfc822"
    (returned,) = parts(original)
    assert returned["Subject"] == "is anybody there"
    assert returned["From"] == SENDER
    assert returned["To"] == "joe@bad-domain.com"
    assert str(returned.get_payload()).split() == ["the", "text"]


def test_every_configured_domain_is_unreachable_and_its_neighbours_are_not(quick: Server) -> None:
    sender = "neighbour@company1.com"
    send(quick, sender, "joe@DOWN.example", "to the other one")
    send(quick, sender, "joe@sub.down.example", "below it")
    send(quick, sender, "joe@notdown.example", "beside it")
    wait_for_message(quick, "joe@sub.down.example", "below it")
    wait_for_message(quick, "joe@notdown.example", "beside it")
    assert "joe@DOWN.example" in bounce(quick, sender).as_string()


def test_mail_to_good_and_bad_recipients_is_delivered_to_the_good_and_bounced_for_the_bad(
    quick: Server,
) -> None:
    sender = "both@company1.com"
    with smtp(quick, sender) as client:
        client.sendmail(
            sender, ["ok@company2.com", "no@bad-domain.com"], "Subject: both\r\n\r\nhello\r\n"
        )
    wait_for_message(quick, "ok@company2.com", "both")
    report = bounce(quick, sender)
    assert "no@bad-domain.com" in report.as_string()
    assert "ok@company2.com" not in parts(report)[0].as_string()


def test_a_bounce_that_bounces_ends_there(quick: Server) -> None:
    """Mail from an unreachable address to another must not go round for ever."""
    with smtp(quick, SENDER) as client:
        client.sendmail("a@bad-domain.com", ["b@bad-domain.com"], "Subject: loop\r\n\r\nx\r\n")
    queue = quick.state / "spool"

    def is_empty() -> bool:
        waiting = [*queue.glob("deferred/*/*"), *queue.glob("active/*"), *queue.glob("incoming/*")]
        return not waiting

    wait_for(is_empty, "the queue to be empty", timeout=60, interval=0.1)


@pytest.mark.parametrize("domain", ["нет.example", "xn--e1apq.example"])
def test_an_internationalised_domain_is_bad_in_either_spelling(quick: Server, domain: str) -> None:
    sender = f"to-{len(domain)}@company1.com"
    with smtp(quick, sender) as client:
        client.sendmail(sender, [f"joe@{domain}"], "Subject: x\r\n\r\nx\r\n", ["SMTPUTF8"])
    assert f"joe@{domain}".encode() in parts(bounce(quick, sender))[0].get_payload(decode=True)


def test_a_message_that_was_locked_when_its_turn_came_gets_another(quick: Server) -> None:
    """On a busy machine, the process of the last try may not be done with it yet."""
    sender = "busy@company1.com"
    send(quick, sender, "locked@bad-domain.com", "locked")

    def deferred() -> Path | None:
        files = quick.state.glob("spool/deferred/*/*")
        return next((one for one in files if b"locked@bad-domain.com" in one.read_bytes()), None)

    waiting = wait_for(deferred, "the message to be deferred", interval=0.02)
    assert waiting is not None
    with waiting.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        skipped = f"{waiting.name}: skipped, still being delivered"
        wait_for(lambda: skipped in quick.log(), "the queue manager to find it locked")
    # It is now to wait for a minute, which would make this test a long one.
    aside = quick.state / "spool" / "incoming" / waiting.name
    os.utime(aside, (time.time() - 1, time.time() - 1))
    assert "locked@bad-domain.com" in bounce(quick, sender).as_string()


def test_what_waits_in_the_queue_survives_a_restart_and_then_bounces(own_directory: Path) -> None:
    with Server(own_directory, bounce_after="8s") as server:
        send(server, SENDER, "joe@bad-domain.com", "over the restart")
        assert server.stop() == 0
        server.start()
        assert "joe@bad-domain.com" in bounce(server, SENDER).as_string()


def test_the_default_is_a_minute_with_frequent_retries() -> None:
    target = state_directory() / "tree"
    assert run_devmail(["render", "--output", str(target)], {}).returncode == 0
    main_cf = (target / "postfix" / "main.cf").read_text()
    assert "\nmaximal_queue_lifetime = 60s\n" in main_cf
    assert "\nqueue_run_delay = 3s\n" in main_cf
    assert "\nmaximal_backoff_time = 6s\n" in main_cf
