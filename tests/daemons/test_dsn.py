"""Delivery status notifications: RFC 3461 (what a sender asks for), RFC 3464 (what it gets)."""

from __future__ import annotations

import email
from collections.abc import Iterator
from itertools import count

import pytest

from tests.helpers.clients import messages, smtp, wait_for_message
from tests.helpers.report import Report, parts, reports, wait_for_report
from tests.helpers.server import HOSTNAME, Server
from tests.helpers.session import Outcome, converse
from tests.helpers.wait import wait_for

DELAY = 2
_number = count()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(bounce_after="6s", delay_warning_after=f"{DELAY}s") as running:
        yield running


def unique() -> str:
    return f"sender{next(_number)}@company1.com"


def send(server: Server, sender: str, recipient: str, mail: str = "", rcpt: str = "") -> Outcome:
    with smtp(server, "app@company1.com") as client:
        assert client.has_extn("dsn")
        outcome = converse(
            client, sender, [recipient], "the subject", options=mail, rcpt_options=rcpt
        )
    assert outcome.last.code == 250
    return outcome


def wait_for_empty_queue(server: Server) -> None:
    wait_for(lambda: server.command("queue").stdout == "the queue is empty\n", "an empty queue", 30)


def assert_complete(report: Report, sender: str, recipient: str) -> None:
    """What RFC 3464 and RFC 5321, section 4.5.5, ask of every notification."""
    assert report.message["Return-Path"] == "<>"
    assert report.message["Auto-Submitted"] == "auto-replied"
    assert report.message["To"] == sender
    assert report.message["Message-Id"]
    assert recipient in report.text
    assert report.of_message["Reporting-MTA"] == f"dns; {HOSTNAME}"
    assert report.of_message["Arrival-Date"]
    assert report.of_recipient["Final-Recipient"] == f"rfc822; {recipient}"
    assert report.of_recipient["Diagnostic-Code"]


def test_success_is_reported_on_request_and_only_then(server: Server) -> None:
    sender, silent = unique(), unique()
    send(server, silent, "joe@company2.com")
    send(
        server,
        sender,
        "joe@company2.com",
        "RET=HDRS ENVID=order+2B42",
        "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Joe+2Bnews@Company2.com",
    )
    report = wait_for_report(server, sender, "relayed")
    assert_complete(report, sender, "joe@company2.com")
    assert report.message["Subject"] == "Successful Mail Delivery Report"
    # Not "delivered": Dovecot's LMTP does not offer DSN, and so cannot say who would report later.
    # xtext, RFC 3461 section 4, is decoded.
    assert report.of_message["Original-Envelope-Id"] == "order+42"
    assert report.of_recipient["Original-Recipient"] == "rfc822;Joe+news@Company2.com"
    assert report.of_recipient["Status"].startswith("2.")
    assert report.returned.get_content_type() == "text/rfc822-headers"
    assert "Subject: the subject" in str(report.returned.get_payload())
    assert len(reports(server, sender)) == 1
    assert not messages(server, silent)


@pytest.mark.parametrize(
    ("mail", "content_type"),
    [("", "message/rfc822"), ("RET=FULL", "message/rfc822"), ("RET=HDRS", "text/rfc822-headers")],
)
def test_a_failure_returns_the_message_or_its_headers(
    server: Server, mail: str, content_type: str
) -> None:
    sender = unique()
    send(server, sender, "joe@bounce.fault.test", f"{mail} ENVID=id7".strip())
    report = wait_for_report(server, sender)
    assert_complete(report, sender, "joe@bounce.fault.test")
    assert report.message["Subject"] == "Undelivered Mail Returned to Sender"
    assert report.of_message["Original-Envelope-Id"] == "id7"
    assert report.of_recipient["Original-Recipient"] == "rfc822;joe@bounce.fault.test"
    assert report.of_recipient["Status"] == "5.1.1"
    assert report.returned.get_content_type() == content_type
    if content_type == "message/rfc822":
        (original,) = parts(report.returned)
        assert original["Subject"] == "the subject"
        assert str(original.get_payload()).strip() == "hello"
    else:
        assert "hello" not in str(report.returned.get_payload())


def test_what_was_not_asked_for_is_not_reported(server: Server) -> None:
    never, success = unique(), unique()
    send(server, never, "joe@bounce.fault.test", rcpt="NOTIFY=NEVER")
    send(server, never, "joe@unreachable.fault.test", rcpt="NOTIFY=NEVER")
    send(server, success, "joe@bounce.fault.test", rcpt="NOTIFY=SUCCESS")
    wait_for_empty_queue(server)
    assert not messages(server, never)
    assert not messages(server, success)


def test_a_delay_is_reported_and_then_the_failure(server: Server) -> None:
    sender = unique()
    send(server, sender, "joe@unreachable.fault.test", "ENVID=late")
    report = wait_for_report(server, sender, "delayed")
    assert_complete(report, sender, "joe@unreachable.fault.test")
    assert report.message["Subject"] == "Delayed Mail (still being retried)"
    assert report.of_message["Original-Envelope-Id"] == "late"
    assert report.of_recipient["Status"] == "4.4.1"
    assert report.of_recipient["Will-Retry-Until"]
    assert wait_for_report(server, sender, "failed").of_recipient["Status"] == "4.4.1"
    assert [one.of_recipient["Action"] for one in reports(server, sender)] == ["delayed", "failed"]


def test_a_delay_alone_can_be_asked_for(server: Server) -> None:
    delay, failure = unique(), unique()
    send(server, delay, "joe@unreachable.fault.test", rcpt="NOTIFY=DELAY")
    send(server, failure, "joe@unreachable.fault.test", rcpt="NOTIFY=FAILURE")
    wait_for_report(server, delay, "delayed")
    wait_for_report(server, failure, "failed")
    wait_for_empty_queue(server)
    assert [one.of_recipient["Action"] for one in reports(server, delay)] == ["delayed"]
    assert [one.of_recipient["Action"] for one in reports(server, failure)] == ["failed"]


def test_no_bounce_of_a_bounce(server: Server) -> None:
    with smtp(server, "app@company1.com") as client:
        outcome = converse(client, "", ["joe@bounce.fault.test", "jim@company2.com"], "null")
        assert outcome.last.code == 250
    # Its sender is a fault too, so that the bounce bounces.
    send(server, "back@bounce.fault.test", "joe@bounce.fault.test")
    wait_for_message(server, "jim@company2.com", "null")
    wait_for_empty_queue(server)
    for mailbox in (
        "jim@company2.com",
        "postmaster@mail.localhost",
        "double-bounce@mail.localhost",
    ):
        assert not reports(server, mailbox)


def test_a_sender_with_the_name_that_postfix_keeps_for_itself_gets_its_bounce(
    server: Server,
) -> None:
    sender = f"double-bounce@{HOSTNAME}"
    send(server, sender, "joe@bounce.fault.test")
    assert_complete(wait_for_report(server, sender), sender, "joe@bounce.fault.test")


def test_a_bounce_for_an_address_in_utf_8_names_it(server: Server) -> None:
    """RFC 6533: a type of its own for the part that programs read, and a type of address."""
    sender = unique()
    with smtp(server, "app@company1.com") as client:
        client.command_encoding = "utf-8"
        outcome = converse(client, sender, ["jürgen@bounce.fault.test"], options="SMTPUTF8")
        assert outcome.last.code == 250
    raw = wait_for_message(server, sender, "Undelivered Mail Returned to Sender")
    status = parts(email.message_from_bytes(raw))[1]
    assert status.get_content_type() == "message/global-delivery-status"
    assert "Final-Recipient: utf-8; jürgen@bounce.fault.test\r\n".encode() in raw
    assert b"Status: 5.1.1\r\n" in raw


def test_the_bounce_comes_in_time() -> None:
    """5 seconds, and at most 5 more."""
    sender = unique()
    with Server(bounce_after="5s") as quick:
        send(quick, sender, "joe@unreachable.fault.test", rcpt="NOTIFY=DELAY,FAILURE")
        wait_for_report(quick, sender, timeout=10)
        # No delay is reported where the setting has none.
        assert len(reports(quick, sender)) == 1
