"""Seeing what waits, having it return, and changing the rules of a running server."""

from __future__ import annotations

import contextlib
import imaplib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.clients import LOOPBACK, imap, messages, pop3, send, smtp, wait_for_message
from tests.helpers.report import wait_for_report
from tests.helpers.server import Server, run_devmail
from tests.helpers.session import check, deliver
from tests.helpers.wait import wait_for


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(bounce_after="1h") as running:
        yield running


def queue(server: Server) -> list[dict[str, object]]:
    done = server.command("queue", "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_queue_is_shown_tried_again_and_returned_in_a_second(server: Server) -> None:
    assert server.command("queue").stdout == "the queue is empty\n"
    sender = "queue@company1.com"
    recipients = ["joe@unreachable.fault.test", "jim@bad-domain.com"]
    assert deliver(server, recipients, sender=sender).last.code == 250
    wait_for(lambda: server.command("queue").stdout.count("timed out") == 2, "the first try")
    lines = server.command("queue").stdout.splitlines()
    assert " ".join(lines[0].split()) == ("queue id arrived size sender recipient why it waits")
    assert sorted(line.split()[4] for line in lines[1:]) == sorted(recipients)
    assert all(sender in line and "Connection timed out" in line for line in lines[1:])
    (waiting,) = queue(server)
    assert waiting["sender"] == sender

    tries = server.log().count("status=deferred")
    assert server.command("queue", "flush").returncode == 0
    wait_for(lambda: server.log().count("status=deferred") >= tries + 2, "another try")
    assert not messages(server, sender)

    assert server.command("queue", "expire").returncode == 0
    report = wait_for_report(server, sender, timeout=3)
    assert report.of_recipient["Status"] == "4.4.1"
    wait_for(lambda: not queue(server), "the queue to be empty", timeout=3)


def test_the_queue_of_no_server_is_an_error(own_directory: Path) -> None:
    done = run_devmail(["queue"], {"DEVMAIL_STATE_DIR": str(own_directory)})
    assert done.returncode == 1
    assert f"the queue of {own_directory}: no server has run there" in done.stderr


def test_a_reload_takes_rules_over_and_loses_neither_connections_nor_mail(
    own_directory: Path,
) -> None:
    config = own_directory / "devmail.yaml"
    config.write_text("bounce_after: 1h\nfaults:\n  old.example: reject\n")
    with Server(own_directory, config=str(config)) as server:
        assert deliver(server, "joe@old.example").last.code == 550
        assert deliver(server, "joe@new.example").last.code == 250
        assert deliver(server, "joe@bad-domain.com", "waits").last.code == 250
        wait_for(lambda: queue(server), "the message to wait")

        with imap(server, "joe@new.example") as reader, smtp(server, "a@company1.com") as sender:
            reader.select("INBOX")
            sender.docmd("MAIL", "FROM:<a@company1.com>")
            config.write_text(
                "bounce_after: 2h\nfaults:\n  new.example: rcpt-450 Not now\n"
                "  login:app@company1.com: auth-535\n  box.example: quota-1\n"
            )
            done = server.command("reload")
            assert done.returncode == 0, done.stderr
            assert "devmail: reloaded, " in done.stdout

            def has_changed() -> bool:
                outcome = deliver(server, "joe@new.example", login="b@company1.com")
                return outcome.last.code == 450

            wait_for(has_changed, "the new rule")
            check(
                deliver(server, "joe@new.example", login="b@company1.com").last,
                450,
                "^4.2.0 .*: Not now",
            )
            assert deliver(server, "joe@old.example", login="b@company1.com").last.code == 250
            # Who was connected before goes on.
            assert reader.noop()[0] == "OK"
            assert sender.docmd("RCPT", "TO:<joe@company2.com>")[0] == 250
            assert sender.docmd("DATA")[0] == 354
            sender.send("Subject: through\r\n\r\nx\r\n.\r\n")
            assert sender.getreply()[0] == 250
            wait_for_message(server, "joe@company2.com", "through")
        with (
            pytest.raises(Exception, match="refused, as asked for"),
            smtp(server, "app@company1.com"),
        ):
            pass
        assert deliver(server, "x@box.example", login="b@company1.com").last.code == 250
        with imap(server, "x@box.example") as reader:
            assert b"MESSAGE" in reader.getquotaroot("INBOX")[1][1][0]
        assert len(queue(server)) == 1
        wait_for(server.is_healthy, "every service to work")

        config.write_text("faults:\n  new.example: rejct\n")
        done = server.command("reload")
        assert done.returncode == 1
        assert "the rule 'new.example=rejct' in DEVMAIL_FAULTS" in done.stderr
        config.write_text("hostname: other.example\n")
        done = server.command("reload")
        assert done.returncode == 1
        assert "DEVMAIL_HOSTNAME='other.example' (hostname in " in done.stderr
        assert "it was 'mail.localhost' at the start, and cannot change" in done.stderr
        assert deliver(server, "joe@new.example", login="b@company1.com").last.code == 450


def test_a_reload_closes_no_connection_however_long_it_lasts(own_directory: Path) -> None:
    config = own_directory / "devmail.yaml"
    config.write_text("")
    with Server(own_directory, config=str(config)) as server, contextlib.ExitStack() as held:
        tls = server.tls_context()
        plain = held.enter_context(imap(server, "a@one.example"))
        idle = held.enter_context(imap(server, "b@one.example"))
        pop = held.enter_context(pop3(server, "c@one.example"))
        over_tls = imaplib.IMAP4_SSL("localhost", server.port("imaps"), ssl_context=tls, timeout=20)
        held.callback(over_tls.logout)
        over_tls.login("d@one.example", "d")
        sender = held.enter_context(smtp(server, "e@one.example"))
        for client in (plain, idle, over_tls):
            client.select()
        idle.send(b"x1 IDLE\r\n")
        assert idle.readline().startswith(b"+")
        # Twice, and each time something changes for every daemon.
        for failing in ("old", "new"):
            config.write_text(f"faults:\n  login:{failing}@one.example: auth-535\n")
            assert server.command("reload").returncode == 0
        wait_for(lambda: server.log().count("SIGHUP received") == 2, "Dovecot to be told twice")
        # Dovecot's processes, by default, end 6 s after they were told to.
        end = time.monotonic() + 10
        while time.monotonic() < end:
            for client in (plain, over_tls):
                assert client.noop()[0] == "OK"
            assert pop.noop().startswith(b"+OK")
            assert sender.noop()[0] == 250
            with contextlib.suppress(TimeoutError):
                idle.sock.settimeout(0.1)
                idle.sock.recv(1, socket.MSG_PEEK)
                # Every two minutes, it says that it is there.
                assert idle.readline() == b"* OK Still here\r\n"
        idle.sock.settimeout(20)
        send(server, "e@one.example", "b@one.example", "wake up")
        while b"EXISTS" not in (line := idle.readline()):
            assert line.startswith(b"* "), line
        idle.send(b"DONE\r\n")
        sender.sendmail("e@one.example", ["a@one.example"], "Subject: through\r\n\r\nx\r\n")
        wait_for_message(server, "a@one.example", "through")


def test_a_reload_leaves_alone_the_daemons_that_nothing_changed_for(own_directory: Path) -> None:
    """Dovecot has no log-in any more for who has connected to it before it was told."""
    config = own_directory / "devmail.yaml"
    config.write_text("")
    with (
        Server(own_directory, config=str(config)) as server,
        imaplib.IMAP4(LOOPBACK, server.port("imap"), timeout=20) as client,
    ):
        none = server.command("reload").stdout
        assert none == "devmail: reloaded, 0 files of the configuration have changed\n"
        config.write_text("bounce_after: 1h\nfaults:\n  to.example: reject\n")
        assert server.command("reload").returncode == 0
        wait_for(lambda: deliver(server, "joe@to.example").last.code == 550, "the new rule")
        client.login("a@one.example", "a")
        assert "dovecot: master: Warning: SIGHUP" not in server.log()


def test_a_session_that_outlived_a_reload_ends_with_the_server(own_directory: Path) -> None:
    with Server(own_directory) as server, imap(server, "a@one.example"):
        assert server.command("reload").returncode == 0
        assert server.stop() == 0
        assert not server.processes()


def test_a_reload_of_no_server_is_an_error(own_directory: Path) -> None:
    done = run_devmail(["reload"], {"DEVMAIL_STATE_DIR": str(own_directory)})
    assert done.returncode == 1
    assert f"the server of {own_directory}: none is running" in done.stderr
