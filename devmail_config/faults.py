"""Failure on demand: which addresses fail, how each of them fails, and what makes that happen.

A *behaviour* is one word, such as ``rcpt-452-4-2-2`` or ``first-3``. It has two uses, with one
meaning: as the domain ``<behaviour>.<suffix>`` of an address, which needs no configuration, and in
a *rule* of the setting ``faults``, ``match=behaviour text``, where addresses cannot be chosen.

Everything else follows from ``FORMS`` below. A form is an expression and a function from its groups
to a ``Behaviour``. For a rule, the groups are what was written; for the built-in domains they are
the ``$1 $2 ...`` of Postfix's regexp tables, so that one form gives the row for all its domains.

Sources: RFC 5321 section 4.2 (replies), RFC 3463 (enhanced codes), RFC 5530 and RFC 2449 (codes of
IMAP and POP3).

Only the standard library is imported at the top, because daemons start an interpreter for this
module.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from devmail_config.addresses import Address, AddressError

# What a rule can be tied to.
TO, FROM, LOGIN = "to", "from", "login"
# The steps of a session at which Postfix can answer something else, in their order.
MAIL, RCPT, DATA, END = "mail", "rcpt", "data", "end"
STEPS = (MAIL, RCPT, DATA, END)

# Expressions are POSIX extended ones that mean the same in Python; no braces, which Dovecot's
# variables give a meaning to.
_UP_TO_999 = "[1-9][0-9]?[0-9]?"
_SECONDS = "([1-9][0-9]?|[12][0-9][0-9]|300)"
_CODE = {"4": "4[0-5][0-9]", "5": "5[0-5][0-9]"}
_DETAIL = "[0-9][0-9]?[0-9]?"
# Subject and detail of the enhanced codes in IANA's registry, by the expressions that match them:
# Postfix's routes cannot take parts of an address over, and need a row for each of these.
ENHANCED = {
    "-([1-6])-([0-9]|10)": [(str(s), str(d)) for s in range(1, 7) for d in range(11)],
    "-(7)-([0-9]|[12][0-9]|30)": [("7", str(detail)) for detail in range(31)],
}
_REPLY = "(-(" + "|".join(f"{_CODE[c]}(-{c}-{_DETAIL}-{_DETAIL})?" for c in "45") + "))?"
# match=behaviour text; a quoted local part may have spaces in it.
_RULE = re.compile(
    r"""((?:[a-z]+:)?"(?:[^"\\]|\\.)*"@\S+|\S+)\s*=\s*([a-z0-9-]+)(?:\s+(.*))?""",
    re.IGNORECASE | re.DOTALL,
)
_PREFIX = re.compile(r"([a-z]+):(?=[^\]]*$)", re.IGNORECASE)
_TEXT_LENGTH = 200


class Reply(NamedTuple):
    """A negative answer: the code, the enhanced code of RFC 3463, and text."""

    code: str
    status: str
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.status} {self.text}"


class Behaviour(NamedTuple):
    """What happens (``name``), at which step, how many or how long, and the answer if there is one.

    Durations are in seconds; ``number`` may have a unit at its end: s, or k and m for sizes.
    """

    name: str
    step: str = ""
    number: str = ""
    reply: Reply | None = None

    @property
    def is_for_logins(self) -> bool:
        """Tell whether it happens at a login, where Dovecot decides."""
        return self.step in {"auth", "login"}


class Form(NamedTuple):
    """One way to write behaviours."""

    expression: str
    build: Callable[..., Behaviour]
    # What a rule with such a behaviour can be tied to; the first is what a built-in address is.
    ties: tuple[str, ...] = (TO, FROM, LOGIN)

    @property
    def groups(self) -> int:
        """Count the groups, not by compiling the expression: all of them would slow each start."""
        # In regexp(5) every parenthesis opens a group, and no form has one that stands for itself.
        return self.expression.count("(")


class FaultError(ValueError):
    """A behaviour or a rule is wrong: the message says why, ``remedy`` what to do about it."""

    def __init__(self, fault: str, remedy: str) -> None:
        """Keep both halves of what a person is told."""
        super().__init__(fault)
        self.remedy = remedy


# --- Replies ---

_TEXT = {"4": "Temporary failure, as asked for", "5": "Permanent failure, as asked for"}
# RFC 5321, section 4.2.3, with the enhanced code that fits each best; other codes get x.0.0.
_STATUS = {
    "421": "4.3.2",
    "450": "4.2.0",
    "451": "4.3.0",
    "452": "4.3.1",
    "455": "4.5.4",
    "521": "5.3.2",
    "530": "5.7.0",
    "535": "5.7.8",
    "550": "5.1.1",
    "551": "5.1.6",
    "552": "5.2.2",
    "553": "5.1.3",
    "554": "5.7.1",
    "555": "5.5.4",
    "556": "5.1.10",
}


def _reply(code: str, status: str = "", text: str = "") -> Reply:
    return Reply(code, status or _STATUS.get(code, f"{code[0]}.0.0"), text or _TEXT[code[0]])


def _written_reply(written: str | None, default: Reply) -> Reply:
    """Read ``-450-4-7-1`` at the end of a behaviour; ``default`` if there is none."""
    if not written or written.startswith("$"):
        return default
    _, code, *status = written.split("-")
    return _reply(code, ".".join(status), default.text)


def _refusals(step: str, *ties: str) -> Iterator[Form]:
    for code in _STATUS:
        known = Behaviour("reply", step, reply=_reply(code))
        yield Form(f"{step}-{code}", lambda known=known: known, ties)
    for number in "45":

        def build(
            code: str, subject: str = "0", detail: str = "0", number: str = number
        ) -> Behaviour:
            status = f"{number}.{subject}.{detail}"
            return Behaviour("reply", step, reply=Reply(code, status, _TEXT[number]))

        yield Form(f"{step}-({_CODE[number]})", build, ties)
        details = f"-{number}-({_DETAIL})-({_DETAIL})"
        yield Form(f"{step}-({_CODE[number]}){details}", build, ties)


def _counted(name: str, expression: str, default: Reply) -> Form:
    """Give the form of what needs a memory, and so our own service: a number, perhaps a reply."""

    def build(number: str, written: str | None = None, *_: str | None) -> Behaviour:
        return Behaviour(name, RCPT, number, _written_reply(written, default))

    return Form(f"{name}-({expression}){_REPLY}", build)


def _undelivered(name: str, number: str) -> Iterator[Form]:
    def build(subject: str, detail: str) -> Behaviour:
        return Behaviour(name, reply=Reply("", f"{number}.{subject}.{detail}", _TEXT[number]))

    for expression in ENHANCED:
        yield Form(f"{name}-{number}{expression}", build)


# --- What there is ---

_CLOSING = Reply("421", "4.3.2", "Closing the connection, as asked for")
_NO_USER = Reply("550", "5.1.1", "No such user here, as asked for")
_LATER = Reply("450", "4.2.0", "Try again later, as asked for")
_FULL = Reply("552", "5.2.2", "Mailbox is full")
_FULL_FOR_NOW = Reply("452", "4.2.2", "Mailbox is full")
_UNREACHABLE = Reply("", "4.4.1", "connect to mx.example[192.0.2.1]:25: Connection timed out")


def _quotas(number: str) -> Iterator[Form]:
    for end, reply in (("", _FULL), ("-452", _FULL_FOR_NOW)):
        yield Form(
            f"quota-({number}){end}",
            lambda n, reply=reply: Behaviour("quota", RCPT, n, reply),
            (TO,),
        )


FORMS: tuple[Form, ...] = (
    Form("reject", lambda: Behaviour("reply", RCPT, reply=_NO_USER)),
    Form("defer", lambda: Behaviour("reply", RCPT, reply=_LATER)),
    *_refusals(MAIL, FROM, LOGIN),
    *_refusals(RCPT, TO, FROM, LOGIN),
    *_refusals(DATA, TO, FROM, LOGIN),
    *_refusals(END, TO, FROM, LOGIN),
    Form("disconnect-mail", lambda: Behaviour("reply", MAIL, reply=_CLOSING), (FROM, LOGIN)),
    Form("disconnect-rcpt", lambda: Behaviour("reply", RCPT, reply=_CLOSING)),
    Form("disconnect-data", lambda: Behaviour("reply", DATA, reply=_CLOSING)),
    Form("disconnect-end", lambda: Behaviour("reply", END, reply=_CLOSING)),
    Form("bounce", lambda: Behaviour("bounce", reply=Reply("", "5.1.1", _NO_USER.text))),
    *_undelivered("bounce", "5"),
    Form("unreachable", lambda: Behaviour("unreachable", reply=_UNREACHABLE)),
    *_undelivered("unreachable", "4"),
    Form("drop", lambda: Behaviour("drop")),
    Form(f"slow-{_SECONDS}", lambda seconds: Behaviour("slow", RCPT, seconds)),
    Form(f"slow-mail-{_SECONDS}", lambda s: Behaviour("slow", MAIL, s), (FROM, LOGIN)),
    Form(f"slow-rcpt-{_SECONDS}", lambda seconds: Behaviour("slow", RCPT, seconds)),
    Form(f"slow-data-{_SECONDS}", lambda seconds: Behaviour("slow", DATA, seconds)),
    Form(f"slow-end-{_SECONDS}", lambda seconds: Behaviour("slow", END, seconds)),
    _counted("first", f"{_UP_TO_999}s?", _LATER),
    _counted("rate", _UP_TO_999, Reply("450", "4.7.1", "Too many messages, as asked for")),
    _counted("recipients", _UP_TO_999, Reply("452", "4.5.3", "Too many recipients, as asked for")),
    _counted("size", f"{_UP_TO_999}[km]?", Reply("552", "5.3.4", "Message too big, as asked for")),
    Form("full", lambda: Behaviour("full", RCPT, reply=_FULL), (TO,)),
    Form("full-452", lambda: Behaviour("full", RCPT, reply=_FULL_FOR_NOW), (TO,)),
    *_quotas(_UP_TO_999),
    *_quotas(f"{_UP_TO_999}[km]"),
    Form(
        "auth-535",
        lambda: Behaviour("reply", "auth", reply=_reply("535", text="refused, as asked for")),
        (LOGIN,),
    ),
    # Postfix waits ten seconds for an answer about a login, and then gives this reply by itself.
    Form("auth-454", lambda: Behaviour("silence", "auth"), (LOGIN,)),
    Form("slow-auth-([1-9])", lambda seconds: Behaviour("slow", "auth", seconds), (LOGIN,)),
    Form(
        "login-unavailable",
        lambda: Behaviour(
            "reply",
            "login",
            reply=Reply("", "UNAVAILABLE", "Temporarily unavailable, as asked for"),
        ),
        (LOGIN,),
    ),
    Form(
        "login-in-use",
        lambda: Behaviour(
            "reply",
            "login",
            reply=Reply("", "IN-USE", "The mailbox is in use, as asked for"),
        ),
        (LOGIN,),
    ),
    Form(
        "login-slow-([1-9]|[1-4][0-9])",
        lambda seconds: Behaviour("slow", "login", seconds),
        (LOGIN,),
    ),
)

# The cheat sheet: behaviours to show, by the kind of address that they are the domain of. The words
# for each are in the page's templates and in docs/faults.md, under the same example.
CHEAT_SHEET: dict[str, tuple[str, ...]] = {
    TO: (
        "reject",
        "defer",
        "rcpt-452-4-2-2",
        "data-451",
        "end-554-5-7-1",
        "disconnect-data",
        "bounce",
        "unreachable",
        "drop",
        "slow-5",
        "slow-data-5",
        "first-2",
        "first-30s",
        "rate-3",
        "recipients-2",
        "size-10k",
        "full",
        "quota-3",
    ),
    FROM: ("mail-451", "disconnect-mail", "slow-mail-5"),
    LOGIN: (
        "auth-535",
        "auth-454",
        "slow-auth-5",
        "login-unavailable",
        "login-in-use",
        "login-slow-5",
    ),
}


def parse(word: str) -> tuple[Form, Behaviour]:
    """Read a behaviour as a person wrote it.

    Raises ``FaultError`` when there is no such behaviour.
    """
    for form in FORMS:
        if match := re.fullmatch(form.expression, word.lower()):
            return form, form.build(*match.groups())
    known = [example for examples in CHEAT_SHEET.values() for example in examples]
    nearest = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    remedy = f"did you mean {nearest[0]}?" if nearest else f"known are: {', '.join(known)}"
    raise FaultError(f"there is no behaviour {word!r}", remedy)


# --- Rules ---


class Rule(NamedTuple):
    """Which addresses behave how; ``tie`` says which of the addresses in a session counts."""

    written: str
    tie: str
    match: str
    word: str
    behaviour: Behaviour
    # What the whole address has to match, case ignored, as Postfix shows it.
    expression: str

    def applies_to(self, address: str) -> bool:
        """Tell whether an address, without quotes, is meant."""
        return re.search(self.expression, address, re.IGNORECASE) is not None

    @property
    def login_patterns(self) -> tuple[str, ...]:
        """What the login has to match, in Dovecot's wildcards."""
        if "@" in self.match:
            # A rare spelling may be written in several ways: the program decides about those.
            is_plain = re.fullmatch(r"[\w*+=.@-]+", self.match, re.ASCII)
            return (self.match if is_plain else f"*@{self.match.rpartition('@')[2]}",)
        if self.match.startswith("."):
            return f"*@{self.match[1:]}", f"*@*{self.match}"
        return (f"*@{self.match}",)


def split(text: str) -> tuple[str, ...]:
    """Split the setting's text into rules: one a line, or with ``;`` in between."""
    return tuple(rule.strip() for rule in re.split("[;\n]", text) if rule.strip())


def parse_rule(written: str) -> Rule:
    """Read one rule, such as ``from:billing@shop.example=mail-451-4-7-1 Try again later``.

    Raises ``FaultError`` when it is wrong.
    """
    parts = _RULE.fullmatch(written)
    if not parts:
        raise FaultError("it is not match=behaviour", "write for example: down.example=unreachable")
    match, word, text = parts.groups()
    tie = TO
    if prefix := _PREFIX.match(match):
        tie, match = prefix[1].lower(), match[prefix.end() :]
        if tie not in {TO, FROM, LOGIN}:
            raise FaultError(f"there is no prefix {tie}:", "write to:, from: or login:")
    form, behaviour = parse(word)
    if tie not in form.ties:
        ties = " or ".join(f"{one}:" for one in form.ties)
        raise FaultError(
            f"{word} cannot be tied to {tie}:, which it does not depend on",
            f"write {ties}, for example {form.ties[0]}:{match}={word}",
        )
    if text:
        behaviour = _with_text(word, behaviour, text)
    match, expression = _expression(match)
    return Rule(written, tie, match, word.lower(), behaviour, expression)


def rules(written: Iterable[str]) -> tuple[Rule, ...]:
    """Read rules that are known to be good; the first that applies to an address counts.

    The narrower comes first: an address, a pattern of addresses, a domain, subdomains (the longer
    first), a pattern of domains.
    """

    def width(rule: Rule) -> tuple[int, int]:
        is_pattern = "*" in rule.match
        if "@" in rule.match:
            return is_pattern, 0
        if is_pattern:
            return 4, 0
        return (3, -len(rule.match)) if rule.match.startswith(".") else (2, 0)

    return tuple(sorted(map(parse_rule, written), key=width))


def judge(
    written: Iterable[str], suffix: str | None, unreachable_domains: Iterable[str]
) -> Iterator[tuple[str, FaultError]]:
    """Find every rule that is wrong, impossible, or in conflict with another one."""
    seen = {(TO, domain): f"the unreachable domain {domain}" for domain in unreachable_domains}
    for one in written:
        try:
            rule = parse_rule(one)
        except FaultError as error:
            yield one, error
            continue
        domain = rule.match.rpartition("@")[2]
        if suffix and (domain == suffix or domain.endswith(f".{suffix}")):
            yield (
                one,
                FaultError(
                    f"addresses below {suffix} have their behaviour in their domain",
                    "choose another domain, or another DEVMAIL_FAULT_SUFFIX",
                ),
            )
        elif other := seen.get((rule.tie, rule.match)):
            yield one, FaultError(f"it is in conflict with {other}", "leave one of the two out")
        else:
            seen[rule.tie, rule.match] = f"the rule {one!r}"


def _with_text(word: str, behaviour: Behaviour, text: str) -> Behaviour:
    if behaviour.reply is None:
        raise FaultError(f"{word} has no text to change", "leave the text out")
    if not re.fullmatch(r"[ -~]+", text) or len(text) > _TEXT_LENGTH:
        raise FaultError(
            f"the text is longer than {_TEXT_LENGTH} characters, or not all ASCII",
            "write a short text in ASCII, as RFC 5321 asks for",
        )
    if behaviour.name == "quota" and (special := re.search(r'[%;{}\\"#]', text)):
        raise FaultError(f"the text has a {special[0]}", "leave it out: Dovecot would read it")
    return behaviour._replace(reply=behaviour.reply._replace(text=text))


def _expression(match: str) -> tuple[str, str]:
    """Give the one normalised spelling of a match, and its expression."""
    local, at, domain = match.rpartition("@")
    if not re.fullmatch(r"[^\s\x00-\x1f]+", domain):
        raise FaultError(f"{match!r} matches nothing", "write an address or a domain")
    if not at:
        name, expression = _domain_expression(domain.lower())
        return name, f"@{expression}$"
    if "*" in match:
        if not local:
            raise FaultError(f"{match!r} has nothing before the @", "leave the @ out")
        return match.lower(), f"^{_wildcards(local, '.*')}@{_wildcards(domain, '[^@]*')}$"
    try:
        address = Address.parse(match)
    except AddressError as error:
        raise FaultError(f"{match!r} is not an address: {error}", "correct it") from None
    # Postfix takes quotes off where it looks senders and recipients up, but not for routes; a login
    # has the name of its mailbox by then.
    names = (address.local, address.written, address.mailbox)
    spellings = dict.fromkeys(name.rpartition("@")[0] or name for name in names)
    locals_ = "|".join(map(literal, spellings))
    return address.written, f"^({locals_})@{_domain_expression(address.domain)[1]}$"


def _domain_expression(domain: str) -> tuple[str, str]:
    if "*" in domain:
        return domain, _wildcards(domain, "[^@]*")
    below = domain.startswith(".")
    try:
        name = Address.parse(f"any@{domain.removeprefix('.')}").domain
    except AddressError as error:
        raise FaultError(f"{domain!r} is not a domain: {error}", "correct it") from None
    spellings = [name]
    if "xn--" in name:
        # Postfix looks an internationalised domain up as it was written, in either form.
        import idna

        spellings.append(idna.decode(name))
    names = "|".join(map(literal, spellings))
    return f".{name}" if below else name, f"{'([^@]*[.])?' if below else ''}({names})"


def _wildcards(text: str, anything: str) -> str:
    return anything.join(map(literal, text.split("*")))


def literal(text: str) -> str:
    """Write text as an expression that matches nothing else."""

    # In brackets, because a backslash gives a meaning to some characters that had none. A slash is
    # what ends an expression in Postfix's tables.
    def escaped(special: re.Match[str]) -> str:
        return f"\\{special[0]}" if special[0] in r"^\[]/" else f"[{special[0]}]"

    return re.sub(r"[^\w@=-]", escaped, text)


class Faults(NamedTuple):
    """All faults of one server: the rules, the narrower first, and the suffix of the built-in."""

    rules: tuple[Rule, ...] = ()
    suffix: str | None = None

    @classmethod
    def of(cls, written: Iterable[str], suffix: str | None) -> Faults:
        """Build it from rules that ``judge`` has found to be good."""
        return cls(rules(written), suffix)

    def find(self, tie: str, address: str) -> Behaviour | None:
        """Give the behaviour that an address, without quotes, has as recipient, sender or login."""
        for rule in self.rules:
            if rule.tie == tie and rule.applies_to(address):
                return rule.behaviour
        domain = address.rpartition("@")[2].lower()
        if self.suffix and domain.endswith(f".{self.suffix}"):
            try:
                form, behaviour = parse(domain.removesuffix(f".{self.suffix}"))
            except FaultError:
                return None
            return behaviour if form.ties[0] == tie else None
        return None

    @property
    def login_patterns(self) -> tuple[str, ...]:
        """Which logins Dovecot has to ask our program about, in its wildcards."""
        found = [
            pattern
            for rule in self.rules
            if rule.tie == LOGIN and rule.behaviour.is_for_logins
            for pattern in rule.login_patterns
        ]
        if self.suffix:
            found += (f"*@{name}-*.{self.suffix}" for name in ("auth", "slow-auth", "login"))
        return tuple(dict.fromkeys(found))
