"""Nothing leaves the box, nothing outside the state directory changes, servers do not meet."""

from __future__ import annotations

import smtplib
import socket
from pathlib import Path

import pytest

from tests.helpers.clients import LOOPBACK, messages, send, smtp, wait_for_message
from tests.helpers.namespace import Outside, in_own_network
from tests.helpers.server import Server, run_devmail
from tests.helpers.wait import wait_for

EVERYWHERE = [
    "someone@gmail.com",
    "someone@example.com",
    "someone@[192.0.2.1]",
    "someone@[IPv6:2001:db8::1]",
    "someone@192.0.2.1",
    '"some one"@yahoo.com',
    "someone%gmail.com@outlook.com",
    "gmail.com!someone@outlook.com",
    "someone@xn--mnchen-3ya.de",
    "someone@localhost",
]


def test_no_packet_leaves_whatever_is_sent_to_whomever(own_directory: Path) -> None:
    def body(outside: Outside) -> None:
        # First, that a packet would be seen at all.
        with pytest.raises(OSError, match="timed out"):
            socket.create_connection(("192.0.2.1", 25), timeout=0.2)
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("gmail.com", 25)
        control = outside.seen()
        assert "tcp 192.0.2.1:25" in control
        assert "udp 192.0.2.53:53" in control

        with Server(own_directory, bounce_after="3s", bind_address="0.0.0.0, ::") as server:
            with smtp(server, "sender@gmail.com") as client:
                # A name in HELO, too, is one that some servers look up.
                client.helo("client.example.org")
            for recipient in EVERYWHERE:
                send(server, "sender@gmail.com", recipient, "stay here")
            send(server, "sender@gmail.com", "x@bad-domain.com", "come back")
            wait_for_message(server, "someone@gmail.com", "stay here")
            wait_for_message(server, "sender@gmail.com", "Undelivered Mail", timeout=30)
            assert server.command("health").returncode == 0
        assert outside.seen() == []

    in_own_network(own_directory, body)


def test_two_servers_side_by_side_know_nothing_of_each_other() -> None:
    with Server() as one, Server(port_offset=str(first_free_after(one.offset))) as other:
        send(one, "a@one.example", "b@two.example", "on the first")
        wait_for_message(one, "b@two.example", "on the first")
        assert messages(other, "b@two.example") == []
        assert one.ca.read_bytes() != other.ca.read_bytes()
        assert other.stop() == 0
        assert one.is_healthy()


def first_free_after(offset: int) -> int:
    return offset + 1500


def test_nothing_outside_the_state_directory_is_touched(own_directory: Path) -> None:
    watched = [
        "/etc/postfix",
        "/etc/dovecot",
        "/etc/nginx",
        "/var/spool/postfix",
        "/var/lib/postfix",
    ]

    def picture() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.lstat().st_mtime_ns, path.lstat().st_size)
            for top in [*watched, "/var/mail", "/var/log/nginx", "/run/dovecot"]
            for path in [Path(top), *Path(top).rglob("*")]
            if path.exists()
        }

    before = picture()
    with Server(own_directory) as server:
        send(server, "a@one.example", "b@two.example", "inside")
        wait_for_message(server, "b@two.example", "inside")
    assert picture() == before


def test_only_loopback_is_listened_on(server: Server) -> None:
    addresses = {
        line.split()[1].rpartition(":")[0]
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
        if line.split()[3] == "0A"
        and int(line.split()[1].rpartition(":")[2], 16) == server.port("smtp")
    }
    # proc(5): addresses as hexadecimal words in the machine's byte order.
    assert addresses <= {"0100007F", "00000000000000000000000001000000"}
    assert "0100007F" in addresses


def test_a_second_server_on_the_same_state_directory_is_refused(server: Server) -> None:
    done = run_devmail(
        ["run"], {**server.environ, "DEVMAIL_PORT_OFFSET": str(first_free_after(server.offset))}
    )
    assert done.returncode == 1
    assert server.process is not None
    assert f"a server is already running on {server.state} (process {server.process.pid})" in (
        done.stderr
    )
    assert server.is_healthy()


def test_ports_that_another_server_has_are_reported_with_their_holder(
    server: Server, own_directory: Path
) -> None:
    done = run_devmail(["run"], {**server.environ, "DEVMAIL_STATE_DIR": str(own_directory)})
    assert done.returncode == 1
    port = server.port("smtp")
    assert f"port {port} (smtp) on 127.0.0.1 and ::1 is taken by master (process " in done.stderr
    assert (
        f"port {server.port('http')} (http) on 127.0.0.1 and ::1 is taken by nginx" in done.stderr
    )
    assert "DEVMAIL_PORT_OFFSET" in done.stderr
    assert not list(own_directory.iterdir())


def test_a_left_over_queue_socket_does_not_confuse_the_next_start(own_directory: Path) -> None:
    with Server(own_directory) as server:
        server.kill_all()
        server.start()
        wait_for(server.is_healthy, "every service to work")
        with smtplib.SMTP(LOOPBACK, server.port("smtp")) as client:
            assert client.noop()[0] == 250
