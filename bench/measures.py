"""What is measured: each measure is a scenario, and gives figures under the keys of its rows.

``visit`` takes every measure that a contender can be measured by, once. A row of the page is made
of the figures that all rounds gave for one key.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import processes
from bench.clients import (
    BrokenMeasureError,
    Client,
    Clock,
    Dialogue,
    Letter,
    Outcome,
    expect,
    imap_logins,
    imap_session,
    letters,
    lines,
    new_logins,
    pop3_logins,
    run,
    smtp_reply,
    smtp_session,
    smtp_sessions,
    smtp_stream,
)
from bench.contenders import Container, Contender, Limit

_PATIENCE = 120.0
_POLL_SECONDS = 0.02
# For questions over IMAP, each of which has the server look through the mailbox.
_ASK_SECONDS = 0.1
# Long enough for processes that a start leaves behind to end.
_SETTLE_SECONDS = 0.7
# Between two messages that a client waits for.
_PAUSE_SECONDS = 0.7
# Of the mailboxes on disk.
_OPENED = 50
_STREAMS = 4
_LMTP_STREAMS = 2
# Of the selected mailbox, as it was at the NOOP before.
_STATUS = b"a STATUS INBOX (MESSAGES)\r\n"
_BENCH = "bench@bench.example"


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    # Seconds in which clients begin anew, for each figure that is a rate.
    seconds: float
    messages: int
    mailboxes: int
    # Messages whose notification is waited for.
    notifications: int
    # Megabytes.
    large: tuple[int, ...]
    # Messages in a mailbox, and mailboxes on disk.
    growth: tuple[int, int]
    mailboxes_on_disk: int


FULL = Effort(
    rounds=5,
    seconds=0.5,
    messages=400,
    mailboxes=1000,
    notifications=4,
    large=(10, 50),
    growth=(1000, 100_000),
    mailboxes_on_disk=10_000,
)
SMOKE = Effort(
    rounds=1,
    seconds=0.1,
    messages=20,
    mailboxes=10,
    notifications=1,
    large=(1,),
    growth=(10, 100),
    mailboxes_on_disk=20,
)


@dataclass
class Figures:
    """The figures of one contender, by the key of what was measured."""

    values: dict[str, list[float]] = field(default_factory=dict)
    # The share of a core that the clients took, by the same keys.
    client_shares: dict[str, list[float]] = field(default_factory=dict)
    # What it would not do, by key, in a few words.
    refusals: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, *values: float) -> None:
        """Add figures of this round."""
        self.values.setdefault(key, []).extend(values)


@dataclass(frozen=True)
class LoginScenario:
    """Logins, each on a new connection, by clients that wait for nothing."""

    protocol: str
    clients: int
    tls: bool = False
    same: bool = False

    @property
    def key(self) -> str:
        """The key of its figures."""
        address = "same" if self.same else "new"
        return f"{self.protocol}.{address}.{'tls' if self.tls else 'plain'}.{self.clients}"


# Around one scenario (a new address, in the clear, 4 clients), one thing is changed at a time.
LOGINS = (
    LoginScenario("imap", 1),
    LoginScenario("imap", 4),
    LoginScenario("imap", 16),
    LoginScenario("imap", 64),
    LoginScenario("imap", 4, same=True),
    LoginScenario("imap", 4, tls=True),
    LoginScenario("pop3", 1),
    LoginScenario("pop3", 4),
    LoginScenario("pop3", 64),
    LoginScenario("pop3", 4, same=True),
    LoginScenario("pop3", 4, tls=True),
)
# What a container is measured by: it has the same configuration, behind a published port.
_CONTAINER_LOGINS = (LoginScenario("imap", 4, tls=True), LoginScenario("pop3", 4, tls=True))


def visit(contender: Contender, effort: Effort, figures: Figures) -> None:
    """Start ``contender`` on a new state, take each of its measures once, and stop it.

    Raises ``BrokenMeasureError`` or ``MissingError`` when one cannot be taken.
    """
    contender.renew()
    try:
        figures.add("start.first", contender.start())
        time.sleep(_SETTLE_SECONDS)
        figures.add("memory.idle", processes.proportional_memory(contender.processes()))
        contender.stop()
        figures.add("start.again", contender.start())
        if isinstance(contender, Container):
            figures.add("start.engine", contender.engine_seconds())
        _measure(contender, effort, figures)
    finally:
        contender.stop()


def _measure(contender: Contender, effort: Effort, figures: Figures) -> None:
    for ability, measure in _BY_ABILITY.items():
        if ability in contender.can:
            measure(contender, effort, figures)
            # What one measure left to do must not be in the way of the next.
            contender.settle()


def _rate(
    contender: Contender, key: str, clients: Sequence[Client], clock: Clock, figures: Figures
) -> Outcome:
    """Drive ``clients``, and add their rate and what each operation cost the server."""
    used = processes.processor_seconds(contender.processes())
    outcome = run(clients, clock)
    used = processes.processor_seconds(contender.processes()) - used
    figures.add(f"{key}.rate", outcome.rate)
    figures.add(f"{key}.processor", used / outcome.count)
    figures.client_shares.setdefault(key, []).append(outcome.client_share)
    return outcome


def _image(contender: Contender, effort: Effort, figures: Figures) -> None:
    del effort
    assert isinstance(contender, Container)
    figures.add("image.size", contender.image_bytes())


def _all_logins(contender: Contender, effort: Effort, figures: Figures) -> None:
    for scenario in _CONTAINER_LOGINS if isinstance(contender, Container) else LOGINS:
        _logins(contender, scenario, effort, figures)


def _logins(
    contender: Contender, scenario: LoginScenario, effort: Effort, figures: Figures
) -> None:
    endpoint = contender.endpoint(scenario.protocol + ("s" if scenario.tls else ""))
    logins = itertools.repeat("same@same.example") if scenario.same else new_logins("u")
    clock = Clock(effort.seconds)
    client = imap_logins if scenario.protocol == "imap" else pop3_logins
    if scenario.same:
        # The mailbox is made first: that is what the other scenarios measure.
        once = Clock(count=1)
        run([client(endpoint, logins, once)], once)
        clock = Clock(effort.seconds)
    clients = [client(endpoint, logins, clock) for _ in range(scenario.clients)]
    outcome = _rate(contender, scenario.key, clients, clock, figures)
    figures.add(f"{scenario.key}.latency", *outcome.latencies)


def _smtp_sessions(contender: Contender, effort: Effort, figures: Figures) -> None:
    listeners = ["smtp"] + (["smtps"] if "smtps" in contender.listeners else [])
    for listener, clients in [*((one, 4) for one in listeners), ("smtp", 1)]:
        endpoint = contender.endpoint(listener)
        mail = letters(itertools.cycle(["inbox@smtp.example"]), sender=contender.sender)
        clock = Clock(effort.seconds)
        key = f"smtp.{'tls' if listener == 'smtps' else 'plain'}.{clients}"
        sessions = [smtp_sessions(endpoint, mail, clock) for _ in range(clients)]
        _rate(contender, key, sessions, clock, figures)
        contender.settle()


def _streams(contender: Contender, recipients: Iterator[str]) -> tuple[Sequence[Client], Clock]:
    """Clients that send to ``recipients`` over a few kept connections."""
    clock = Clock()
    mail = letters(recipients, sender=contender.sender)
    login = contender.sender or _BENCH
    endpoint = contender.endpoint("smtp")
    return [smtp_stream(endpoint, mail, clock, login=login) for _ in range(_STREAMS)], clock


def _accepted(contender: Contender, effort: Effort, figures: Figures) -> None:
    recipients = itertools.repeat("inbox@accept.example", effort.messages)
    _rate(contender, "accept", *_streams(contender, recipients), figures)


def _lmtp(contender: Contender, effort: Effort, figures: Figures) -> None:
    assert isinstance(contender, Limit)
    one = itertools.repeat("one@lmtp.example", effort.messages)
    many = (f"m{number}@lmtp.example" for number in range(effort.mailboxes))
    for key, recipients in (("one", one), ("many", many)):
        mail = letters(recipients)
        clock = Clock()
        streams = [
            smtp_stream(contender.lmtp(), mail, clock, login=None) for _ in range(_LMTP_STREAMS)
        ]
        _rate(contender, f"lmtp.{key}", streams, clock, figures)


def _delivered(contender: Contender, effort: Effort, figures: Figures) -> None:
    _delivered_to_one(contender, effort, figures)
    _delivered_to_many(contender, effort, figures)


def _delivered_to_one(contender: Contender, effort: Effort, figures: Figures) -> None:
    address = "one@deliver.example"
    reader = imap_session(contender.endpoint("imap"), address)
    with _delivery(contender, "deliver.one", effort.messages, figures):
        outcome = run(*_streams(contender, itertools.repeat(address, effort.messages)))
        _wait_for_count(reader, effort.messages)
    reader.close()
    figures.add("deliver.one.accepted", outcome.rate)
    figures.client_shares.setdefault("deliver.one", []).append(outcome.client_share)


def _delivered_to_many(contender: Contender, effort: Effort, figures: Figures) -> None:
    addresses = [f"m{number}@many.example" for number in range(effort.mailboxes)]
    with _delivery(contender, "deliver.many", effort.mailboxes, figures):
        outcome = run(*_streams(contender, iter(addresses)))
        _wait_for_files([contender.mailbox(address) / "new" for address in addresses])
    figures.client_shares.setdefault("deliver.many", []).append(outcome.client_share)
    for address in addresses[:: max(1, len(addresses) // 5)]:
        reader = imap_session(contender.endpoint("imap"), address)
        _wait_for_count(reader, 1)
        reader.close()


@contextlib.contextmanager
def _delivery(contender: Contender, key: str, count: int, figures: Figures) -> Iterator[None]:
    """Add the rate at which ``count`` messages became readable, and what each cost the server."""
    used = processes.processor_seconds(contender.processes())
    began = time.perf_counter()
    yield
    figures.add(f"{key}.rate", count / (time.perf_counter() - began))
    used = processes.processor_seconds(contender.processes()) - used
    figures.add(f"{key}.processor", used / count)


def _wait_for_count(reader: Dialogue, count: int) -> None:
    """Ask over IMAP until the INBOX has so many messages."""
    until = time.monotonic() + _PATIENCE
    wanted = b"MESSAGES %d)" % count
    while wanted not in (reply := reader.say(b"a NOOP\r\n") + reader.say(_STATUS)):
        if time.monotonic() > until:
            raise BrokenMeasureError(f"not delivered in {_PATIENCE:.0f} s: {reply!r}")
        time.sleep(_ASK_SECONDS)


def _wait_for_files(directories: Sequence[Path]) -> None:
    """Wait until each Maildir has a message, looking at one at a time so as not to be a load."""
    until = time.monotonic() + _PATIENCE
    for directory in directories:
        while not _has_files(directory):
            if time.monotonic() > until:
                raise BrokenMeasureError(f"not delivered in {_PATIENCE:.0f} s: {directory}")
            time.sleep(_POLL_SECONDS)


def _has_files(directory: Path) -> bool:
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False


def _notified(contender: Contender, effort: Effort, figures: Figures) -> None:
    """From the end of DATA to the notification of a client that waits with IDLE."""
    address = "waiting@idle.example"
    sender = smtp_session(contender.endpoint("smtp"), _BENCH)
    reader = imap_session(contender.endpoint("imap"), address)
    mail = letters(itertools.repeat(address))
    for _ in range(effort.notifications):
        time.sleep(_PAUSE_SECONDS)
        figures.add("idle.readable", _notification(sender, reader, next(mail), ask=True))
    reader.say(b"a IDLE\r\n")
    for _ in range(effort.notifications):
        time.sleep(_PAUSE_SECONDS)
        figures.add("idle.notified", _notification(sender, reader, next(mail)))
    with _background_mail(contender):
        for _ in range(effort.notifications):
            time.sleep(_PAUSE_SECONDS)
            figures.add("idle.load", _notification(sender, reader, next(mail)))
    sender.close()
    reader.close()


def _notification(
    sender: Dialogue, reader: Dialogue, letter: Letter, *, ask: bool = False
) -> float:
    """Send a letter, and give the seconds until the reader is told, or gets it when it asks."""
    expect(sender.say(_envelope(letter), lines(3)), b"354")
    began = time.perf_counter()
    sender.send(letter.content)
    if ask:
        while b" EXISTS\r\n" not in reader.say(b"a NOOP\r\n"):
            time.sleep(_POLL_SECONDS / 10)
    else:
        reader.wait(lambda buffer: b" EXISTS\r\n" in buffer)
    seconds = time.perf_counter() - began
    expect(sender.wait(smtp_reply), b"250")
    return seconds


@contextlib.contextmanager
def _background_mail(contender: Contender) -> Iterator[None]:
    """Send 50 messages a second to other mailboxes meanwhile."""
    is_over = threading.Event()

    def send() -> None:
        sender = smtp_session(contender.endpoint("smtp"), _BENCH)
        recipients = itertools.cycle(f"m{number}@load.example" for number in range(100))
        for letter in letters(recipients):
            if is_over.wait(0.02):
                break
            expect(sender.say(_envelope(letter), lines(3)), b"354")
            expect(sender.say(letter.content, smtp_reply), b"250")
        sender.close()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _large(contender: Contender, effort: Effort, figures: Figures) -> None:
    """From the first command to the last octet of the message, read over IMAP."""
    for megabytes in effort.large:
        address = f"large{megabytes}@large.example"
        reader = imap_session(contender.endpoint("imap"), address)
        sender = smtp_session(contender.endpoint("smtp"), _BENCH)
        letter = next(letters(iter([address]), size=megabytes * 1_000_000))
        began = time.perf_counter()
        expect(sender.say(_envelope(letter), lines(3)), b"354")
        reply = sender.say(letter.content, smtp_reply)
        if reply.startswith(b"552"):
            figures.refusals[f"large.{megabytes}"] = "refused"
        else:
            expect(reply, b"250")
            _wait_for_count(reader, 1)
            expect(reader.say(b"a FETCH 1 BODY.PEEK[]\r\n"), b"a OK")
            figures.add(f"large.{megabytes}", time.perf_counter() - began)
        reader.close()
        sender.close()


def _envelope(letter: Letter) -> bytes:
    return f"MAIL FROM:<{letter.sender}>\r\nRCPT TO:<{letter.recipient}>\r\nDATA\r\n".encode()


_BY_ABILITY: Mapping[str, Callable[[Contender, Effort, Figures], None]] = {
    "image": _image,
    "login": _all_logins,
    "smtp": _smtp_sessions,
    "accept": _accepted,
    "lmtp": _lmtp,
    "delivery": _delivered,
    "idle": _notified,
    "big": _large,
}


def grow(contender: Contender, effort: Effort, figures: Figures) -> None:
    """Measure how a mailbox of many messages, and many mailboxes, are worked with; once."""
    contender.renew()
    try:
        for count in effort.growth:
            _fill(contender, f"full{count}@growth.example", count)
        figures.add("growth.start.0", contender.start())
        for count in effort.growth:
            _work_with(contender, f"full{count}@growth.example", count, figures)
        contender.stop()
        for number in range(effort.mailboxes_on_disk):
            _make_mailbox(contender, f"m{number}@disk{number % 100}.example")
        figures.add("growth.start.mailboxes", contender.start())
        logins = (f"m{number}@disk{number % 100}.example" for number in itertools.count())
        clock = Clock(count=min(_OPENED, effort.mailboxes_on_disk))
        outcome = run([imap_logins(contender.endpoint("imap"), logins, clock)], clock)
        figures.add("growth.login.mailboxes", outcome.seconds / outcome.count)
        time.sleep(_SETTLE_SECONDS)
        figures.add("memory.mailboxes", processes.proportional_memory(contender.processes()))
    finally:
        contender.stop()


def _make_mailbox(contender: Contender, address: str) -> Path:
    mailbox = contender.mailbox(address)
    for directory in (mailbox.parent, mailbox, *(mailbox / name for name in ("cur", "new", "tmp"))):
        if not directory.exists():
            directory.mkdir(parents=True, mode=0o700)
            shutil.chown(directory, contender.mail_owner(), contender.mail_owner())
    shutil.chown(contender.mail(), contender.mail_owner(), contender.mail_owner())
    return mailbox


def _fill(contender: Contender, address: str, count: int) -> None:
    """Put messages into a Maildir that no one has opened yet."""
    mailbox = _make_mailbox(contender, address)
    owner = (mailbox / "cur").stat()
    for number in range(count):
        content = (
            f"From: <{_BENCH}>\nTo: <{address}>\nSubject: message {number}\n"
            "Date: Mon, 23 Nov 2026 12:00:00 +0000\n\n" + "x" * 70 + "\n"
        ).encode()
        # The name tells Dovecot the sizes, as it would when it had delivered the message.
        name = f"1700000000.M{number:06}P1.bench,S={len(content)},W={len(content) + 6}:2,S"
        descriptor = os.open(mailbox / "cur" / name, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, content)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.close(descriptor)
    # Dovecot reads a Maildir again and again while its last change is seconds ago, so that a server
    # that starts sooner would look slower.
    an_hour_ago = time.time() - 3600
    for directory in ("cur", "new"):
        os.utime(mailbox / directory, (an_hour_ago, an_hour_ago))


def _work_with(contender: Contender, address: str, count: int, figures: Figures) -> None:
    endpoint = contender.endpoint("imap")

    def timed(key: str, reader: Dialogue, command: bytes) -> None:
        began = time.perf_counter()
        expect(reader.say(b"a " + command + b"\r\n"), b"a OK")
        figures.add(f"growth.{key}.{count}", time.perf_counter() - began)

    began = time.perf_counter()
    reader = imap_session(endpoint, address)
    figures.add(f"growth.select-first.{count}", time.perf_counter() - began)
    reader.close()
    reader = imap_session(endpoint, address)
    timed("select", reader, b"SELECT INBOX")
    timed("search-first", reader, b"SEARCH SUBJECT nothing")
    timed("search", reader, b"SEARCH SUBJECT nothing")
    timed("fetch-flags", reader, b"FETCH 1:* FLAGS")
    timed("fetch-last", reader, b"FETCH %d BODY.PEEK[]" % count)
    messages = 50
    clock = Clock()
    mail = letters(itertools.repeat(address, messages))
    began = time.perf_counter()
    run([smtp_stream(contender.endpoint("smtp"), mail, clock, login=_BENCH)], clock)
    _wait_for_count(reader, count + messages)
    figures.add(f"growth.deliver.{count}", (time.perf_counter() - began) / messages)
    reader.close()
