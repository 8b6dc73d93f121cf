"""The rows of the page, and the targets that they are held against."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.measures import FULL, Figures

# By contender, by key.
Results = Mapping[str, Figures]


def percentile(values: Sequence[float], share: int) -> float:
    """Give the value that ``share`` per cent of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]


@dataclass(frozen=True)
class Row:
    """One figure of each contender: the median of its rounds, or a percentile of all samples."""

    key: str
    title: str
    unit: str
    # 50 and 99 are percentiles; 0 is the median of rounds, with its spread.
    share: int = 0
    # What is wanted: "more" or "less".
    better: str = "less"

    def value(self, figures: Figures | None) -> float | None:
        """Give the figure of one contender."""
        values = figures.values.get(self.key) if figures else None
        if not values:
            return None
        return percentile(values, self.share) if self.share else median(values)

    def ratio(self, results: Results, subject: str, base: str) -> float | None:
        """Divide the subject's figure by that of the base."""
        one, other = self.value(results.get(subject)), self.value(results.get(base))
        return one / other if one is not None and other else None

    def shown(self, figures: Figures | None) -> str:
        """Write the figure with its unit, and the spread of the rounds."""
        value = self.value(figures)
        if figures is None or value is None:
            return figures.refusals.get(self.key, "") if figures else ""
        values = figures.values[self.key]
        text = in_unit(value, self.unit)
        if not self.share and len(values) > 1:
            low, high = in_unit(min(values), self.unit), in_unit(max(values), self.unit)
            # The unit is not said three times where it is the same.
            suffix = re.search(r"[^\d.]*$", text)
            if suffix and low.endswith(suffix[0]) and high.endswith(suffix[0]):
                low, high = low.removesuffix(suffix[0]), high.removesuffix(suffix[0])
            text += f" ({low}-{high})" if low != high else ""
        return text


def in_unit(value: float, unit: str) -> str:
    """Write a number with three digits or so, in a unit that fits it."""
    if unit == "bytes":
        value, unit = value / 2**20, "MiB"
    elif unit == "s" and value < 1:
        value, unit = value * 1000, "ms"
    elif unit == "/s":
        return f"{value:.0f}/s" if value >= 10 else f"{value:.1f}/s"
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


@dataclass(frozen=True)
class Group:
    """A table of the page, with the scenario of its rows in words."""

    title: str
    scenario: str
    rows: tuple[Row, ...]
    contenders: tuple[str, ...]
    # The columns whose ratio is shown.
    subject: str = "devmail"
    base: str = "seed"


def _logins(protocol: str, name: str) -> tuple[Row, ...]:
    counts = (1, 4, 16, 64) if protocol == "imap" else (1, 4, 64)
    new = f"{protocol}.new.plain"
    return (
        *(
            Row(f"{new}.{count}.rate", f"{name}, new addresses, clients: {count}", "/s", 0, "more")
            for count in counts
        ),
        Row(f"{protocol}.same.plain.4.rate", f"{name}, one address, clients: 4", "/s", 0, "more"),
        Row(
            f"{protocol}.new.tls.4.rate", f"{name}, new addresses, TLS, clients: 4", "/s", 0, "more"
        ),
        *(
            Row(f"{new}.{count}.latency", f"{name}, p{share}, clients: {count}", "s", share)
            for count in (4, 64)
            for share in (50, 99)
        ),
        Row(f"{new}.4.processor", f"{name}, processor time of one", "s"),
        Row(f"{protocol}.new.tls.4.processor", f"{name}, processor time of one, TLS", "s"),
    )


_LOW, _HIGH = FULL.growth
_NATIVE = ("devmail", "seed", "limit")
_ALL = (*_NATIVE, "maildev", "sendria", "aiosmtpd")
_GROWTH = (
    ("select-first", "log in and SELECT, nothing indexed yet"),
    ("select", "SELECT again"),
    ("search-first", "SEARCH SUBJECT, for the first time"),
    ("search", "SEARCH SUBJECT again"),
    ("fetch-flags", "FETCH 1:* FLAGS"),
    ("fetch-last", "FETCH the last message"),
    ("deliver", "deliver one message into it"),
)

GROUPS = (
    Group(
        "Start and memory",
        "From the command to the first line of every port, over TLS where it is a TLS port: "
        "with an empty state directory, and again with what the first start left. Memory is "
        "the proportional set size (PSS) of all processes, shortly after the first start; "
        "the seed's has PHP for its webmail in it.",
        (
            Row("start.first", "first start", "s"),
            Row("start.again", "start again", "s"),
            Row("memory.idle", "idle memory", "bytes"),
        ),
        ("devmail", "devmail-plain", *_ALL[1:]),
    ),
    Group(
        "In a container",
        "The same with images run by Docker, ports published on loopback: devmail's, and the "
        "seed's configuration on Debian 12. Logins with a new address each over TLS, 4 "
        "clients. The size of the image includes its base.",
        (
            Row("start.first", "first start", "s"),
            Row("start.again", "start again", "s"),
            Row("start.engine", "of it until the engine says that the container runs", "s"),
            Row("memory.idle", "idle memory", "bytes"),
            Row("imap.new.tls.4.rate", "IMAP logins, TLS", "/s", 0, "more"),
            Row("pop3.new.tls.4.rate", "POP3 logins, TLS", "/s", 0, "more"),
            Row("image.size", "size of the image", "bytes"),
        ),
        ("devmail-container", "seed-container"),
        "devmail-container",
        "seed-container",
    ),
    Group(
        "Logins",
        "Connect, log in, log out, disconnect, and begin again at once. A new address each "
        "time means that a mailbox is made each time. Latency is from the start of the "
        "connection to the reply to the login.",
        (*_logins("imap", "IMAP"), *_logins("pop3", "POP3")),
        _NATIVE,
    ),
    Group(
        "Sending",
        "A session is: connect, EHLO, AUTH, one message of 2 kB, QUIT. Accepted on kept "
        "connections: 4 of them, two round trips a message. For the daemons' limit Postfix "
        "discards what it accepts.",
        (
            Row("smtp.plain.1.rate", "sessions, clients: 1", "/s", 0, "more"),
            Row("smtp.plain.4.rate", "sessions, clients: 4", "/s", 0, "more"),
            Row("smtp.tls.4.rate", "sessions, TLS, clients: 4", "/s", 0, "more"),
            Row("smtp.plain.4.processor", "processor time of a session", "s"),
            Row("accept.rate", "accepted on kept connections", "/s", 0, "more"),
            Row("deliver.one.accepted", "accepted while delivering", "/s", 0, "more"),
        ),
        _ALL,
    ),
    Group(
        "Delivery",
        "Messages of 2 kB, sent over 4 kept SMTP connections, counted when the last is "
        "readable: for one mailbox by asking over IMAP, for 1,000 mailboxes by looking at "
        "their Maildirs (and over IMAP into five of them afterwards). The limit is Dovecot's "
        "LMTP fed directly over 2 connections.",
        (
            Row("deliver.one.rate", "to one mailbox", "/s", 0, "more"),
            Row("deliver.many.rate", "to 1,000 new mailboxes", "/s", 0, "more"),
            Row("deliver.one.processor", "processor time of a message, one mailbox", "s"),
            Row("deliver.many.processor", "processor time of a message, new mailboxes", "s"),
            Row("lmtp.one.rate", "LMTP alone, to one mailbox", "/s", 0, "more"),
            Row("lmtp.many.rate", "LMTP alone, to 1,000 new mailboxes", "/s", 0, "more"),
            Row("lmtp.one.processor", "LMTP alone, processor time, one mailbox", "s"),
            Row("lmtp.many.processor", "LMTP alone, processor time, new mailboxes", "s"),
        ),
        _NATIVE,
    ),
    Group(
        "Notification",
        "From the end of DATA until a client that waits with IDLE is told of the message "
        "(`EXISTS`), on an idle server, and while 50 messages a second go to other mailboxes; "
        "and until a client that asks again and again (NOOP) is told, which shows when the "
        "message was there.",
        tuple(
            Row(f"idle.{key}", f"{title}, p{share}", "s", share)
            for key, title in (
                ("readable", "idle server, client asks"),
                ("notified", "idle server, client is told"),
                ("load", "server under load, client is told"),
            )
            for share in (50, 99)
        ),
        ("devmail", "seed"),
    ),
    Group(
        "Large messages",
        "From MAIL to the last octet of the message, fetched over IMAP. The seed accepts 10 "
        "MB at most, headers and all.",
        tuple(Row(f"large.{size}", f"{size} MB", "s") for size in FULL.large),
        ("devmail", "seed"),
    ),
    Group(
        "Growth",
        f"One mailbox of {_LOW:,} messages and one of {_HIGH:,}, put there as files; a server "
        f"with {FULL.mailboxes_on_disk:,} mailboxes on disk, of which 50 are then opened. "
        f"Measured once. What grows with the mailbox should take no more than {_HIGH // _LOW} "
        "times as long.",
        (
            *(
                Row(f"growth.{key}.{count}", f"{title}: {count:,}", "s")
                for key, title in _GROWTH
                for count in FULL.growth
            ),
            Row("growth.start.mailboxes", f"start with {FULL.mailboxes_on_disk:,} mailboxes", "s"),
            Row("growth.login.mailboxes", "log in to one of them", "s"),
            Row("memory.mailboxes", "memory after that", "bytes"),
        ),
        ("devmail", "seed"),
    ),
)


@dataclass(frozen=True)
class Target:
    """A promise about a row: a bound for its ratio to the seed, or for the figure itself."""

    title: str
    row: Row
    bound: float
    subject: str = "devmail"
    # Empty for a bound of the figure itself, in the row's unit.
    base: str = "seed"

    def measured(self, results: Results) -> float | None:
        """Give what is held against the bound."""
        if self.base:
            return self.row.ratio(results, self.subject, self.base)
        return self.row.value(results.get(self.subject))

    def is_met(self, results: Results) -> bool | None:
        """Tell whether it is; None where it was not measured."""
        measured = self.measured(results)
        if measured is None:
            return None
        return measured >= self.bound if self.row.better == "more" else measured <= self.bound


def row(key: str, share: int = 0) -> Row:
    """Find a row by its key."""
    return next(
        one for group in GROUPS for one in group.rows if (one.key, one.share) == (key, share)
    )


TARGETS = (
    Target("first start", row("start.first"), 0.4),
    Target("start again", row("start.again"), 0.4),
    Target(
        "first start, container", row("start.first"), 0.4, "devmail-container", "seed-container"
    ),
    Target(
        "start again, container", row("start.again"), 0.4, "devmail-container", "seed-container"
    ),
    Target("IMAP logins", row("imap.new.plain.4.rate"), 20),
    Target("POP3 logins", row("pop3.new.plain.4.rate"), 20),
    Target("IMAP logins, TLS", row("imap.new.tls.4.rate"), 20),
    Target("POP3 logins, TLS", row("pop3.new.tls.4.rate"), 20),
    Target("IMAP login, p99, 64 clients", row("imap.new.plain.64.latency", 99), 0.1),
    Target("POP3 login, p99, 64 clients", row("pop3.new.plain.64.latency", 99), 0.1),
    Target("SMTP sessions with AUTH and a message", row("smtp.plain.4.rate"), 5),
    Target("delivered to one mailbox", row("deliver.one.rate"), 2),
    Target("delivered to 1,000 mailboxes", row("deliver.many.rate"), 2),
    Target("end of DATA to IDLE, p50, seconds", row("idle.notified", 50), 0.05, base=""),
    Target("idle memory", row("memory.idle"), 1),
)


@dataclass(frozen=True)
class Growth:
    """The promise that a mailbox of many messages is no worse than linearly slower."""

    title: str
    low: Row
    high: Row
    bound: float

    def measured(self, results: Results) -> float | None:
        """Give how many times as long the larger mailbox took."""
        low, high = (one.value(results.get("devmail")) for one in (self.low, self.high))
        return high / low if low and high is not None else None


GROWTH = tuple(
    Growth(
        title,
        row(f"growth.{key}.{_LOW}"),
        row(f"growth.{key}.{_HIGH}"),
        _HIGH / _LOW,
    )
    for key, title in _GROWTH
)
