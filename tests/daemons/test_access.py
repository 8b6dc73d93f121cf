"""Who may send, and who may log in."""

from __future__ import annotations

import contextlib
import imaplib
import poplib
import smtplib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.clients import LOOPBACK, imap, pop3, smtp, wait_for_message
from tests.helpers.server import Server

LISTENERS = ["smtp", "submission", "smtps"]
ANY_RECIPIENT = ["joe@company2.com", "joe@bad-domain.com", "postmaster@mail.localhost"]


@contextlib.contextmanager
def connected(server: Server, listener: str) -> Iterator[smtplib.SMTP]:
    port = server.port(listener)
    if listener == "smtps":
        with smtplib.SMTP_SSL("localhost", port, context=server.tls_context()) as client:
            yield client
    else:
        with smtplib.SMTP(LOOPBACK, port) as client:
            yield client


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("recipient", ANY_RECIPIENT)
def test_nobody_sends_without_a_login(server: Server, listener: str, recipient: str) -> None:
    with connected(server, listener) as client:
        client.ehlo()
        assert client.mail("mail1@company1.com")[0] == 250
        code, reply = client.rcpt(recipient)
    assert code == 530
    assert reply.startswith(b"5.7.0 <")
    assert reply.endswith(
        b"Authentication required: log in with the full address, "
        b"the password is the part before the @"
    )


POSTMASTER = [
    "<postmaster>",
    "postmaster",
    "<PostMaster>",
    '<"postmaster">',
    "<POSTMASTER> NOTIFY=NEVER",
]


@pytest.mark.parametrize("listener", LISTENERS)
def test_the_postmaster_is_a_recipient_like_all_others(server: Server, listener: str) -> None:
    """Postfix alone would take mail to him from anyone, before it looks at any restriction."""
    with connected(server, listener) as client:
        client.ehlo()
        client.mail("a@one.example")
        for path in POSTMASTER:
            assert client.docmd("RCPT", f"TO:{path}")[0] == 530, path
    with smtp(server, "a@one.example") as client:
        client.mail("a@one.example")
        for path in POSTMASTER:
            assert client.docmd("RCPT", f"TO:{path}")[0] == 250, path
        client.data(f"Subject: complaint {listener}\r\n\r\nx\r\n")
    wait_for_message(server, "postmaster@mail.localhost", f"complaint {listener}")


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("joe@x.test", 252),
        ('"|x"@y.test', 252),
        ('"a b"@x.test', 252),
        ("joe@-x", 501),
        ("<>", 501),
        (f"{'l' * 65}@x.test", 553),
    ],
)
def test_vrfy_is_answered_by_the_rule_and_only_after_a_login(
    server: Server, address: str, code: int
) -> None:
    with smtp(server, "a@one.example") as client:
        client.mail("sender@one.example")
        assert client.docmd("VRFY", address)[0] == code
    with smtp(server) as client:
        client.ehlo()
        assert client.docmd("VRFY", address)[0] != 252
        assert not client.has_extn("etrn")


@pytest.mark.parametrize("listener", LISTENERS)
def test_a_wrong_password_is_refused_at_once_when_sending(server: Server, listener: str) -> None:
    with connected(server, listener) as client:
        client.ehlo()
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(smtplib.SMTPAuthenticationError, match=r"535.*5\.7\.8"):
                client.login("mail1@company1.com", "wrong")
            # The stock configuration waits two seconds, and longer each time. No measurement.
            assert time.monotonic() - began < 2


def test_a_wrong_password_is_refused_at_once_when_reading(server: Server) -> None:
    for _ in range(3):
        began = time.monotonic()
        with (
            pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"),
            imap(server, "mail1@company1.com", "wrong"),
        ):
            pass
        with (
            pytest.raises(poplib.error_proto, match=r"-ERR \[AUTH\]"),
            pop3(server, "mail1@company1.com", "wrong"),
        ):
            pass
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "password", ["", "Mail", "mail11", "mail1@company1.com", "%n", "{PLAIN}mail1"]
)
def test_only_the_local_part_is_the_password(server: Server, password: str) -> None:
    with (
        pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"),
        imap(server, "mail1@company1.com", password),
    ):
        pass


def test_the_reason_of_a_refused_login_is_in_the_log_but_the_password_is_not(
    server: Server,
) -> None:
    with (
        pytest.raises(imaplib.IMAP4.error),
        imap(server, "reason@company1.com", "a-most-secret-word"),
    ):
        pass
    log = server.log()
    assert "login refused: 'reason@company1.com': wrong password (it is the part before" in log
    assert "a-most-secret-word" not in log


def test_whoever_is_logged_in_may_send_as_anyone(server: Server) -> None:
    with smtp(server, "someone@company1.com") as client:
        client.sendmail("the.boss@other.example", ["joe@forged.example"], "Subject: as\r\n\r\nx")
    message = wait_for_message(server, "joe@forged.example", "as")
    assert message.startswith(b"Return-Path: <the.boss@other.example>")


def test_no_login_is_needed_when_the_setting_says_so(own_directory: Path) -> None:
    with Server(own_directory, require_auth="no") as server:
        with smtp(server) as client:
            client.sendmail("a@one.example", ["b@two.example"], "Subject: open\r\n\r\nx")
        wait_for_message(server, "b@two.example", "open")
