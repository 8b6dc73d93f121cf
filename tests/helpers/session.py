"""One SMTP session, command by command: what the server answered, and how long it took."""

from __future__ import annotations

import re
import smtplib
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.helpers.clients import local_part, sasl_plain, smtp
from tests.helpers.server import Server

# A neighbour at full speed: seconds that no pause of a test is shorter than, on a busy machine.
AT_ONCE = 1.5


class Answer(NamedTuple):
    """A reply, and the seconds that it took."""

    code: int
    text: str
    seconds: float


class Outcome(NamedTuple):
    """The answers of one message's commands, those left out that were not reached."""

    mail: Answer
    rcpt: tuple[Answer, ...] = ()
    data: Answer | None = None
    end: Answer | None = None

    @property
    def last(self) -> Answer:
        return self.end or self.data or (self.rcpt[-1] if self.rcpt else self.mail)

    @property
    def seconds(self) -> float:
        answers = [self.mail, *self.rcpt, self.data, self.end]
        return sum(answer.seconds for answer in answers if answer)


def _timed(client: smtplib.SMTP, *command: str) -> Answer:
    began = time.monotonic()
    code, text = client.docmd(*command)
    return Answer(code, text.decode(), time.monotonic() - began)


def converse(
    client: smtplib.SMTP,
    sender: str,
    recipients: Sequence[str],
    subject: str = "x",
    *,
    options: str = "",
    body: str = "hello",
    rcpt_options: str = "",
) -> Outcome:
    """Send one message, and go on to the next command as long as there is one to go on to."""
    outcome = Outcome(_timed(client, "MAIL", f"FROM:<{sender}> {options}".rstrip()))
    if outcome.mail.code != 250:
        return outcome
    for recipient in recipients:
        answer = _timed(client, "RCPT", f"TO:<{recipient}> {rcpt_options}".rstrip())
        outcome = outcome._replace(rcpt=(*outcome.rcpt, answer))
        if answer.code == 421:
            return outcome
    if not any(answer.code == 250 for answer in outcome.rcpt):
        client.docmd("RSET")
        return outcome
    outcome = outcome._replace(data=_timed(client, "DATA"))
    if outcome.last.code != 354:
        if outcome.last.code != 421:
            client.docmd("RSET")
        return outcome
    text = f"From: <{sender}>\r\nTo: {recipients[0]}\r\nSubject: {subject}\r\n\r\n{body}\r\n"
    client.send(f"{text}.\r\n")
    began = time.monotonic()
    code, reply = client.getreply()
    if code not in {250, 421}:
        # Postfix keeps the transaction open after a refusal at end of data.
        client.docmd("RSET")
    return outcome._replace(end=Answer(code, reply.decode(), time.monotonic() - began))


def deliver(
    server: Server,
    recipients: str | Sequence[str],
    subject: str = "x",
    *,
    sender: str = "sender@company1.com",
    login: str = "",
    options: str = "",
    body: str = "hello",
) -> Outcome:
    """Send one message in a session of its own."""
    given = [recipients] if isinstance(recipients, str) else recipients
    with smtp(server) as client:
        account = login or "app@company1.com"
        sasl_plain(client, account, local_part(account))
        return converse(client, sender, given, subject, options=options, body=body)


def is_closed(client: smtplib.SMTP) -> bool:
    """Tell whether the server has closed the connection."""
    assert client.sock is not None
    client.sock.settimeout(5)
    return client.sock.recv(1) == b""


def check(answer: Answer | None, code: int, text: str) -> None:
    """Assert that a reply has this code, and this expression in its text."""
    assert answer is not None
    assert answer.code == code, answer
    assert re.search(text, answer.text), answer
