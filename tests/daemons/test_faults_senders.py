"""Failure tied to the sender or to the login, where the recipients cannot be chosen."""

from __future__ import annotations

import base64
import imaplib
import poplib
import smtplib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.clients import LOOPBACK, imap, messages, pop3, smtp, wait_for_message
from tests.helpers.report import wait_for_report
from tests.helpers.server import Server
from tests.helpers.session import AT_ONCE, check, deliver

RULES = """
from:mail@company1.com=mail-452-4-3-1 No room
from:rcpt@company1.com=rcpt-550-5-7-1 Not from you
from:data@company1.com=data-451
from:end@company1.com=end-554-5-6-0 Bad content
from:bounce@company1.com=bounce-5-2-1 Closed
from:late@company1.com=unreachable
from:drop@company1.com=drop
from:slow@company1.com=slow-mail-1
login:mail@logins.example=mail-553-5-7-1 Not yours
login:rcpt@logins.example=rcpt-450
login:data@logins.example=data-554
login:end@logins.example=end-451
login:bounce@logins.example=bounce
login:auth@logins.example=auth-535 5.7.1 Account disabled
login:.readers.example=login-in-use Somebody else is reading
"""
ORDINARY = "someone@company9.com"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(bounce_after="3s", faults=RULES) as running:
        yield running


def assert_neighbour_is_well(server: Server) -> None:
    outcome = deliver(server, "joe@company2.com", sender=ORDINARY, login=ORDINARY)
    assert outcome.last.code == 250
    assert outcome.seconds < AT_ONCE


def auth(server: Server, login: str, password: str = "") -> tuple[int, str, float]:
    secret = password or login.partition("@")[0]
    words = base64.b64encode(f"\0{login}\0{secret}".encode()).decode()
    with smtp(server) as client:
        began = time.monotonic()
        code, text = client.docmd("AUTH", f"PLAIN {words}")
        return code, text.decode(), time.monotonic() - began


@pytest.mark.parametrize(
    ("sender", "login", "step", "code", "text"),
    [
        ("mail@company1.com", "", "mail", 452, "^4.3.1 <.*>: Sender address rejected: No room"),
        ("rcpt@company1.com", "", "rcpt", 550, "^5.7.1 <.*>: .* rejected: Not from you"),
        ("data@company1.com", "", "data", 451, "^4.3.0 <.*>: .* rejected: Temporary failure"),
        ("end@company1.com", "", "end", 554, "^5.6.0 <.*>: .* rejected: Bad content"),
        ("", "mail@logins.example", "mail", 553, "^5.7.1 <.*>: .* rejected: Not yours"),
        ("", "rcpt@logins.example", "rcpt", 450, "^4.2.0 <.*>: .*: Temporary failure"),
        ("", "data@logins.example", "data", 554, "^5.7.1 <.*>: .*: Permanent failure"),
        ("", "end@logins.example", "end", 451, "^4.3.0 <.*>: .*: Temporary failure"),
        ("joe@mail-451.fault.test", "", "mail", 451, "^4.3.0 <.*>: .*: Temporary failure"),
        ("joe@mail-550-5-1-8.fault.test", "", "mail", 550, "^5.1.8 .*: Permanent failure"),
        ("joe@disconnect-mail.fault.test", "", "mail", 421, "^4.3.2 .*: Closing the connection"),
    ],
)
@pytest.mark.parametrize("recipients", [["a@company2.com"], ["a@company2.com", "b@company2.com"]])
def test_a_sender_or_a_login_is_refused(
    server: Server, sender: str, login: str, step: str, code: int, text: str, recipients: list[str]
) -> None:
    outcome = deliver(server, recipients, sender=sender or ORDINARY, login=login)
    check(outcome.last, code, text)
    reached = [name for name in ("rcpt", "data", "end") if getattr(outcome, name)]
    assert (reached or ["mail"])[-1] == step
    assert_neighbour_is_well(server)


@pytest.mark.parametrize("by", ["sender", "login"])
def test_mail_is_accepted_and_bounces(server: Server, by: str) -> None:
    sender = "bounce@company1.com" if by == "sender" else "by-login@company1.com"
    login = "" if by == "sender" else "bounce@logins.example"
    recipients = ["a@company2.com", '"b c"@company2.com']
    assert deliver(server, recipients, "comes back", sender=sender, login=login).last.code == 250
    report = wait_for_report(server, sender, timeout=5)
    assert report.of_recipient["Status"] == ("5.2.1" if by == "sender" else "5.1.1")
    assert report.diagnosis.startswith("X-Postfix; ")
    assert not messages(server, '"b c"@company2.com', "b c")


def test_mail_is_accepted_and_undeliverable_for_a_while(server: Server) -> None:
    sender = "late@company1.com"
    assert deliver(server, "a@company3.com", sender=sender).last.code == 250
    assert wait_for_report(server, sender).of_recipient["Status"] == "4.4.1"
    assert not messages(server, "a@company3.com")


def test_mail_is_dropped(server: Server) -> None:
    assert deliver(server, "a@company4.com", "lost", sender="drop@company1.com").last.code == 250
    assert deliver(server, "a@company4.com", "found", sender=ORDINARY).last.code == 250
    wait_for_message(server, "a@company4.com", "found")
    assert len(messages(server, "a@company4.com")) == 1


def test_a_sender_is_slow(server: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        senders = ("slow@company1.com", "joe@slow-mail-2.fault.test")
        slow = [pool.submit(deliver, server, "a@b.example", sender=sender) for sender in senders]
        assert_neighbour_is_well(server)
        first, second = (future.result() for future in slow)
    assert (first.last.code, second.last.code) == (250, 250)
    assert first.mail.seconds >= 1
    assert second.mail.seconds >= 2


@pytest.mark.parametrize(
    ("login", "text"),
    [
        ("joe@auth-535.fault.test", "5.7.8 Error: authentication failed: refused, as asked for"),
        ("auth@logins.example", "5.7.8 Error: authentication failed: 5.7.1 Account disabled"),
    ],
)
def test_a_login_is_refused_for_sending_and_not_for_reading(
    server: Server, login: str, text: str
) -> None:
    assert auth(server, login)[:2] == (535, text)
    with imap(server, login), pop3(server, login):
        pass
    assert_neighbour_is_well(server)


def test_a_login_for_sending_is_slow_or_temporarily_impossible(server: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        temporary = pool.submit(auth, server, "joe@auth-454.fault.test")
        slow = pool.submit(auth, server, "joe@slow-auth-2.fault.test")
        assert_neighbour_is_well(server)
        code, _, seconds = slow.result()
        assert (code, seconds >= 2) == (235, True)
        code, text, seconds = temporary.result()
    assert (code, text) == (
        454,
        "4.7.0 Temporary authentication failure: Connection lost to authentication server",
    )
    assert 9 < seconds < 12
    assert_neighbour_is_well(server)


def test_a_wrong_password_is_no_more_than_that(server: Server) -> None:
    code, text, seconds = auth(server, "joe@auth-454.fault.test", "wrong")
    assert (code, seconds < AT_ONCE) == (535, True)
    assert "as asked for" not in text
    with (
        pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"),
        imap(server, "joe@login-in-use.fault.test", "wrong"),
    ):
        pass


@pytest.mark.parametrize(
    ("login", "in_imap", "in_pop3"),
    [
        (
            "joe@login-unavailable.fault.test",
            r"\[UNAVAILABLE\] Temporarily unavailable, as asked for",
            r"-ERR \[SYS/TEMP\] Temporarily unavailable, as asked for",
        ),
        (
            "joe@login-in-use.fault.test",
            r"\[INUSE\] The mailbox is in use, as asked for",
            r"-ERR \[IN-USE\] The mailbox is in use, as asked for",
        ),
        (
            "joe@some.readers.example",
            r"\[INUSE\] Somebody else is reading",
            r"-ERR \[IN-USE\] Somebody else is reading",
        ),
    ],
)
def test_a_login_is_refused_for_reading_and_not_for_sending(
    server: Server, login: str, in_imap: str, in_pop3: str
) -> None:
    with pytest.raises(imaplib.IMAP4.error, match=in_imap), imap(server, login):
        pass
    with pytest.raises(poplib.error_proto, match=in_pop3), pop3(server, login):
        pass
    assert deliver(server, login, "for later", login=login).last.code == 250
    with imap(server, ORDINARY), pop3(server, ORDINARY):
        pass


def test_a_login_for_reading_is_slow(server: Server) -> None:
    login = "joe@login-slow-2.fault.test"

    def seconds(protocol: str) -> float:
        began = time.monotonic()
        with {"imap": imap, "pop3": pop3}[protocol](server, login):
            return time.monotonic() - began

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(seconds, "imap"), pool.submit(seconds, "pop3")]
        began = time.monotonic()
        with imap(server, ORDINARY), pop3(server, ORDINARY):
            assert time.monotonic() - began < AT_ONCE
        assert all(2 <= future.result() < 2 + AT_ONCE for future in running)


def test_a_fault_of_the_login_is_the_same_on_every_port(server: Server) -> None:
    with (
        smtplib.SMTP_SSL("localhost", server.port("smtps"), context=server.tls_context()) as client,
        pytest.raises(smtplib.SMTPAuthenticationError, match="refused, as asked for"),
    ):
        client.login("joe@auth-535.fault.test", "joe")
    with (
        smtplib.SMTP(LOOPBACK, server.port("submission")) as client,
        pytest.raises(smtplib.SMTPAuthenticationError, match="refused, as asked for"),
    ):
        client.login("joe@auth-535.fault.test", "joe")
