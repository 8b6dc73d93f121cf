"""What Postfix and Dovecot have to be told, so that faults happen.

Tables of Postfix are regexp(5) ones. The built-in domains have their rows inside an ``if`` on the
suffix, so that an ordinary address costs one comparison a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from devmail_config.faults import (
    DATA,
    END,
    ENHANCED,
    FORMS,
    FROM,
    LOGIN,
    MAIL,
    RCPT,
    STEPS,
    TO,
    Behaviour,
    Faults,
    Form,
    literal,
)

# The table of routes, next to those of the steps.
TRANSPORT = "transport"


class Row(NamedTuple):
    """A row of one of Postfix's regexp tables; without an action it only keeps later rows off."""

    expression: str
    action: str


class Table(NamedTuple):
    """One table of Postfix: what happens at a step to those whose address of one kind matches."""

    step: str
    tie: str
    rules: tuple[Row, ...]
    # The rows for the domains below the suffix, and the expression that these have in common.
    builtin: tuple[Row, ...]
    below_suffix: str

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.step}_{self.tie}"

    @property
    def is_for_single_recipients(self) -> bool:
        """Tell whether Postfix looks here only if a message has one recipient."""
        return self.tie == TO and self.step in {DATA, END}


def tables(faults: Faults) -> tuple[Table, ...]:
    """Give Postfix's tables, those left out that would be empty."""
    found = (
        Table(
            step,
            tie,
            _rows(faults, step, tie),
            _builtin_rows(faults, step, tie),
            f"{literal(f'.{faults.suffix}')}$",
        )
        for step in (*STEPS, TRANSPORT)
        for tie in (TO, FROM, LOGIN)
    )
    return tuple(
        table for table in found if table.builtin or any(row.action for row in table.rules)
    )


def actions(behaviour: Behaviour, tie: str) -> dict[str, str]:
    """Give the access(5) action for each step that differs, and the route if that does.

    ``fault_<tie>`` and ``fault_quota`` are restriction classes of main.cf: our own service, and
    Dovecot's.
    """
    ours = f"fault_{tie}"
    reply, step = behaviour.reply, behaviour.step
    match behaviour.name:
        case "bounce" | "unreachable" | "drop":
            route = _route(behaviour)
            return {TRANSPORT: route} if tie == TO else {MAIL: f"FILTER {route}"}
        case "first" | "rate" | "recipients":
            return {RCPT: ours}
        case "size":
            return {RCPT: ours, END: ours}
        case "quota":
            return {RCPT: "fault_quota"}
        case _ if step not in STEPS:
            return {}
        case "slow":
            action = f"sleep {behaviour.number}"
        case _:
            action = str(reply)
    # Postfix knows the recipient at these two steps only when it is the only one. For all other
    # messages our service takes a note at RCPT of what has to happen later.
    note = {RCPT: ours} if tie == TO and step in {DATA, END} else {}
    return {**note, step: action}


def _route(behaviour: Behaviour) -> str:
    service = {"bounce": "error", "unreachable": "retry", "drop": "discard"}[behaviour.name]
    reply = behaviour.reply
    if reply is None:
        return f"{service}:dropped, as asked for"
    return f"{service}:{reply.status} {reply.text}"


def _rows(faults: Faults, step: str, tie: str) -> tuple[Row, ...]:
    return tuple(
        # A dollar sign would be the start of a group's number.
        Row(rule.expression, actions(rule.behaviour, tie).get(step, "").replace("$", "$$"))
        for rule in faults.rules
        if rule.tie == tie
    )


def _builtin_rows(faults: Faults, step: str, tie: str) -> tuple[Row, ...]:
    if not faults.suffix:
        return ()
    rows = []
    for form in FORMS:
        if form.ties[0] != tie:
            continue
        for expression, behaviour in _instances(form, step):
            if action := actions(behaviour, tie).get(step, ""):
                rows.append(Row(_builtin(faults, expression), action))
    if rows and (step, tie) == (RCPT, TO):
        rows += (
            Row(_builtin(faults, "(" + "|".join(form.expression for form in FORMS) + ")"), "DUNNO"),
            Row(
                _builtin(faults, "[^@]*"),
                "550 5.1.2 There is no such fault: the page of this server lists them",
            ),
        )
    return tuple(rows)


def _instances(form: Form, step: str) -> Iterator[tuple[str, Behaviour]]:
    """Give the expressions of a form, and what each stands for, groups being Postfix's to fill."""
    for enhanced, codes in ENHANCED.items():
        if step == TRANSPORT and form.expression.endswith(enhanced):
            for code in codes:
                expression = form.expression.replace(enhanced, f"-{'-'.join(code)}")
                yield expression, form.build(*code)
            return
    yield form.expression, form.build(*(f"${number + 1}" for number in range(form.groups)))


def _builtin(faults: Faults, expression: str) -> str:
    return f"@{expression}{literal(f'.{faults.suffix}')}$"


class Quota(NamedTuple):
    """How much fits into the mailboxes whose names match, in the words of Dovecot's settings."""

    expression: str
    # An expression for the mailboxes that a narrower rule is about, or nothing.
    unless: str
    messages: str
    storage: str
    reply: str


class Quotas(NamedTuple):
    """All mailboxes with a quota, as conditions of Dovecot's variables, which have no spaces.

    https://doc.dovecot.org/2.3/configuration_manual/config_file/config_variables/
    """

    rules: tuple[Quota, ...]
    builtin: tuple[Quota, ...]
    suffix: str | None

    @classmethod
    def of(cls, faults: Faults) -> Quotas | None:
        """Find them; None if there are none."""
        earlier: list[str] = []
        rules = []
        for rule in faults.rules:
            if rule.tie != TO:
                continue
            expression = _in_dovecot(rule.expression)
            if rule.behaviour.name in {"full", "quota"}:
                rules.append(_quota(expression, "|".join(earlier), rule.behaviour))
            earlier.append(expression)
        builtin = []
        for form in FORMS if faults.suffix else ():
            # Dovecot cuts the number out of the name: it begins and ends at known places.
            end = len(f".{faults.suffix}") + ("-452" in form.expression) * len("-452")
            number = f"%{len('quota-')}.-{end}Ld"
            behaviour = form.build(*[number] * form.groups)
            if behaviour.name in {"full", "quota"}:
                expression = _in_dovecot(_builtin(faults, form.expression))
                builtin.append(_quota(expression, "", behaviour, size="[km]" in form.expression))
        return cls(tuple(rules), tuple(builtin), faults.suffix) if rules or builtin else None

    def choose(self, value: str) -> str:
        """Write the field ``value`` of the quota that a mailbox has, or nothing."""
        return "".join(
            _condition(quota, getattr(quota, value)) for quota in (*self.rules, *self.builtin)
        )

    def plugin(self, name: str) -> str:
        """Write the name of a plugin for the mailboxes that may have a quota, or nothing.

        Dovecot asks this about every mailbox, and evaluates everything that it is given. A wildcard
        is much cheaper than an expression, and a mailbox with the plugin may well have no quota.
        """
        builtin = (f"*@{domain}.{self.suffix}" for domain in ("full*", "quota-*"))
        return "".join(
            (
                *(_condition(quota, name) for quota in self.rules),
                *(f"%{{if;%Lu;*;{wildcard};{name};}}" for wildcard in builtin if self.builtin),
            )
        )


def _condition(quota: Quota, value: str) -> str:
    if not value:
        return ""
    condition = f"%{{if;%Lu;~;{quota.expression};{value};}}"
    return f"%{{if;%Lu;~;{quota.unless};;{condition}}}" if quota.unless else condition


def _in_dovecot(expression: str) -> str:
    # What is special in Dovecot's variables, or ends one, becomes any character: a name that
    # differs in nothing but that would be taken for the same.
    return re.sub(r"\\.|\[[ %{}:;\"]\]|[ %{}:;\"]", ".", expression)


def _quota(expression: str, unless: str, behaviour: Behaviour, *, size: bool = False) -> Quota:
    reply, number = str(behaviour.reply), behaviour.number
    if behaviour.name == "full":
        return Quota(expression, unless, "", "1B", reply)
    if size or number.endswith(("k", "m")):
        return Quota(expression, unless, "", number, reply)
    return Quota(expression, unless, number, "", reply)
