"""Ports with bad certificates and broken connections, in front of the good ones."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from devmail_config.fault_ports import BREAKAGES, FaultPort, fault_ports
from devmail_config.settings import Settings
from tests.helpers.clients import LOOPBACK, imap, messages, send, smtp, wait_for_message
from tests.helpers.server import HOSTNAME, Server, free_offset_with_fault_ports, is_free
from tests.helpers.session import AT_ONCE, deliver

PORTS = fault_ports(Settings(fault_ports=True))
MESSAGE = b"Subject: x\r\n\r\n" + b"hello there\r\n" * 500


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(fault_ports="yes", port_offset=str(free_offset_with_fault_ports())) as running:
        yield running


def added(name: str) -> int:
    return next(breakage.added for breakage in BREAKAGES if breakage.name == name)


def port(server: Server, breakage: str, listener: str) -> int:
    return server.port(listener) + added(breakage)


def of(breakage: str) -> list[FaultPort]:
    return [one for one in PORTS if one.breakage.name == breakage]


def handshake(server: Server, one: FaultPort, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection((LOOPBACK, one.port + server.offset), timeout=5)
    return context.wrap_socket(plain, server_hostname=HOSTNAME)


@pytest.mark.parametrize(
    ("breakage", "reason"),
    [
        ("expired", "certificate has expired"),
        ("wrong-name", f"Hostname mismatch, certificate is not valid for '{HOSTNAME}'"),
        ("unknown-ca", "unable to get local issuer certificate"),
        ("old-tls", "TLSV1_ALERT_PROTOCOL_VERSION"),
    ],
)
def test_tls_fails_for_one_reason_and_the_good_port_works(
    server: Server, breakage: str, reason: str
) -> None:
    assert {one.listener.name for one in of(breakage)} == {"smtps", "imaps", "pop3s", "https"}
    for one in of(breakage):
        with pytest.raises(ssl.SSLError, match=reason):
            handshake(server, one, server.tls_context())
        plain = socket.create_connection((LOOPBACK, server.port(one.listener.name)), timeout=5)
        with server.tls_context().wrap_socket(plain, server_hostname=HOSTNAME) as good:
            assert good.version() == "TLSv1.3"


def test_behind_a_bad_certificate_is_the_ordinary_service(server: Server) -> None:
    careless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE
    with smtplib.SMTP_SSL(LOOPBACK, port(server, "expired", "smtps"), context=careless) as client:
        client.login("a@company1.com", "a")
        client.sendmail("a@company1.com", ["tls@company2.com"], b"Subject: careless\r\n\r\nx")
    wait_for_message(server, "tls@company2.com", "careless")
    reader = imaplib.IMAP4_SSL(LOOPBACK, port(server, "unknown-ca", "imaps"), ssl_context=careless)
    reader.login("tls@company2.com", "tls")
    assert reader.select()[1] == [b"1"]
    reader.logout()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1 is deprecated")
def test_old_versions_of_tls_are_spoken_with_the_right_certificate(server: Server) -> None:
    context = server.tls_context()
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")
    for one in of("old-tls"):
        with handshake(server, one, context) as connection:
            assert connection.version() == "TLSv1.1"


def test_connections_are_refused_with_a_word(server: Server) -> None:
    words = {
        "SMTP": b"421 4.3.2 Service not available, as asked for\r\n",
        "IMAP": b"* BYE [UNAVAILABLE] Service not available, as asked for\r\n",
        "POP3": b"-ERR [SYS/TEMP] Service not available, as asked for\r\n",
    }
    names = []
    for one in of("refuse"):
        with socket.create_connection((LOOPBACK, one.port + server.offset), timeout=5) as client:
            assert client.recv(1000) == words[one.listener.protocol]
            assert client.recv(1000) == b""
        names.append(one.listener.name)
    assert names == ["smtp", "submission", "imap", "pop3"]


def test_a_silent_client_is_disconnected(server: Server) -> None:
    def wait(one: FaultPort) -> float:
        with socket.create_connection((LOOPBACK, one.port + server.offset), timeout=10) as client:
            client.recv(1000)
            began = time.monotonic()
            assert client.recv(1000) == b""
            return time.monotonic() - began

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(wait, one) for one in of("idle")]
        assert deliver(server, "joe@company2.com").seconds < AT_ONCE
        assert all(2.5 < future.result() < 3 + AT_ONCE for future in running)


def test_a_slow_connection_carries_a_kilobyte_a_second(server: Server) -> None:
    def submit() -> float:
        with smtplib.SMTP(LOOPBACK, port(server, "slow", "smtp")) as client:
            client.login("a@company1.com", "a")
            began = time.monotonic()
            client.sendmail("a@company1.com", ["slow@company2.com"], MESSAGE[:4000])
            return time.monotonic() - began

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(submit)
        assert deliver(server, "joe@company2.com").seconds < AT_ONCE
        assert 2 <= running.result() < 6
    assert len(messages(server, "slow@company2.com")) == 1


def test_a_connection_is_cut_in_the_middle_of_a_message(server: Server) -> None:
    client = smtplib.SMTP(LOOPBACK, port(server, "cut", "smtp"))
    client.login("a@company1.com", "a")
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        client.sendmail("a@company1.com", ["cut@company2.com"], MESSAGE)
    client.close()
    assert not messages(server, "cut@company2.com")

    send(server, "a@company1.com", "cut@company2.com", "long", MESSAGE.decode())
    wait_for_message(server, "cut@company2.com", "long")
    reader = imaplib.IMAP4(LOOPBACK, port(server, "cut", "imap"))
    reader.login("cut@company2.com", "cut")
    reader.select()
    with pytest.raises((imaplib.IMAP4.abort, OSError)):
        reader.fetch("1", "(BODY[])")
    reader.shutdown()
    popper = poplib.POP3(LOOPBACK, port(server, "cut", "pop3"))
    popper.user("cut@company2.com")
    popper.pass_("cut")
    with pytest.raises((poplib.error_proto, OSError)):
        popper.retr(1)
    popper.close()


def test_capabilities_are_hidden_and_do_not_work(server: Server) -> None:
    with smtplib.SMTP(LOOPBACK, port(server, "bare", "submission")) as client:
        client.ehlo()
        assert not client.has_extn("starttls")
        assert client.has_extn("dsn")
        assert client.docmd("STARTTLS") == (500, b"5.5.2 Error: command not recognized")
        client.login("a@company1.com", "a")
        body = "STARTTLS\r\nUIDL\r\n250-STARTTLS\r\n"
        client.sendmail("a@company1.com", ["bare@company2.com"], f"Subject: bare\r\n\r\n{body}")
    with smtp(server) as client:
        assert client.has_extn("starttls")
    wait_for_message(server, "bare@company2.com", "bare")

    reader = imaplib.IMAP4(LOOPBACK, port(server, "bare", "imap"))
    assert "STARTTLS" not in reader.capabilities
    assert "IDLE" not in reader.capabilities
    reader.login("bare@company2.com", "bare")
    reader._simple_command("CAPABILITY")
    listed = reader.response("CAPABILITY")[1][-1].split()
    assert b"IDLE" not in listed
    assert b"MOVE" in listed
    reader.select()
    (part, *_) = reader.fetch("1", "(BODY[])")[1]
    assert isinstance(part, tuple)
    assert body.encode() in part[1]
    reader.send(b"x1 IDLE\r\n")
    assert reader.readline().startswith(b"x1 BAD ")
    reader.logout()
    with imap(server, "bare@company2.com") as good:
        good._simple_command("CAPABILITY")
        assert b"IDLE" in good.response("CAPABILITY")[1][-1].split()

    popper = poplib.POP3(LOOPBACK, port(server, "bare", "pop3"))
    assert not {"STLS", "UIDL"} & set(popper.capa())
    assert "TOP" in popper.capa()
    popper.user("bare@company2.com")
    popper.pass_("bare")
    with pytest.raises(poplib.error_proto, match="-ERR Unknown command"):
        popper.uidl()
    assert b"UIDL" in popper.retr(1)[1]
    popper.quit()


def test_none_of_these_ports_is_a_way_round_the_login(server: Server) -> None:
    """Some of them connect to the ordinary port from the machine itself."""
    careless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE
    tried = []
    for one in PORTS:
        if one.listener.protocol != "SMTP" or one.breakage.name in {"refuse", "old-tls"}:
            continue
        with (
            smtplib.SMTP_SSL(LOOPBACK, one.port + server.offset, context=careless)
            if one.breakage.of_tls
            else smtplib.SMTP(LOOPBACK, one.port + server.offset)
        ) as client:
            client.ehlo()
            assert client.docmd("MAIL FROM:<a@company1.com>")[0] == 250
            for recipient in ("joe@company2.com", "postmaster", f"double-bounce@{HOSTNAME}"):
                assert client.docmd(f"RCPT TO:<{recipient}>")[0] == 530
            assert client.docmd("VRFY postmaster")[0] == 530
        tried.append(one.name)
    assert len(tried) == 11


def test_there_are_none_of_these_ports_without_the_setting() -> None:
    assert fault_ports(Settings()) == ()
    with Server(port_offset=str(free_offset_with_fault_ports())) as plain:
        assert all(is_free(one.port + plain.offset) for one in of("refuse"))
