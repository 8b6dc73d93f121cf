"""Daemons die, servers stop and start, machines lose power: mail does not get lost."""

from __future__ import annotations

import contextlib
import imaplib
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from devmail_config import directories
from devmail_config.services import SERVICES
from devmail_config.users import MAIL, MAIL_GROUP
from tests.helpers.clients import LOOPBACK, imap, messages, send, smtp, wait_for_message
from tests.helpers.load import Load
from tests.helpers.server import Server, kill
from tests.helpers.session import deliver
from tests.helpers.wait import wait_for


def main_process(server: Server, service: str) -> int:
    """Give the process id that the supervisor knows for a daemon; 0 while it is down."""
    status = server.state / "run" / "supervisor" / service / "supervise" / "status"
    # s6's status file: two timestamps of 12 octets, then the process id in 8, big-endian.
    try:
        return int.from_bytes(status.read_bytes()[24:32], "big")
    except OSError:
        return 0


@pytest.mark.parametrize("service", [service.name for service in SERVICES])
def test_a_daemon_that_is_killed_comes_back(own_directory: Path, service: str) -> None:
    with Server(own_directory) as server:
        before = main_process(server, service)
        assert before
        kill(before)
        wait_for(
            lambda: main_process(server, service) not in (0, before), f"{service} to run again"
        )
        wait_for(server.is_healthy, "every service to work")
        assert f"devmail: {service} ended with signal 9 and is started again" in server.log()
        send(server, "a@one.example", "b@two.example", "after the fall")
        wait_for_message(server, "b@two.example", "after the fall")


def test_no_last_line_of_a_daemon_is_lost(own_directory: Path) -> None:
    """Neither when it is killed, within a line too, nor at the end of the server."""
    with Server(own_directory) as server:
        # It has no other process, which could write in between.
        before = main_process(server, "page")
        with (Path("/proc") / str(before) / "fd" / "2").open("wb", buffering=0) as its_log:
            for number in range(500):
                its_log.write(b"line %d.\n" % number)
            its_log.write(b"half a line")
            kill(before)
        wait_for(lambda: main_process(server, "page") not in (0, before), "page to run again")
        wait_for(server.is_healthy, "every service to work")
        assert server.stop() == 0
        lines = server.log().splitlines()
        assert [line for line in lines if line.startswith("page: line ")] == [
            f"page: line {number}." for number in range(500)
        ]
        assert "page: half a line" in lines
        assert "page: devmail: page ended with signal 9 and is started again" in lines
        # That of Dovecot at its end.
        assert any("dovecot: master: Warning: Killed with signal 15" in line for line in lines)


def test_a_filter_of_the_log_that_is_killed_comes_back(own_directory: Path) -> None:
    with Server(own_directory, webmail="none") as server:
        filters = server.processes("perl")
        assert len(filters) == len(SERVICES)
        for process in filters:
            kill(process)
        wait_for(
            lambda: len(set(server.processes("perl")) - set(filters)) == len(SERVICES),
            "the filters to run again",
        )
        send(server, "a@one.example", "b@two.example", "for the log")
        wait_for(lambda: "lmtp(b@two.example)" in server.log(), "the line of Dovecot")
        wait_for(lambda: "to=<b@two.example>, relay=" in server.log(), "the line of Postfix")


def test_smtp_is_back_when_dovecot_is(own_directory: Path) -> None:
    """A new smtpd dies without Dovecot; by default, Postfix starts none for a minute then."""
    with Server(own_directory) as server:
        dovecot = server.state / "run" / "supervisor" / "dovecot"
        subprocess.run(["s6-svc", "-wD", "-d", dovecot], check=True)
        with contextlib.ExitStack() as held:
            # More than the processes that wait since the start.
            for _ in range(20):
                held.enter_context(
                    socket.create_connection((LOOPBACK, server.port("smtp")), timeout=5)
                )
            wait_for(lambda: "bad command startup -- throttling" in server.log(), "smtpd to die")
        subprocess.run(["s6-svc", "-u", dovecot], check=True)

        def dovecot_works() -> bool:
            with contextlib.suppress(OSError, imaplib.IMAP4.error), imap(server, "a@one.example"):
                return True
            return False

        wait_for(dovecot_works, "a login")
        # Each of them needs a process of its own.
        with contextlib.ExitStack() as held:
            for _ in range(30):
                held.enter_context(smtp(server, "a@one.example"))


@pytest.mark.parametrize("service", [service.name for service in SERVICES])
def test_a_daemon_whose_own_supervisor_is_killed_is_not_there_twice(
    own_directory: Path, service: str
) -> None:
    with Server(own_directory) as server:
        before = main_process(server, service)
        keeper = int(Path(f"/proc/{before}/stat").read_text().rpartition(")")[2].split()[1])
        kill(keeper)
        wait_for(
            lambda: main_process(server, service) not in (0, before), f"{service} to run again"
        )
        wait_for(server.is_healthy, "every service to work")
        assert before not in server.processes()
        assert "keeps dying" not in server.log()
        assert server.stop() == 0
        assert not server.processes()


class Killer:
    """Kills a daemon whenever it is there again."""

    def __init__(self, server: Server, service: str) -> None:
        self._server, self._service = server, service
        self._killed: set[int] = set()

    def strike(self) -> None:
        current = main_process(self._server, self._service)
        if current and current not in self._killed:
            self._killed.add(current)
            kill(current)


def test_a_daemon_that_no_mail_flows_without_ends_the_server_if_it_keeps_dying(
    own_directory: Path,
) -> None:
    with Server(own_directory) as server:
        assert server.process is not None
        process, killer = server.process, Killer(server, "postfix")

        def has_ended() -> bool:
            if process.poll() is None:
                killer.strike()
            return process.poll() is not None

        wait_for(has_ended, "the server to give up", timeout=30)
        assert process.returncode == 1
        assert "devmail: postfix keeps dying (last with signal 9): the server ends" in server.log()
        wait_for(lambda: not server.processes(), "every daemon to be gone")


@pytest.mark.parametrize("service", ["nginx", "php", "page"])
def test_any_other_daemon_rests_if_it_keeps_dying(own_directory: Path, service: str) -> None:
    with Server(own_directory, webmail="roundcube") as server:
        killer = Killer(server, service)
        rests = f"devmail: {service} keeps dying (last with signal 9): it is started again in 10 s"

        def is_resting() -> bool:
            killer.strike()
            return rests in server.log()

        wait_for(is_resting, "the daemon to rest", timeout=30)
        send(server, "a@one.example", "b@two.example", "without it")
        wait_for_message(server, "b@two.example", "without it")
        if service == "php":
            done = server.command("health")
            assert done.returncode == 1
            assert "https      it answers with the status 502" in done.stdout
        if service == "page":
            wait_for(lambda: server.processes("s6-ipcserverd"), "it to be back", timeout=30)
            wait_for(server.is_healthy, "every service to work")
        # A stop does not wait for one that rests.
        assert server.stop() == 0
        assert not server.processes()


def test_a_stop_is_quick_quiet_and_leaves_nothing_behind(own_directory: Path) -> None:
    with Server(own_directory) as server:
        assert server.stop() == 0
        assert not server.processes()
        assert "started again" not in server.log()
        assert "keeps dying" not in server.log()


def test_mail_is_kept_over_a_restart(own_directory: Path) -> None:
    with Server(own_directory) as server:
        send(server, "a@one.example", "b@two.example", "kept")
        wait_for_message(server, "b@two.example", "kept")
        fingerprint = server.ca.read_bytes()
        assert server.stop() == 0
        server.start()
        assert len(messages(server, "b@two.example")) == 1
        assert server.ca.read_bytes() == fingerprint


def test_nothing_that_was_accepted_is_lost_when_everything_is_killed(own_directory: Path) -> None:
    """Every message that was answered with 250 before the cut is in its mailbox after it."""
    with Server(own_directory) as server:
        with Load(server) as load:
            load.wait_for(150)
            server.kill_all()
        server.start()
        wait_for(load.is_there, f"all of {len(load.accepted)} messages", timeout=60)


def test_a_lock_that_was_left_behind_does_not_close_a_mailbox(own_directory: Path) -> None:
    """After a restart, the number of the process that held it can be that of another one."""
    with Server(own_directory) as server:
        send(server, "a@one.example", "b@two.example", "before")
        wait_for_message(server, "b@two.example", "before")
        server.kill_all()
        lock = server.mail / "two.example" / "b" / "dovecot-uidlist.lock"
        lock.write_text(f"{os.getpid()}:{socket.gethostname()}")
        server.start()
        wait_for(lambda: not lock.exists(), "the lock to be removed")
        send(server, "a@one.example", "b@two.example", "after")
        wait_for_message(server, "b@two.example", "after")
        assert server.stop() == 0
        # An orderly end leaves nothing that a start would have to look for.
        assert (own_directory / "lock").read_text() == "0\n"


def test_a_lock_file_that_a_power_cut_emptied_tells_of_no_orderly_end(own_directory: Path) -> None:
    with Server(own_directory) as server:
        send(server, "a@one.example", "b@two.example", "before")
        wait_for_message(server, "b@two.example", "before")
        server.kill_all()
        (own_directory / "lock").write_text("")
        lock = server.mail / "two.example" / "b" / "dovecot-uidlist.lock"
        lock.write_text(f"{os.getpid()}:{socket.gethostname()}")
        server.start()
        wait_for(lambda: not lock.exists(), "the lock to be removed")


def test_locks_of_daemons_that_were_killed_are_removed_and_nothing_else(
    own_directory: Path,
) -> None:
    elsewhere, mail = own_directory / "elsewhere", own_directory / "mail"
    (elsewhere / "cur").mkdir(parents=True)
    (elsewhere / "passwd.lock").touch()
    mailbox = mail / "one.example" / "joe"
    for folder in (mailbox, mailbox / ".Sent", mailbox / ".odd.lock"):
        (folder / "cur").mkdir(parents=True)
        (folder / "dovecot-uidlist").touch()
        (folder / "dovecot-uidlist.lock").touch()
        (folder / "cur" / "message.lock").touch()
    (mail / "linked.example").symlink_to(mail / "one.example")
    (mail / "two.example").mkdir()
    (mail / "two.example" / "linked").symlink_to(elsewhere)
    subprocess.run(["chown", "-hR", f"{MAIL}:{MAIL_GROUP}", own_directory], check=True)
    started = own_directory / "lock"
    started.touch()
    old = (mailbox / "dovecot-uidlist.lock").stat().st_mtime_ns
    wait_for(lambda: touched(started) > old, "the clock to go on")
    began = started.stat().st_mtime_ns
    new = mailbox / ".Sent" / "subscriptions.lock"
    wait_for(lambda: touched(new) > began, "the clock to go on")

    assert directories.remove_locks(mail, older_than=started).wait() == 0
    left = {path.relative_to(mailbox).as_posix() for path in mailbox.rglob("*.lock")}
    assert left == {
        "cur/message.lock",
        ".Sent/cur/message.lock",
        ".Sent/subscriptions.lock",
        ".odd.lock",
        ".odd.lock/cur/message.lock",
    }
    assert (mailbox / ".Sent" / "dovecot-uidlist").exists()
    assert (elsewhere / "passwd.lock").exists()


def touched(path: Path) -> int:
    """Give a file the time of this moment, and tell that."""
    path.touch()
    return path.stat().st_mtime_ns


@pytest.mark.parametrize("name", ["spool", "postfix", "faults"])
def test_a_directory_that_somebody_gave_away_is_mended(own_directory: Path, name: str) -> None:
    with Server(own_directory, bounce_after="1h") as server:
        send(server, "a@one.example", "b@bad-domain.com", "waits")
        wait_for(lambda: "bad-domain.com" in server.command("queue").stdout, "it to wait")
        wait_for(lambda: "timed out" in server.command("queue").stdout, "the first try")
        deliver(server, "joe@first-1.fault.test")
        assert server.stop() == 0
        subprocess.run(["chown", "-R", "root:root", own_directory / name], check=True)
        subprocess.run(["chmod", "-R", "755", own_directory / name], check=True)
        server.start()
        send(server, "a@one.example", "b@two.example", "after")
        wait_for_message(server, "b@two.example", "after")
        assert deliver(server, "joe@first-1.fault.test").last.code == 250
        assert server.command("queue", "expire").returncode == 0
        wait_for_message(server, "a@one.example", "Undelivered")
        assert "warning" not in server.log()


def test_mail_flows_while_the_web_server_hangs(own_directory: Path) -> None:
    with Server(own_directory) as server:
        os.kill(main_process(server, "nginx"), signal.SIGSTOP)
        send(server, "a@one.example", "b@two.example", "without a page")
        wait_for_message(server, "b@two.example", "without a page")
        os.kill(main_process(server, "nginx"), signal.SIGCONT)


def test_every_line_of_the_log_names_its_daemon(server: Server) -> None:
    send(server, "a@one.example", "logged@two.example", "for the log")
    wait_for_message(server, "logged@two.example", "for the log")
    named = re.compile(
        r"(\w{3} [ \d]\d [\d:]{8} \S+ postfix/|\w{3} [ \d]\d [\d:]{8} dovecot: |nginx: |devmail: )"
    )
    lines = server.log().splitlines()
    assert [line for line in lines if not named.match(line)] == []
    for daemon in ("postfix/", "dovecot: ", "nginx: ", "devmail: version"):
        assert any(daemon in line for line in lines)


def test_the_first_line_says_what_runs_where(server: Server) -> None:
    first = server.log().splitlines()[0]
    assert first.startswith("devmail: version 0.")
    assert "mail.localhost, on 127.0.0.1" in first
    assert f"imaps {server.port('imaps')}" in first
    assert re.search(r"SHA-256 fingerprint ([0-9A-F]{2}:){31}[0-9A-F]{2}$", first)
