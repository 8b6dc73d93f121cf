"""The programs that daemons start, as functions and as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devmail_config.addresses import Address, AddressError
from devmail_config.programs import checkpassword, policy
from tests.helpers.server import ROOT

# What a daemon would start, with an output that shows what it would have become.
SHOW_USER = ("/bin/sh", "-c", 'printf %s "$USER"')
SHOW_ARGUMENTS = ("/bin/sh", "-c", 'printf "<%s>" "$@"', "show")


def run(
    program: str,
    *arguments: str,
    stdin: bytes = b"",
    pass_fds: tuple[int, ...] = (),
) -> subprocess.CompletedProcess[bytes]:
    """Run a program as a daemon does: with hardly any environment, and no locale."""
    code = (
        "import sys, importlib;"
        f"sys.exit(importlib.import_module('devmail_config.programs.{program}').main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        cwd="/",
        input=stdin,
        capture_output=True,
        pass_fds=pass_fds,
        timeout=30,
        check=False,
    )


# --- checkpassword ---


@pytest.mark.parametrize(
    ("login", "password", "mailbox"),
    [
        ("joe@example.com", "joe", "joe@example.com"),
        ("Joe@Example.COM", "JOE", "joe@example.com"),
        ('"joe"@example.com', "joe", "joe@example.com"),
        ('"joe"@example.com', '"joe"', "joe@example.com"),
        ("joe@example.com", '"j\\oe"', "joe@example.com"),
        ('"a b"@example.com', "a b", "a%20b@example.com"),
        ('"\\"x\\""@example.com', '"x"', "%22x%22@example.com"),
        ('""@example.com', '""', "%00@example.com"),
        ("почта@пример.рф", "ПОЧТА", "%d0%bf%d0%be%d1%87%d1%82%d0%b0@xn--e1afmkfd.xn--p1ai"),
        ("user+x@example.com", "user+x", "user+x@example.com"),
    ],
)
def test_a_login_opens_its_mailbox(login: str, password: str, mailbox: str) -> None:
    assert checkpassword.mailbox_for(login, password, "separate") == mailbox


@pytest.mark.parametrize(
    ("login", "mailbox"),
    [
        ("user+x@example.com", "user@example.com"),
        ('"user+x y"@example.com', "user@example.com"),
        ("+x@example.com", "+x@example.com"),
    ],
)
def test_a_folded_login_opens_the_mailbox_without_the_detail(login: str, mailbox: str) -> None:
    password = login.rpartition("@")[0]
    assert checkpassword.mailbox_for(login, password, "fold") == mailbox


@pytest.mark.parametrize(
    ("login", "password", "reason"),
    [
        ("joe@example.com", "jane", "wrong password"),
        ("joe@example.com", "", "wrong password"),
        ("joe@example.com", "joe@example.com", "wrong password"),
        ("joe@example.com", "{PLAIN}joe", "wrong password"),
        ("strasse@example.com", "straße", "wrong password"),
        ("joe", "joe", "it has no @"),
        ("", "", "it has no @"),
        ("joe@exam_ple.com", "joe", "is not part of a domain"),
        ("../joe@../..", "../joe", "must stand in quotes"),
    ],
)
def test_a_refused_login_has_a_reason(login: str, password: str, reason: str) -> None:
    with pytest.raises(AddressError, match=reason):
        checkpassword.mailbox_for(login, password, "separate")


@pytest.fixture
def descriptor() -> Iterator[int]:
    """Keep file descriptor 3 free for a test, and restore it afterwards."""
    kept = os.dup(3) if Path("/proc/self/fd/3").exists() else None
    yield 3
    if kept is None:
        os.close(3)
    else:
        os.dup2(kept, 3)
        os.close(kept)


def check(descriptor: int, data: bytes, *more: str) -> subprocess.CompletedProcess[bytes]:
    """Give ``data`` to checkpassword on its file descriptor, as Dovecot does."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    if reading != descriptor:
        os.dup2(reading, descriptor)
        os.close(reading)
    os.set_inheritable(descriptor, True)  # noqa: FBT003
    return run("checkpassword", *(more or ("separate",)), *SHOW_USER, pass_fds=(descriptor,))


@pytest.mark.parametrize(
    ("data", "user"),
    [
        (b"joe@example.com\0joe\0timestamp\0", b"joe@example.com"),
        (b"JOE@example.com\0Joe\0\0", b"joe@example.com"),
        ("почта@example.com\0почта\0\0".encode(), b"%d0%bf%d0%be%d1%87%d1%82%d0%b0@example.com"),
        (b'"a/../b"@example.com\0a/../b\0\0', b"a%2f.%2e%2fb@example.com"),
    ],
)
def test_checkpassword_becomes_the_reply_with_the_mailbox_as_its_user(
    descriptor: int, data: bytes, user: bytes
) -> None:
    done = check(descriptor, data)
    assert (done.returncode, done.stdout, done.stderr) == (0, user, b"")


def test_checkpassword_folds_a_detail_where_the_setting_says_so(descriptor: int) -> None:
    done = check(descriptor, b"user+x@example.com\0user+x\0\0", "fold")
    assert (done.returncode, done.stdout) == (0, b"user@example.com")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"joe@example.com\0a-most-secret-word\0\0", "'joe@example.com': wrong password (it is"),
        (b"joe\0joe\0\0", "'joe': it has no @"),
        (b"", "'': it has no @"),
        (b"joe@example.com", "'joe@example.com': wrong password"),
        (b"\xff\xfe@example.com\0\xff\xfe\0\0", "a character that is not text"),
        (b"joe@\xff\0joe\0\0", "a character that is not text"),
        (b"joe@example.com\0\xff\0\0", "wrong password"),
        ("joe@i❤.ws\0joe\0\0".encode(), "not an internationalised domain"),
        (b"x" * 9000 + b"@example.com\0x\0\0", "it has no @"),
    ],
)
def test_checkpassword_refuses_and_says_why_but_not_the_password(
    descriptor: int, data: bytes, said: str
) -> None:
    done = check(descriptor, data)
    assert done.returncode == 1
    assert done.stdout == b""
    message = done.stderr.decode()
    assert message.startswith("login refused: ")
    assert message.count("\n") == 1
    assert said in message
    assert "a-most-secret-word" not in message


# --- deliver ---


@pytest.mark.parametrize(
    ("plus_addresses", "recipient", "mailbox"),
    [
        ("separate", "joe@example.com", "joe@example.com"),
        ("separate", '"a b"@example.com', "a%20b@example.com"),
        ("separate", "-f@[192.0.2.1]", "-f@[192.0.2.1]"),
        ("separate", "user+x@bücher.example", "user+x@xn--bcher-kva.example"),
        ("fold", "user+x@bücher.example", "user@xn--bcher-kva.example"),
        ("fold", '"user+a b"@example.com', "user@example.com"),
        ("separate", '"$(id);`id`|&"@example.com', "%24%28id%29%3b%60id%60%7c%26@example.com"),
        ("separate", '""@example.com', "%00@example.com"),
    ],
)
def test_deliver_becomes_the_command_with_the_mailbox_as_its_destination(
    plus_addresses: str, recipient: str, mailbox: str
) -> None:
    done = run("deliver", plus_addresses, "-", recipient, *SHOW_ARGUMENTS, "-f", "")
    assert done.returncode == 0
    assert done.stdout.decode() == f"<-f><><-d><{mailbox}>"


def test_the_command_that_delivers_gets_the_message_on_its_standard_input() -> None:
    command = ("/bin/sh", "-c", "cat")
    done = run("deliver", "separate", "-", '"a b"@d', *command, stdin=b"a\r\nmessage")
    assert done.stdout == b"a\r\nmessage"


@pytest.mark.parametrize(
    "recipient", ["joe", "", "a b@example.com", "joe@exam_ple.com", "\udcff@d"]
)
def test_deliver_bounces_what_is_not_an_address(recipient: str) -> None:
    done = run("deliver", "separate", "-", recipient, *SHOW_ARGUMENTS)
    # EX_NOUSER: pipe(8) takes the status from the text, and bounces.
    assert done.returncode == 67
    assert done.stdout.startswith(b"5.1.3 ")
    assert b"is not an e-mail address: " in done.stdout


@pytest.mark.parametrize(
    "recipient", ['"a b"@bad-domain.com', "user+x@BAD-domain.com", "joe@BU\u0308CHER.example"]
)
def test_deliver_tries_again_later_where_a_domain_is_unreachable(recipient: str) -> None:
    domains = "bad-domain.com,xn--bcher-kva.example"
    done = run("deliver", "fold", domains, recipient, *SHOW_ARGUMENTS)
    domain = Address.parse(recipient).domain
    assert done.returncode == 75
    assert done.stdout.decode() == (
        f"4.4.1 connect to {domain}[192.0.2.1]:25: Connection timed out\n"
    )


# --- policy ---


def test_an_address_is_left_to_the_restrictions_that_follow() -> None:
    for address in ("joe@example.com", "a b@example.com", "почта@пример.рф", "@example.com"):
        assert policy.judge({"protocol_state": "RCPT", "recipient": address}) == "DUNNO"
        assert policy.judge({"protocol_state": "MAIL", "sender": address}) == "DUNNO"


def test_what_vrfy_asks_about_is_a_recipient() -> None:
    for address in ("a b@example.com", "|x@y.test"):
        assert policy.judge({"protocol_state": "VRFY", "recipient": address}) == "DUNNO"
    wrong = {"protocol_state": "VRFY", "recipient": "joe@exam_ple.com", "sender": "a@b"}
    assert policy.judge(wrong).startswith("553 5.1.3 not an e-mail address: 'exam_ple' is not part")


def test_a_name_without_a_domain_is_no_address() -> None:
    for name in ("root", "postmaster"):
        for state in ("RCPT", "VRFY"):
            assert "5.1.3" in policy.judge({"protocol_state": state, "recipient": name})
        assert "5.1.7" in policy.judge({"protocol_state": "MAIL", "sender": name})


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("joe@exam_ple.com", "'exam_ple' is not part of a domain"),
        ("l" * 65 + "@example.com", "longer than 64 octets"),
        ("a\x07b@example.com", "it contains a control character"),
        ("joe@\udcff.example", "it contains a character that is not text"),
        ("joe@🦄.example", "not an internationalised domain"),
    ],
)
def test_what_is_not_an_address_gets_the_status_of_its_place(address: str, reason: str) -> None:
    of_recipient = policy.judge({"protocol_state": "RCPT", "recipient": address, "sender": "a@b"})
    of_sender = policy.judge({"protocol_state": "MAIL", "recipient": "", "sender": address})
    assert of_recipient.startswith("553 5.1.3 not an e-mail address: ")
    assert of_sender.startswith("553 5.1.7 not an e-mail address: ")
    assert reason in of_recipient
    assert reason in of_sender
    assert of_recipient.isascii()
    assert of_recipient.isprintable()


def test_the_policy_service_answers_request_after_request_until_its_input_ends() -> None:
    requests = (
        "request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=почта@example.com\n\n"
        "request=smtpd_access_policy\nprotocol_state=MAIL\nsender=a=b@exam_ple.com\n\n"
        "request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=a=b@example.com\n\n"
    ).encode()
    requests += b"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=\xff@example.com\n\n"
    done = run("policy", stdin=requests)
    assert (done.returncode, done.stderr) == (0, b"")
    first, second, third, fourth, nothing = done.stdout.decode().split("\n\n")
    assert first == "action=DUNNO"
    assert second.startswith("action=553 5.1.7 not an e-mail address: 'exam_ple' is not part")
    assert third == "action=DUNNO"
    assert fourth.startswith("action=553 5.1.3 not an e-mail address: it contains a character")
    assert nothing == ""


def test_the_programs_start_without_what_only_rare_addresses_need() -> None:
    """Each of these modules would make every start slower; daemons start one for each login."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import devmail_config.programs.checkpassword, devmail_config.programs.deliver\n"
        "print({'idna', 'socket', 'ipaddress', 'yaml', 'jinja2', 'click'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-ISE", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
