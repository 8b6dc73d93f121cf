"""Faults that count: the first tries, a rate, a number of recipients, a size."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from tests.helpers.clients import smtp, wait_for_message
from tests.helpers.server import Server
from tests.helpers.session import AT_ONCE, check, converse, deliver
from tests.helpers.wait import wait_for

RULES = "from:fast@company1.com=rate-1-421 Slow down; login:bulk@company1.com=recipients-2; "
RULES += "first.example=first-1-451-4-3-0 Busy; from:big@company1.com=size-1k"
_number = count()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(faults=RULES) as running:
        yield running


def unique(domain: str) -> str:
    return f"joe{next(_number)}@{domain}"


def assert_neighbour_is_well(server: Server) -> None:
    outcome = deliver(server, "joe@company2.com")
    assert outcome.last.code == 250
    assert outcome.seconds < AT_ONCE


def test_ordinary_messages_never_start_an_interpreter(server: Server) -> None:
    """Not even those with several recipients, about which the gate is asked.

    The first test of its server, so that no other has started one.
    """
    for _ in range(3):
        deliver(server, ["a@company2.com", "b@company2.com"])
    assert server.processes("mawk")
    assert not server.processes("python3")


def test_the_first_tries_fail_for_each_sender_and_recipient_apart(server: Server) -> None:
    recipient = unique("first-2.fault.test")
    for _ in range(2):
        check(deliver(server, recipient).last, 450, "^4.2.0 .*: Try again later, as asked for")
        assert_neighbour_is_well(server)
    assert deliver(server, recipient, "third time").last.code == 250
    assert deliver(server, recipient).last.code == 250
    assert deliver(server, recipient, sender="other@company1.com").last.code == 450
    assert deliver(server, unique("first-2.fault.test")).last.code == 450
    wait_for_message(server, recipient, "third time")
    by_rule = unique("first.example")
    check(deliver(server, by_rule).last, 451, "^4.3.0 .*: Busy")
    assert deliver(server, by_rule).last.code == 250


def test_a_try_is_counted_in_the_same_session_too(server: Server) -> None:
    recipient = unique("first-1.fault.test")
    with smtp(server, "app@company1.com") as client:
        outcome = converse(client, "s@company1.com", [recipient, recipient, "a@company2.com"])
    assert [answer.code for answer in outcome.rcpt] == [450, 250, 250]
    assert outcome.last.code == 250


def test_tries_at_the_same_moment_are_all_counted(server: Server) -> None:
    recipient = unique("first-5.fault.test")
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: deliver(server, recipient), range(12)))
    assert sorted(outcome.last.code for outcome in outcomes) == [250] * 7 + [450] * 5


def test_tries_fail_for_the_first_seconds(server: Server) -> None:
    recipient = unique("first-2s.fault.test")
    began = time.monotonic()
    check(deliver(server, recipient).last, 450, "^4.2.0 .*: Try again later, as asked for")
    wait_for(lambda: deliver(server, recipient).last.code == 250, "it to work", interval=0.1)
    assert 2 <= time.monotonic() - began < 2 + AT_ONCE


def test_more_messages_than_the_rate_are_refused(server: Server) -> None:
    recipient = unique("rate-2.fault.test")
    assert [deliver(server, recipient).last.code for _ in range(3)] == [250, 250, 450]
    check(deliver(server, recipient).last, 450, "^4.7.1 .*: Too many messages, as asked for")
    assert deliver(server, unique("rate-2.fault.test")).last.code == 250
    assert_neighbour_is_well(server)


def test_a_rate_is_exact_however_many_clients_come_at_once(server: Server) -> None:
    clients, rounds, allowed = 60, 8, 3
    gate = threading.Barrier(clients)

    def try_each_round(_: int) -> list[bool]:
        with smtp(server, "app@company1.com") as client:
            passed = []
            for recipient in recipients:
                gate.wait(timeout=60)
                client.mail("s@company1.com")
                passed.append(client.rcpt(recipient)[0] == 250)
                client.rset()
            return passed

    recipients = [unique(f"rate-{allowed}.fault.test") for _ in range(rounds)]
    with ThreadPoolExecutor(clients) as pool:
        by_client = list(pool.map(try_each_round, range(clients)))
    assert [sum(answers) for answers in zip(*by_client, strict=True)] == [allowed] * rounds


def test_a_sender_s_rate_counts_messages_and_not_recipients(server: Server) -> None:
    sender = "fast@company1.com"
    assert deliver(server, ["a@company2.com", "b@company2.com"], sender=sender).last.code == 250
    check(deliver(server, "c@company2.com", sender=sender).last, 421, "^4.3.2 .*: Slow down")
    assert deliver(server, "c@company2.com", sender="calm@company1.com").last.code == 250


def test_more_recipients_than_allowed_are_refused_and_the_message_goes_to_the_others(
    server: Server,
) -> None:
    recipients = [unique("recipients-2.fault.test") for _ in range(3)]
    for _ in range(2):
        outcome = deliver(server, [*recipients, "a@company2.com"], "to some")
        assert [answer.code for answer in outcome.rcpt] == [250, 250, 452, 250]
        check(outcome.rcpt[2], 452, "^4.5.3 .*: Too many recipients, as asked for")
        assert outcome.last.code == 250
    wait_for_message(server, recipients[1], "to some")
    by_login = deliver(server, ["a@b.example"] * 3, login="bulk@company1.com")
    assert [answer.code for answer in by_login.rcpt] == [250, 250, 452]


@pytest.mark.parametrize("others", [[], ["a@company2.com"]])
def test_a_message_that_is_too_big_is_refused_as_early_as_possible(
    server: Server, others: list[str]
) -> None:
    recipients = [*others, unique("size-2k.fault.test")]
    small = deliver(server, recipients, body="x" * 900)
    assert small.last.code == 250
    announced = deliver(server, recipients, options="SIZE=3000")
    check(announced.rcpt[-1], 552, "^5.3.4 .*: Message too big, as asked for")
    big = deliver(server, recipients, body=("x" * 70 + "\r\n") * 50)
    assert {answer.code for answer in big.rcpt} == {250}
    check(big.end, 552, "^5.3.4 .*: Message too big, as asked for")
    assert_neighbour_is_well(server)


def test_a_sender_s_messages_can_be_too_big(server: Server) -> None:
    body = ("x" * 70 + "\r\n") * 50
    outcome = deliver(server, "a@company2.com", sender="big@company1.com", body=body)
    check(outcome.end, 552, "^5.3.4 .*: Message too big, as asked for")
    assert deliver(server, "a@company2.com", body=body).last.code == 250


def test_what_was_counted_outlives_a_restart(server: Server) -> None:
    recipient = unique("first-1.fault.test")
    assert deliver(server, recipient).last.code == 450
    assert server.stop() == 0
    server.start()
    assert deliver(server, recipient).last.code == 250


def test_what_an_earlier_version_counted_as_another_user_is_counted_on(server: Server) -> None:
    recipient = unique("first-1.fault.test")
    assert deliver(server, recipient).last.code == 450
    assert server.stop() == 0
    faults = server.state / "faults"
    for path in (faults, *faults.iterdir()):
        shutil.chown(path, "mail", "mail")
    server.start()
    assert deliver(server, recipient).last.code == 250
    assert {path.owner() for path in faults.glob("count-*")} == {"dovenull"}
