"""Recipients that fail on demand, by their domain or by a rule; their neighbours do not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from tests.helpers.clients import imap, messages, sasl_plain, smtp, wait_for_message
from tests.helpers.report import reports, wait_for_report
from tests.helpers.server import Server
from tests.helpers.session import AT_ONCE, check, converse, deliver, is_closed
from tests.helpers.wait import wait_for

RULES = """
down.example=unreachable
.shop.example=rcpt-450-4-7-1 Greylisted, costs $5 & more
vip@shop.example=slow-1
calm@shop.example=drop
*-gone@people.example=reject Gone away
*.wild.example=bounce-5-2-1 Account closed
münchen.example=defer Later
box.example=quota-1-452 Overflowing
"john doe"@quoted.example=rcpt-551
"""
_number = count()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(bounce_after="4s", faults=RULES) as running:
        yield running


def unique(name: str = "someone") -> str:
    return f"{name}{next(_number)}@company1.com"


def assert_neighbour_is_well(server: Server) -> None:
    """An ordinary recipient, at this moment."""
    outcome = deliver(server, "joe@company2.com")
    assert outcome.last.code == 250
    assert outcome.seconds < AT_ONCE


@pytest.mark.parametrize(
    ("behaviour", "code", "text"),
    [
        ("reject", 550, "^5.1.1 <.*>: Recipient address rejected: No such user here, as asked for"),
        ("defer", 450, "^4.2.0 <.*>: Recipient address rejected: Try again later, as asked for"),
        ("rcpt-452", 452, "^4.3.1 .*: Temporary failure, as asked for"),
        ("rcpt-452-4-2-2", 452, "^4.2.2 .*: Temporary failure, as asked for"),
        ("rcpt-559", 559, "^5.0.0 .*: Permanent failure, as asked for"),
        ("rcpt-553-5-7-999", 553, "^5.7.999 .*: Permanent failure, as asked for"),
        ("full", 552, "^5.2.2 .*: Mailbox is full"),
        ("full-452", 452, "^4.2.2 .*: Mailbox is full"),
        ("rejct", 550, "^5.1.2 .*: There is no such fault: the page of this server lists them"),
        ("rcpt-550-4-1-1", 550, "^5.1.2 .*: There is no such fault"),
        ("rcpt-250", 550, "^5.1.2 .*: There is no such fault"),
    ],
)
def test_a_recipient_is_refused_at_rcpt(
    server: Server, behaviour: str, code: int, text: str
) -> None:
    outcome = deliver(server, f"Joe@{behaviour.upper()}.fault.test")
    assert outcome.mail.code == 250
    check(outcome.last, code, text)
    assert_neighbour_is_well(server)


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        ("data-451", "^4.3.0 <.*>: .* rejected: Temporary failure, as asked for"),
        ("data-554-5-7-1", "^5.7.1 <.*>: .*: Permanent failure, as asked for"),
        ("end-452-4-3-1", "^4.3.1 <.*>: .* rejected: Temporary failure"),
        ("end-554", "^5.7.1 <.*>: .*: Permanent failure, as asked for"),
    ],
)
@pytest.mark.parametrize("others", [[], ["a@company2.com"], ["a@company2.com", "b@defer.test"]])
def test_a_message_is_refused_at_data_or_at_its_end_whoever_else_it_is_for(
    server: Server, behaviour: str, text: str, others: list[str]
) -> None:
    step, code, *_ = behaviour.split("-")
    with smtp(server, "app@company1.com") as client:
        for recipients in ([f"x@{behaviour}.fault.test", *others], [*others, "y@company2.com"]):
            outcome = converse(client, "s@company1.com", recipients)
            assert {answer.code for answer in outcome.rcpt} == {250}
            if recipients[-1] == "y@company2.com":
                # The next message of the same session is another one.
                assert outcome.last.code == 250
            else:
                check(outcome.last, int(code), text)
                assert (outcome.end is not None) == (step == "end")


def test_one_of_several_recipients_is_refused_and_the_others_get_the_message(
    server: Server,
) -> None:
    one, other = unique(), unique()
    outcome = deliver(server, [one, "x@rcpt-550.fault.test", other], "to two of three")
    assert [answer.code for answer in outcome.rcpt] == [250, 550, 250]
    assert outcome.last.code == 250
    wait_for_message(server, one, "to two of three")
    wait_for_message(server, other, "to two of three")


@pytest.mark.parametrize("step", ["rcpt", "data", "end"])
def test_the_connection_is_closed_after_a_421(server: Server, step: str) -> None:
    with smtp(server) as client:
        sasl_plain(client, "app@company1.com", "app")
        outcome = converse(client, "s@company1.com", [f"x@disconnect-{step}.fault.test"])
        check(outcome.last, 421, "^4.3.2 .*: Closing the connection, as asked for")
        assert is_closed(client)
        client.close()
    assert_neighbour_is_well(server)


def test_bounces_at_once(server: Server) -> None:
    for domain, status, text in (
        ("bounce.fault.test", "5.1.1", "X-Postfix; No such user here, as asked for"),
        ("bounce-5-7-26.fault.test", "5.7.26", "X-Postfix; Permanent failure, as asked for"),
        ("very.wild.example", "5.2.1", "X-Postfix; Account closed"),
    ):
        sender = unique()
        assert deliver(server, f"joe@{domain}", sender=sender).last.code == 250
        report = wait_for_report(server, sender, timeout=5)
        assert report.of_recipient["Status"] == status
        assert report.diagnosis == text


def test_is_unreachable_for_a_while_and_then_bounces(server: Server) -> None:
    senders = {unique(): domain for domain in ("unreachable.fault.test", "down.example")}
    senders[unique()] = "unreachable-4-3-2.fault.test"
    for sender, domain in senders.items():
        assert deliver(server, f"joe@{domain}", sender=sender).last.code == 250
    assert_neighbour_is_well(server)
    assert not any(reports(server, sender) for sender in senders)
    for sender, domain in senders.items():
        report = wait_for_report(server, sender, timeout=15)
        special = domain.startswith("unreachable-")
        assert report.of_recipient["Status"] == ("4.3.2" if special else "4.4.1")
        assert report.diagnosis == (
            "X-Postfix; Temporary failure, as asked for"
            if special
            else "X-Postfix; connect to mx.example[192.0.2.1]:25: Connection timed out"
        )


def test_is_dropped_without_a_word(server: Server) -> None:
    sender, witness = unique(), unique()
    dropped = ["joe@drop.fault.test", "calm@shop.example"]
    assert deliver(server, [*dropped, witness], "drop it", sender=sender).last.code == 250
    wait_for_message(server, witness, "drop it")
    wait_for(lambda: server.log().count("discard") >= 2, "both to be dropped")
    assert not messages(server, sender)
    assert not messages(server, dropped[0])
    assert not messages(server, dropped[1])


def test_pauses_hold_up_nobody_else(server: Server) -> None:
    recipients = {
        "rcpt": ["x@slow-2.fault.test"],
        "data": ["x@slow-data-2.fault.test"],
        "end": ["x@slow-end-2.fault.test"],
        "several": ["y@company2.com", "x@slow-data-2.fault.test"],
        "rule": ["vip@shop.example"],
    }
    with ThreadPoolExecutor(len(recipients)) as pool:
        running = {name: pool.submit(deliver, server, given) for name, given in recipients.items()}
        assert_neighbour_is_well(server)
        done = {name: future.result() for name, future in running.items()}
    assert {outcome.last.code for outcome in done.values()} == {250}
    assert done["rcpt"].rcpt[0].seconds >= 2
    assert done["rule"].rcpt[0].seconds >= 1
    assert done["data"].data is not None
    assert done["data"].data.seconds >= 2
    assert done["several"].data is not None
    assert done["several"].data.seconds >= 2
    assert done["end"].last.seconds >= 2
    for outcome in (done["data"], done["several"], done["end"]):
        assert all(answer.seconds < AT_ONCE for answer in outcome.rcpt)


@pytest.mark.parametrize(
    ("recipient", "code", "text"),
    [
        ("Joe@Shop.Example", 450, r"^4.7.1 .*: Greylisted, costs \$5 & more"),
        ("joe@a.b.shop.example", 450, "^4.7.1 .*: Greylisted"),
        ("joe@bookshop.example", 250, "Ok"),
        ("all-gone@people.example", 550, "^5.1.1 .*: Gone away"),
        ("here@people.example", 250, "Ok"),
        ("gone@people.example", 250, "Ok"),
        ("joe@wild.example", 250, "Ok"),
        ("joe@xn--mnchen-3ya.example", 450, "^4.2.0 .*: Later"),
        ('"john doe"@quoted.example', 551, "^5.1.6 "),
        ("doe@quoted.example", 250, "Ok"),
    ],
)
def test_a_rule_applies_to_what_it_matches(
    server: Server, recipient: str, code: int, text: str
) -> None:
    check(deliver(server, recipient).last, code, text)


def test_a_rule_for_an_internationalised_domain_applies_to_both_of_its_forms(
    server: Server,
) -> None:
    with smtp(server, "app@company1.com") as client:
        client.command_encoding = "utf-8"
        outcome = converse(client, "s@company1.com", ["joe@münchen.example"], options="SMTPUTF8")
    check(outcome.last, 450, "^4.2.0 .*: Later")


def test_a_narrower_rule_wins(server: Server) -> None:
    """Mail to vip@shop.example is slow, and neither refused nor lost."""
    outcome = deliver(server, "vip@shop.example", "narrow")
    assert outcome.last.code == 250
    wait_for_message(server, "vip@shop.example", "narrow")


def test_the_address_of_a_session_that_a_fault_is_not_about_is_ordinary(server: Server) -> None:
    """Bounces reach a sender whose own domain is a fault."""
    sender = "sender@reject.fault.test"
    assert deliver(server, "x@bounce.fault.test", sender=sender).last.code == 250
    assert wait_for_report(server, sender).of_recipient["Status"] == "5.1.1"
    assert deliver(server, "login-mail@mail-451.fault.test", "as recipient").last.code == 250
    wait_for_message(server, "login-mail@mail-451.fault.test", "as recipient")


def test_a_mailbox_is_full_when_its_quota_is_used_up_and_not_after_a_deletion(
    server: Server,
) -> None:
    for box, limit, code, text in (
        ("joe@quota-2.fault.test", 2, 552, "^5.2.2 .*: Mailbox is full"),
        ("joe@box.example", 1, 452, "^4.2.2 .*: Overflowing"),
    ):
        for number in range(limit):
            assert deliver(server, box, f"number {number}").last.code == 250
            wait_for_message(server, box, f"number {number}")
        check(deliver(server, box).last, code, text)
        assert_neighbour_is_well(server)
        with imap(server, box) as client:
            assert b"QUOTA" in client.response("CAPABILITY")[1][-1].split()
            assert client.getquotaroot("INBOX")[1][1] == [
                f"Mailbox (MESSAGE {limit} {limit})".encode()
            ]
            status, answer = client.append("INBOX", "", "", b"Subject: x\r\n\r\nx\r\n")
            assert status == "NO"
            assert answer[0].startswith(b"[OVERQUOTA]")
            client.select("INBOX")
            client.store("1", "+FLAGS", r"(\Deleted)")
            client.expunge()
        assert deliver(server, box, "after the deletion").last.code == 250
        wait_for_message(server, box, "after the deletion")


def test_a_quota_can_be_a_size(server: Server) -> None:
    box = "joe@quota-9k-452.fault.test"
    assert deliver(server, box, "fits", body="x" * 70 + ("\r\n" + "x" * 70) * 80).last.code == 250
    wait_for_message(server, box, "fits")
    with imap(server, box) as client:
        (used, limit) = client.getquotaroot("INBOX")[1][1][0].rstrip(b")").split()[-2:]
        assert (int(used) in range(5, 8), limit) == (True, b"9")
    with smtp(server, "app@company1.com") as client:
        outcome = converse(client, "s@company1.com", [box], options="SIZE=8000")
    check(outcome.last, 452, "^4.2.2 .*: Mailbox is full")


def test_a_full_mailbox_shows_a_quota_and_others_have_none(server: Server) -> None:
    with imap(server, "joe@full.fault.test") as client:
        assert client.getquotaroot("INBOX")[1][1] == [b"Mailbox (STORAGE 0 1)"]
        status, answer = client.append("INBOX", "", "", b"Subject: x\r\n\r\nx\r\n")
        assert (status, answer[0].split()[0]) == ("NO", b"[OVERQUOTA]")
    with imap(server, unique()) as client:
        client._simple_command("CAPABILITY")
        assert b"QUOTA" not in client.response("CAPABILITY")[1][-1].split()
        assert client.append("INBOX", "", "", b"Subject: x\r\n\r\nx\r\n")[0] == "OK"


def test_a_message_that_does_not_fit_any_more_at_its_delivery_bounces(server: Server) -> None:
    sender, box = unique(), "late@quota-1.fault.test"
    with smtp(server, "a@company1.com") as first, smtp(server, "a@company1.com") as second:
        for client in (first, second):
            client.mail(sender)
            assert client.rcpt(box)[0] == 250
        assert first.data(b"Subject: the one that fits\r\n\r\nx")[0] == 250
        wait_for_message(server, box, "the one that fits")
        assert second.data(b"Subject: the other\r\n\r\nx")[0] == 250
    report = wait_for_report(server, sender)
    assert report.of_recipient["Status"] == "5.2.2"
    assert "Quota exceeded (mailbox for user is full)" in report.diagnosis
