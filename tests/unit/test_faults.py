"""The grammar of faults, and what becomes of it in tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from devmail_config import fault_tables
from devmail_config.fault_tables import Quotas
from devmail_config.faults import (
    CHEAT_SHEET,
    FORMS,
    FROM,
    LOGIN,
    TO,
    FaultError,
    Faults,
    Reply,
    judge,
    parse,
    parse_rule,
    split,
)
from devmail_config.settings import load

SUFFIX = "fault.test"


@pytest.mark.parametrize(
    ("word", "name", "step", "number", "reply"),
    [
        ("reject", "reply", "rcpt", "", "550 5.1.1 No such user here, as asked for"),
        ("RCPT-452-4-2-2", "reply", "rcpt", "", "452 4.2.2 Temporary failure, as asked for"),
        ("data-554", "reply", "data", "", "554 5.7.1 Permanent failure, as asked for"),
        ("end-459", "reply", "end", "", "459 4.0.0 Temporary failure, as asked for"),
        ("slow-300", "slow", "rcpt", "300", None),
        ("slow-end-7", "slow", "end", "7", None),
        ("first-3", "first", "rcpt", "3", "450 4.2.0 Try again later, as asked for"),
        ("first-3s-421", "first", "rcpt", "3s", "421 4.3.2 Try again later, as asked for"),
        ("rate-10-450-4-7-0", "rate", "rcpt", "10", "450 4.7.0 Too many messages, as asked for"),
        ("size-10k", "size", "rcpt", "10k", "552 5.3.4 Message too big, as asked for"),
        ("quota-5m-452", "quota", "rcpt", "5m", "452 4.2.2 Mailbox is full"),
        ("bounce-5-7-26", "bounce", "", "", " 5.7.26 Permanent failure, as asked for"),
        ("drop", "drop", "", "", None),
    ],
)
def test_a_behaviour_is_read(
    word: str, name: str, step: str, number: str, reply: str | None
) -> None:
    behaviour = parse(word)[1]
    assert (behaviour.name, behaviour.step, behaviour.number) == (name, step, number)
    assert (str(behaviour.reply) if behaviour.reply else None) == reply


@pytest.mark.parametrize(
    "word",
    [
        *("rcpt-250", "rcpt-660", "rcpt-550-4-1-1", "rcpt-550-5-1", "rcpt-550-5-1-1000"),
        *("slow-0", "slow-301", "slow-auth-10", "first-0", "first-1000", "size-1g", "mail", ""),
        *("bounce-4-1-1", "bounce-5-8-1", "unreachable-5-1-1", "auth-421", "first-3-450-5-1-1"),
    ],
)
def test_what_is_no_behaviour_is_refused(word: str) -> None:
    with pytest.raises(FaultError, match="there is no behaviour"):
        parse(word)


def test_the_groups_of_a_form_are_those_that_an_expression_has() -> None:
    for form in FORMS:
        assert form.groups == re.compile(form.expression).groups, form.expression


def test_the_cheat_sheet_shows_what_there_is() -> None:
    for tie, examples in CHEAT_SHEET.items():
        for example in examples:
            assert parse(example)[0].ties[0] == tie
    shown = {parse(example)[1][:2] for examples in CHEAT_SHEET.values() for example in examples}
    for form in FORMS:
        behaviour = form.build(*["$1"] * form.groups)
        assert behaviour[:2] in shown or behaviour.name in {"reply", "slow"}


@pytest.mark.parametrize(
    ("rule", "fault", "remedy"),
    [
        ("down.example", "it is not match=behaviour", "down.example=unreachable"),
        ("a@b.example=", "it is not match=behaviour", "down.example=unreachable"),
        ("a@b.example=rejct", "there is no behaviour 'rejct'", "did you mean reject?"),
        ("a@b.example=xyzzy", "there is no behaviour 'xyzzy'", "known are: reject, defer,"),
        (
            "a@b.example=auth-535",
            "auth-535 cannot be tied to to:, which it does not depend on",
            "write login:, for example login:a@b.example=auth-535",
        ),
        (
            "login:a@b.example=quota-5",
            "quota-5 cannot be tied to login:",
            "write to:, for example to:a@b.example=quota-5",
        ),
        ("frm:a@b.example=reject", "there is no prefix frm:", "write to:, from: or login:"),
        ("a@b.example=slow-5 Wait", "slow-5 has no text to change", "leave the text out"),
        ("a@b.example=reject Нет", "the text is longer than 200 characters, or not", "ASCII"),
        ("a@b.example=quota-5 100%", "the text has a %", "leave it out"),
        ("a@fault.test=reject", "addresses below fault.test have their behaviour", "choose"),
        ("x.fault.test=reject", "addresses below fault.test have their behaviour", "choose"),
        ("bad.example=drop", "in conflict with the unreachable domain bad.example", "leave one"),
        ("x@@y=drop", "'x@@y' is not an address: the part before the @ has", "correct it"),
        ("..example=drop", "'..example' is not a domain: the domain has an empty part", "correct"),
        ("*@=drop", "'*@' matches nothing", "write an address or a domain"),
        ("@*.example=drop", "'@*.example' has nothing before the @", "leave the @ out"),
    ],
)
def test_a_wrong_rule_is_explained(rule: str, fault: str, remedy: str) -> None:
    ((quoted, error),) = judge([rule], SUFFIX, ["bad.example"])
    assert quoted == rule
    assert str(error).startswith((fault, f"it is {fault}"))
    assert remedy in error.remedy


def test_two_rules_for_one_match_are_a_conflict_in_any_spelling() -> None:
    rules = ["Joe@MÜNCHEN.example=reject", "joe@xn--mnchen-3ya.example=slow-1", "joe@b.c=drop"]
    ((quoted, error),) = judge(rules, None, [])
    assert quoted == rules[1]
    assert str(error) == "it is in conflict with the rule 'Joe@MÜNCHEN.example=reject'"
    assert not list(judge(["from:a.b=reject", "a.b=reject", "login:a.b=reject"], None, []))


def test_all_wrong_rules_are_reported_at_once_and_the_suffix_is_judged(tmp_path: Path) -> None:
    environ = {"DEVMAIL_FAULTS": "a@b=rejct; c", "DEVMAIL_HOSTNAME": "x.fault.test"}
    settings, problems = load(environ)
    assert settings.faults == ()
    assert [str(problem) for problem in problems] == [
        (
            "DEVMAIL_FAULT_SUFFIX='fault.test' (default): the server's own name, "
            "x.fault.test, lies below it\n    -> choose another suffix, or another DEVMAIL_HOSTNAME"
        ),
        (
            "the rule 'a@b=rejct' in DEVMAIL_FAULTS (environment): there is no behaviour 'rejct'"
            "\n    -> did you mean reject?"
        ),
        (
            "the rule 'c' in DEVMAIL_FAULTS (environment): it is not match=behaviour"
            "\n    -> write for example: down.example=unreachable"
        ),
    ]
    secret = tmp_path / "faults"
    secret.write_text("hush@b.example=rejct")
    _, (problem,) = load({"DEVMAIL_FAULTS_FILE": str(secret)})
    assert "hush" not in str(problem)
    assert "rejct" not in str(problem)


def test_rules_can_be_a_mapping_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "devmail.yaml"
    path.write_text("faults:\n  down.example: unreachable\n  from:a@b.example: reject Go away\n")
    settings, problems = load({"DEVMAIL_CONFIG": str(path)})
    assert not problems
    assert settings.faults == ("down.example=unreachable", "from:a@b.example=reject Go away")
    path.write_text("fault_suffix: none\nfaults: [a.example=drop, b.example=reject 1 2]\n")
    settings, problems = load({"DEVMAIL_CONFIG": str(path)})
    assert not problems
    assert settings.faults == ("a.example=drop", "b.example=reject 1 2")
    assert settings.fault_suffix is None


@pytest.mark.parametrize(
    ("match", "applies", "does_not"),
    [
        (
            "joe@a.example",
            ["Joe@A.Example"],
            ["xjoe@a.example", "joe@a.example.org", "joe@axexample"],
        ),
        ("a.example", ["x@a.example", "y@z@a.example"], ["x@b.a.example", "x@ba.example"]),
        (".a.example", ["x@a.example", "x@c.b.a.example"], ["x@ba.example", "x@a.example.b"]),
        ("*.example", ["x@a.example", "x@b.a.example"], ["x@example", "x@a.example.b"]),
        ("no*@*.example", ["nobody@a.example", "no@a.example"], ["yes@a.example", "no@example"]),
        ("a+b$^[c@d.example", ["a+b$^[c@d.example"], ["aab$^[c@d.example"]),
        ("x/y@d.example", ["x/y@d.example", "x%2fy@d.example"], ["xy@d.example"]),
        (
            '"a b"@d.example',
            ["a b@d.example", '"a b"@d.example', "a%20b@d.example"],
            ["b@d.example"],
        ),
        ("a@[192.0.2.1]", ["a@[192.0.2.1]"], ["a@1"]),
    ],
)
def test_what_a_rule_applies_to(match: str, applies: list[str], does_not: list[str]) -> None:
    if match == "a+b$^[c@d.example":
        match = '"a+b$^[c"@d.example'
    rule = parse_rule(f"{match}=reject")
    assert all(map(rule.applies_to, applies))
    assert not any(map(rule.applies_to, does_not))


def test_the_narrower_rule_comes_first_whatever_the_order() -> None:
    written = split(
        "*.example=drop; .b.example=drop; .a.b.example=drop; c.b.example=drop;"
        "x*@c.b.example=drop; xy@c.b.example=drop"
    )
    given = Faults.of(written, None).rules
    assert [rule.written for rule in given] == [
        "xy@c.b.example=drop",
        "x*@c.b.example=drop",
        "c.b.example=drop",
        ".a.b.example=drop",
        ".b.example=drop",
        "*.example=drop",
    ]


def test_the_built_in_domain_of_an_address_counts_for_its_own_part_in_a_session() -> None:
    faults = Faults.of((), SUFFIX)
    assert faults.find(TO, "joe@Reject.Fault.Test") is not None
    assert faults.find(FROM, "joe@reject.fault.test") is None
    assert faults.find(FROM, "joe@mail-451.fault.test") is not None
    assert faults.find(TO, "joe@mail-451.fault.test") is None
    assert faults.find(LOGIN, "joe@auth-535.fault.test") is not None
    for ordinary in ("joe@fault.test", "joe@rejct.fault.test", "joe@reject.example", "joe"):
        assert faults.find(TO, ordinary) is None
    assert Faults.of((), None).find(TO, "joe@reject.fault.test") is None


def test_every_built_in_domain_has_one_meaning_in_the_tables_and_in_the_grammar() -> None:
    """Postfix reads the tables and our programs the grammar: both have to agree."""
    faults = Faults.of((), SUFFIX)
    tables = {table.name: table for table in fault_tables.tables(faults)}
    for tie, examples in CHEAT_SHEET.items():
        for example in examples:
            address = f"joe@{example}.{SUFFIX}"
            behaviour = faults.find(tie, address)
            assert behaviour is not None
            wanted = fault_tables.actions(behaviour, tie)
            for step in (*("mail", "rcpt", "data", "end"), fault_tables.TRANSPORT):
                table = tables.get(f"{step}_{tie}")
                action = ""
                for row in table.builtin if table else ():
                    if match := re.search(row.expression, address, re.IGNORECASE):
                        action = match.expand(re.sub(r"\$(\d)", r"\\\1", row.action))
                        break
                assert action.replace("DUNNO", "") == wanted.get(step, ""), (example, step)


def test_a_dollar_sign_in_a_text_is_none_of_postfix_s_groups() -> None:
    (table,) = fault_tables.tables(Faults.of(["a.example=reject It costs $1"], None))
    assert table.rules[0].action == "550 5.1.1 It costs $$1"


def test_nothing_is_rendered_where_nothing_fails() -> None:
    assert fault_tables.tables(Faults()) == ()
    assert Quotas.of(Faults()) is None
    assert Faults().login_patterns == ()


def test_which_logins_dovecot_asks_about() -> None:
    rules = split(
        "login:app@shop.example=auth-535; login:.b.example=login-slow-1; login:c.example=drop;"
        'login:a*@*.d.example=auth-454; login:"x y"@e.example=login-in-use'
    )
    assert Faults.of(rules, None).login_patterns == (
        "app@shop.example",
        "*@e.example",
        "a*@*.d.example",
        "*@b.example",
        "*@*.b.example",
    )


def test_texts_and_codes_can_be_chosen() -> None:
    rule = parse_rule("from:a@b.example = rcpt-450-4-7-1   Come back  tomorrow = later")
    assert rule.behaviour.reply == Reply("450", "4.7.1", "Come back  tomorrow = later")
