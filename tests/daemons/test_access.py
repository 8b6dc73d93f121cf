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

from devmail_config.faults import CHEAT_SHEET, TO
from tests.helpers.clients import LOOPBACK, imap, pop3, smtp, wait_for_message
from tests.helpers.server import HOSTNAME, Server

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


# Ways to write the beginning of a command: Postfix takes any white space.
BEGINNINGS = ["RCPT TO:", "rcpt to: ", "RCPT\tTO:", "RCPT  TO:\t", "\vRCPT\fTO:", "  RcPt  To:  "]
# Postfix has an exception for the first ones, and for what it calls the double-bounce sender.
LOGIN_REQUIRED = [
    *POSTMASTER,
    f"<postmaster@{HOSTNAME}>",
    f"<double-bounce@{HOSTNAME}>",
    f"<Double-Bounce@{HOSTNAME.upper()}>",
    f'<"double-bounce"@{HOSTNAME}>',
    f"double-bounce@{HOSTNAME}",
    f"<@relay.example:double-bounce@{HOSTNAME}> ORCPT=rfc822;x@y",
    "<double-bounce@[127.0.0.1]>",
    f"<mailer-daemon@{HOSTNAME}>",
    "<joe@bad-domain.com>",
    '<"a b"@company2.com>',
    "<joe@exam_ple.com>",
    *(f"<joe@{behaviour}.fault.test>" for behaviour in CHEAT_SHEET[TO]),
    "<joe@no-such-fault.fault.test>",
]
SYNTAX_ERRORS = [
    "<postmaster",
    "postmaster>",
    "<@relay.example:postmaster>",
    "<postmaster@>",
    "<double-bounce>",
    "<>",
    "<joe>",
]
SENDERS = [
    "<>",
    f"<postmaster@{HOSTNAME}>",
    f"<double-bounce@{HOSTNAME}>",
    "<mailer-daemon@localhost>",
    "<joe@bad-domain.com>",
    "<joe@bounce.fault.test>",
]


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("beginning", BEGINNINGS, ids=ascii)
def test_no_spelling_of_any_recipient_gets_past_the_login(
    server: Server, listener: str, beginning: str
) -> None:
    with connected(server, listener) as client:
        client.ehlo()
        assert client.docmd("MAIL FROM:<>")[0] == 250
        for recipient in LOGIN_REQUIRED:
            code, reply = client.docmd(beginning + recipient)
            assert (code, reply[:6]) == (530, b"5.7.0 "), recipient
        for recipient in SYNTAX_ERRORS:
            answer = client.docmd(beginning + recipient)
            assert answer == (501, b"5.1.3 Bad recipient address syntax"), recipient
        assert client.docmd("DATA") == (554, b"5.5.1 Error: no valid recipients")
        assert client.docmd("BDAT 0 LAST")[0] in {503, 554}


@pytest.mark.parametrize("sender", SENDERS)
def test_no_sender_gets_past_the_login(server: Server, sender: str) -> None:
    for listener in LISTENERS:
        with connected(server, listener) as client:
            client.ehlo()
            assert client.docmd(f"MAIL FROM:{sender}")[0] == 250
            for recipient in ("<joe@company2.com>", "<postmaster>", f"<double-bounce@{HOSTNAME}>"):
                assert client.docmd(f"RCPT TO:{recipient}")[0] == 530
            assert client.docmd("DATA")[0] == 554


def test_a_refused_sender_is_no_way_round_the_login_either(server: Server) -> None:
    with smtp(server) as client:
        client.ehlo()
        assert client.docmd("MAIL FROM:<joe@mail-451.fault.test>")[0] == 451
        assert client.docmd("RCPT TO:<postmaster>")[0] == 503
        assert client.docmd("DATA")[0] == 503


@pytest.mark.parametrize("login", ["", "app@company1.com"])
def test_nobody_may_say_that_they_are_someone_else(server: Server, login: str) -> None:
    with smtp(server, login) as client:
        for command in (
            "XCLIENT ADDR=192.0.2.1 LOGIN=joe@company1.com",
            "XFORWARD ADDR=192.0.2.1",
        ):
            assert client.docmd(command) == (550, b"5.7.0 Error: insufficient authorization")


def test_what_is_announced_is_there_and_the_rest_is_refused(server: Server) -> None:
    with smtp(server, "app@company1.com") as client:
        assert set(client.esmtp_features) == {
            *("pipelining", "size", "vrfy", "starttls", "auth", "enhancedstatuscodes"),
            *("8bitmime", "dsn", "smtputf8", "chunking"),
        }
        assert client.docmd("ETRN company1.com") == (
            502,
            b"5.5.1 <company1.com>: Etrn command rejected: ETRN is not offered here",
        )
        for command in ("EXPN staff", "HELP", "SEND FROM:<a@b>", "TURN", "ATRN"):
            assert client.docmd(command) == (500, b"5.5.2 Error: command not recognized")
        assert client.docmd("NOOP")[0] == 250


@pytest.mark.parametrize("beginning", BEGINNINGS, ids=ascii)
def test_after_a_login_postmaster_needs_no_domain(server: Server, beginning: str) -> None:
    """RFC 5321, section 4.5.1. It is the mailbox of that name at the server's own."""
    subject = f"complaint {beginning.encode().hex()}"
    with smtp(server, "app@company1.com") as client:
        for recipient in ("<postmaster>", "<PostMaster> NOTIFY=NEVER ORCPT=rfc822;postmaster"):
            assert client.docmd("MAIL FROM:<a@one.example>")[0] == 250
            assert client.docmd(beginning + recipient) == (250, b"2.1.5 Ok")
            assert client.data(f"Subject: {subject} {recipient[:12]}.\r\n\r\nx\r\n")[0] == 250
    for recipient in ("<postmaster>", "<PostMaster>"):
        wait_for_message(server, f"postmaster@{HOSTNAME}", f"{subject} {recipient}.")


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
            client.sendmail("a@one.example", ["postmaster"], "Subject: complaint\r\n\r\nx")
            assert client.docmd("VRFY b@two.example") == (252, b"2.0.0 b@two.example")
        wait_for_message(server, "b@two.example", "open")
        wait_for_message(server, f"postmaster@{HOSTNAME}", "complaint")
