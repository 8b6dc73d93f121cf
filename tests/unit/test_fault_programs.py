"""The programs that daemons start for faults, without the daemons."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from devmail_config.faults import LOGIN, Faults, parse
from devmail_config.programs import fault_login, fault_port
from devmail_config.programs.fault_policy import Service, read_faults
from devmail_config.render import TEMPLATES

FIRST = {
    "protocol_state": "RCPT",
    "policy_context": "to",
    "sender": "s@company1.com",
    "recipient": "joe@first-1.fault.test",
    "instance": "1.2.3",
    "size": "0",
}


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(Faults.of((), "fault.test"), tmp_path)


def test_what_is_counted_is_forgotten_after_a_day(service: Service, tmp_path: Path) -> None:
    assert service.answer(FIRST).startswith("450 4.2.0 ")
    assert service.answer(FIRST) == "DUNNO"
    service.forget_the_old()
    assert service.answer(FIRST) == "DUNNO"
    (record,) = tmp_path.iterdir()
    os.utime(record, (0, time.time() - 86401))
    service.forget_the_old()
    assert service.answer(FIRST).startswith("450 4.2.0 ")


def test_a_record_that_a_power_cut_broke_is_begun_anew(service: Service, tmp_path: Path) -> None:
    service.answer(FIRST)
    (record,) = tmp_path.iterdir()
    record.write_text('{"tries": 1')
    assert service.answer(FIRST).startswith("450 ")
    assert service.answer(FIRST) == "DUNNO"


def test_a_cut_while_a_record_is_written_leaves_the_one_before(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert service.answer(FIRST).startswith("450 ")
    with monkeypatch.context() as cut:

        def fail(_: int) -> None:
            raise OSError("cut")

        cut.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="cut"):
            service.answer(FIRST)
    # What was counted before counts still.
    assert service.answer(FIRST) == "DUNNO"


def test_a_rate_counts_the_last_minute(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "clock_gettime", lambda _: now)

    def answer(instance: str) -> str:
        request = {**FIRST, "recipient": "joe@rate-2.fault.test", "instance": instance}
        return service.answer(request).split()[0]

    assert [answer("a"), answer("b"), answer("c"), answer("a")] == [
        "DUNNO",
        "DUNNO",
        "450",
        "DUNNO",
    ]
    now += 59
    assert answer("d") == "450"
    now += 2
    assert [answer("e"), answer("f"), answer("g")] == ["DUNNO", "DUNNO", "450"]


def test_what_a_rate_counted_before_the_machine_started_again_is_over(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "clock_gettime", lambda _: now)
    rate = {**FIRST, "recipient": "joe@rate-1.fault.test"}
    first = {**FIRST, "recipient": "joe@first-5s.fault.test"}
    assert service.answer(rate) == "DUNNO"
    assert service.answer(first).startswith("450 ")
    now = 10.0
    assert service.answer({**rate, "instance": "another"}) == "DUNNO"
    assert service.answer(first).startswith("450 ")
    now = 15.0
    assert service.answer(first) == "DUNNO"


def test_a_clock_that_is_set_changes_no_rate(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = {**FIRST, "recipient": "joe@rate-1.fault.test"}
    assert service.answer(rate) == "DUNNO"
    for hours in (-1, 1):
        now = time.time() + hours * 3600
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert service.answer({**rate, "instance": "another"}).startswith("450 ")


def test_an_ordinary_message_with_several_recipients_has_no_note(service: Service) -> None:
    request = {**FIRST, "protocol_state": "DATA", "recipient": ""}
    assert service.answer(request) == "DUNNO"


def test_the_gate_sends_only_noted_messages_on(tmp_path: Path) -> None:
    (tmp_path / "note-1a.2.0").write_text("joe@data-451.fault.test\n")
    requests = "request=smtpd_access_policy\ninstance={}\nsender=a=b@c\n\n"
    done = subprocess.run(
        [
            *("/usr/bin/mawk", "-W", "interactive", "-F=", "-v", f"notes={tmp_path}"),
            *("-f", TEMPLATES / "libexec" / "fault-gate.awk.j2"),
        ],
        input=requests.format("1a.2.0") + requests.format("1a.3.0") + requests.format("1a.2.0"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "action=fault_to\n\naction=DUNNO\n\naction=fault_to\n\n"


def test_the_faults_are_read_as_they_were_rendered(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    path.write_text('{"rules": ["login:a@b.example=auth-535"], "suffix": null}')
    assert read_faults(path).find(LOGIN, "a@b.example") is not None


@pytest.mark.parametrize(
    ("word", "service", "text"),
    [
        ("login-in-use", "imap", "[INUSE] The mailbox is in use, as asked for"),
        ("login-in-use", "pop3", "[IN-USE] The mailbox is in use, as asked for"),
        ("login-unavailable", "pop3", "[SYS/TEMP] Temporarily unavailable, as asked for"),
        ("auth-535", "smtp", "refused, as asked for"),
    ],
)
def test_a_reason_has_the_code_of_its_protocol(word: str, service: str, text: str) -> None:
    assert fault_login.reason(parse(word)[1], service) == text


@pytest.mark.parametrize(
    ("sent", "passed_on"),
    [
        (b"STARTTLS\r\n", b"XSTARTTLS\r\n"),
        (b"a1 idle\r\n", b"a1 Xidle\r\n"),
        (b"UIDL 3\r\n", b"XUIDL 3\r\n"),
        (b"RETR 1\r\n", b"RETR 1\r\n"),
        (b"hello\r\nSTARTTLS\r\n", b"hello\r\nSTARTTLS\r\n"),
    ],
)
def test_a_hidden_command_is_spoilt(sent: bytes, passed_on: bytes) -> None:
    assert fault_port.without_command(sent) == passed_on


@pytest.mark.parametrize(
    ("sent", "passed_on"),
    [
        (b"250-x\r\n250-STARTTLS\r\n250 DSN\r\n", b"250-x\r\n250 DSN\r\n"),
        (b"+OK\r\nCAPA\r\nUIDL\r\nSTLS\r\nTOP\r\n.\r\n", b"+OK\r\nCAPA\r\nTOP\r\n.\r\n"),
        (b"+OK 9 octets\r\nUIDL\r\n.\r\n", b"+OK 9 octets\r\nUIDL\r\n.\r\n"),
        (b"* OK [CAPABILITY A IDLE STARTTLS] hi\r\n", b"* OK [CAPABILITY A] hi\r\n"),
        (b"* CAPABILITY A IDLE\r\na OK\r\n", b"* CAPABILITY A\r\na OK\r\n"),
        (b"a OK [CAPABILITY A IDLE B] in\r\n", b"a OK [CAPABILITY A B] in\r\n"),
        (b"* 1 FETCH (BODY[] {6}\r\n IDLE \r\n)\r\n", b"* 1 FETCH (BODY[] {6}\r\n IDLE \r\n)\r\n"),
    ],
)
def test_a_hidden_capability_is_taken_out_of_lists_alone(sent: bytes, passed_on: bytes) -> None:
    assert fault_port.without_capability(sent) == passed_on
