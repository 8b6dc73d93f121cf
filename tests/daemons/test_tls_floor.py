"""One floor of TLS for every port: 1.2 and newer, and no suite that is weak or proves nothing."""

from __future__ import annotations

import contextlib
import imaplib
import poplib
import smtplib
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from devmail_config.fault_ports import fault_ports
from devmail_config.services import LISTENERS
from devmail_config.settings import Settings
from tests.helpers import hello
from tests.helpers.ca import Material, issue, make_ca, rsa_key
from tests.helpers.clients import LOOPBACK, wait_for_message
from tests.helpers.server import HOSTNAME, Server, free_offset_with_fault_ports

# IANA's numbers of the suites: ECDHE, with AES-GCM, ChaCha20 or AES-CBC.
WITH_ECDSA = {0xC02B, 0xC02C, 0xCCA9, 0xC023, 0xC024, 0xC009, 0xC00A}
WITH_RSA = {0xC02F, 0xC030, 0xCCA8, 0xC027, 0xC028, 0xC013, 0xC014}

# The words with which a client asks for TLS, and how the server's last line before it begins.
STARTTLS = {
    "SMTP": ((b"EHLO x\r\n", b"250 "), (b"STARTTLS\r\n", b"220 ")),
    "IMAP": ((b"x STARTTLS\r\n", b"x OK"),),
    "POP3": ((b"STLS\r\n", b"+OK"),),
}


class Port(NamedTuple):
    """A port with TLS, without the offset; and whether TLS is for a client that asks for it."""

    name: str
    number: int
    protocol: str
    # A fault port has a certificate that no client can trust, or none of these.
    breakage: str = ""

    @property
    def starts_tls(self) -> bool:
        return not self.name.startswith(("smtps", "imaps", "pop3s", "https"))

    def connect(self, server: Server) -> socket.socket:
        """Connect, up to where the handshake begins."""
        connection = socket.create_connection((LOOPBACK, self.number + server.offset), timeout=20)
        if self.starts_tls:
            line_that_begins(
                connection, {"SMTP": b"220 ", "IMAP": b"* OK", "POP3": b"+OK"}[self.protocol]
            )
            for command, answer in STARTTLS[self.protocol]:
                connection.sendall(command)
                line_that_begins(connection, answer)
        return connection


def line_that_begins(connection: socket.socket, beginning: bytes) -> None:
    """Read up to the end of a line, and nothing after it."""
    line = b""
    while not (line.endswith(b"\r\n") and line.startswith(beginning)):
        if line.endswith(b"\r\n"):
            assert line.startswith(b"250-"), line
            line = b""
        octet = connection.recv(1)
        assert octet, line
        line += octet


ORDINARY = [Port(one.name, one.port, one.protocol) for one in LISTENERS if one.tls != "none"]
BROKEN = [
    Port(one.name, one.port, one.listener.protocol, one.breakage.name)
    for one in fault_ports(Settings(fault_ports=True))
]
# Those whose TLS is nginx's, and those that hand on that of the daemon behind them.
OTHER_CERTIFICATES = [
    one for one in BROKEN if one.breakage in {"expired", "wrong-name", "unknown-ca"}
]
HANDED_ON = [one for one in BROKEN if one.breakage in {"slow", "idle", "cut"}]
OLD_TLS = [one for one in BROKEN if one.breakage == "old-tls"]


def named(port: Port) -> str:
    return port.name


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(fault_ports="yes", port_offset=str(free_offset_with_fault_ports())) as running:
        yield running


@pytest.fixture(scope="module")
def with_rsa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose certificate has an RSA key: without one, no suite for RSA could be chosen."""
    material = Material.below(tmp_path_factory.mktemp("rsa"))
    ca = make_ca()
    material.write(issue(HOSTNAME, ca, names=[HOSTNAME, "localhost"], key=rsa_key(2048)), ca)
    settings = {
        name.removeprefix("DEVMAIL_").lower(): value for name, value in material.environ.items()
    }
    with Server(None, **settings) as running:
        yield running


# --- By hand: everything there is, offered ---


@pytest.mark.parametrize("port", [*ORDINARY, *OTHER_CERTIFICATES], ids=named)
def test_of_all_suites_only_the_good_ones_are_taken(server: Server, port: Port) -> None:
    assert hello.accepted(lambda: port.connect(server)) == WITH_ECDSA


@pytest.mark.parametrize("port", ORDINARY, ids=named)
def test_of_all_suites_only_the_good_ones_are_taken_with_an_rsa_key(
    with_rsa: Server, port: Port
) -> None:
    """Such a key could serve RSA without ECDHE, and DHE with a group of no matter how many bits."""
    assert hello.accepted(lambda: port.connect(with_rsa)) == WITH_RSA


@pytest.mark.parametrize("port", [*ORDINARY, *OTHER_CERTIFICATES], ids=named)
def test_nothing_older_and_nothing_weaker_is_spoken(server: Server, port: Port) -> None:
    def connect() -> socket.socket:
        return port.connect(server)

    good = hello.offer(connect, hello.ALL_SUITES)
    assert good is not None
    for version in (hello.SSL_3_0, hello.TLS_1_0, hello.TLS_1_1):
        assert hello.offer(connect, hello.ALL_SUITES, version=version) is None
    assert hello.offer(connect, WITH_ECDSA, groups=hello.WEAK_GROUPS) is None
    assert hello.offer(connect, WITH_ECDSA, signatures=hello.WEAK_SIGNATURES) is None
    assert hello.offer(connect, WITH_ECDSA) == good


def test_the_probes_see_what_is_weak_where_it_is_there(weak_server: int) -> None:
    def connect() -> socket.socket:
        return socket.create_connection((LOOPBACK, weak_server), timeout=20)

    found = hello.accepted(connect)
    # RSA without encryption, without forward secrecy; DHE; anonymous DH and ECDH.
    assert found >= {0x0002, 0x002F, 0x0033, 0x0034, 0xC018, *WITH_RSA}
    for version in (hello.TLS_1_0, hello.TLS_1_1):
        chosen = hello.offer(connect, hello.ALL_SUITES, version=version)
        assert chosen is not None
        assert chosen.version == version
    assert hello.offer(connect, {0xC018}, groups=hello.WEAK_GROUPS) is None


# --- With a real client, as far as it can be made to offer what is refused ---

WEAK = {
    "TLS 1.0": (ssl.TLSVersion.TLSv1, "ALL:@SECLEVEL=0"),
    "TLS 1.1": (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
    "anonymous": (ssl.TLSVersion.TLSv1_2, "aNULL:@SECLEVEL=0"),
    "no encryption": (ssl.TLSVersion.TLSv1_2, "eNULL:@SECLEVEL=0"),
}
of_old_versions = pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")


# A group of 1024 bits, by `openssl dhparam 1024`: OpenSSL takes no smaller one.
WEAK_GROUP = """\
-----BEGIN DH PARAMETERS-----
MIGHAoGBAOnu3nVJj9UhTfiIh6Ji4NSMy4bzryFSrCHx6DJJEIAjH9pM2KpieBEZ
L4jRtmU63I91Noua3E4yquZrNY60LBw62I1Gt2OdEiao7TRgzOrJ1SderMYTU9m6
HvQXWYi41RwUtZcNEK/e2cX+3CVtW47porXth2XCq7Ju0nJKYGnXAgEC
-----END DH PARAMETERS-----
"""


def weak_client(version: ssl.TLSVersion, suites: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers(suites)
    context.minimum_version = context.maximum_version = version
    return context


@pytest.fixture(scope="module")
def weak_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server that takes whatever OpenSSL still has, with a small DH group; its port."""
    directory = tmp_path_factory.mktemp("weak")
    material = Material.below(directory)
    ca = make_ca()
    material.write(issue(HOSTNAME, ca, key=rsa_key(2048)), ca)
    (directory / "dh.pem").write_text(WEAK_GROUP)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    context.load_cert_chain(material.certificate, material.key)
    context.load_dh_params(str(directory / "dh.pem"))
    with socket.create_server((LOOPBACK, 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    plain, _ = listening.accept()
                except OSError:
                    return
                with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True):
                    pass

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


@of_old_versions
@pytest.mark.parametrize("weakness", WEAK)
@pytest.mark.parametrize("port", [*ORDINARY, *OTHER_CERTIFICATES, *HANDED_ON], ids=named)
def test_a_client_that_is_weak_is_refused(server: Server, port: Port, weakness: str) -> None:
    context = weak_client(*WEAK[weakness])
    with (
        port.connect(server) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
        context.wrap_socket(plain, server_hostname=HOSTNAME),
    ):
        pass


@of_old_versions
@pytest.mark.parametrize("weakness", WEAK)
def test_the_weak_clients_are_as_weak_as_they_seem(weak_server: int, weakness: str) -> None:
    version, suites = WEAK[weakness]
    context = weak_client(version, suites)
    with (
        socket.create_connection((LOOPBACK, weak_server), timeout=20) as plain,
        context.wrap_socket(plain) as secure,
    ):
        assert secure.version() == version.name.replace("_", ".")


@of_old_versions
@pytest.mark.parametrize("port", OLD_TLS, ids=named)
def test_the_fault_ports_for_old_tls_go_on_with_that(server: Server, port: Port) -> None:
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        context = weak_client(version, "ALL:@SECLEVEL=0")
        with port.connect(server) as plain, context.wrap_socket(plain) as secure:
            assert secure.version() == version.name.replace("_", ".")
    chosen = hello.offer(lambda: port.connect(server), hello.ALL_SUITES)
    assert chosen is not None
    assert chosen.version == hello.TLS_1_1


GOOD = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", GOOD)
@pytest.mark.parametrize("port", [*ORDINARY, *HANDED_ON], ids=named)
def test_a_client_of_today_is_served_and_can_trust_the_server(
    server: Server, port: Port, version: ssl.TLSVersion
) -> None:
    context = server.tls_context()
    context.minimum_version = context.maximum_version = version
    with (
        port.connect(server) as plain,
        context.wrap_socket(plain, server_hostname=HOSTNAME) as secure,
    ):
        assert secure.version() == version.name.replace("_", ".")


@pytest.mark.parametrize("version", GOOD)
@pytest.mark.parametrize("port", OTHER_CERTIFICATES, ids=named)
def test_a_fault_port_with_a_bad_certificate_has_nothing_else_that_is_bad(
    server: Server, port: Port, version: ssl.TLSVersion
) -> None:
    context = weak_client(version, "DEFAULT")
    with port.connect(server) as plain, context.wrap_socket(plain) as secure:
        assert secure.version() == version.name.replace("_", ".")


# --- Mail over the oldest version that is left ---


def only_tls_1_2(server: Server) -> ssl.SSLContext:
    context = server.tls_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize("chosen", ["server", "with_rsa"])
def test_mail_is_sent_and_read_over_tls_1_2(chosen: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(chosen)
    context = only_tls_1_2(server)
    login = f"{chosen.replace('_', '-')}@tls.example"
    names = ("smtp", "submission", "smtps")
    for name in names:
        port = server.port(name)
        with (
            smtplib.SMTP_SSL("localhost", port, context=context)
            if name == "smtps"
            else smtplib.SMTP("localhost", port)
        ) as client:
            if name != "smtps":
                client.starttls(context=context)
            assert isinstance(client.sock, ssl.SSLSocket)
            assert client.sock.version() == "TLSv1.2"
            client.login(login, login.partition("@")[0])
            client.sendmail(login, [login], f"Subject: over {name}\r\n\r\nx\r\n")
    for name in names:
        wait_for_message(server, login, f"over {name}")

    with imaplib.IMAP4_SSL("localhost", server.port("imaps"), ssl_context=context) as reader:
        reader.login(login, login.partition("@")[0])
        assert reader.select()[1] == [b"3"]
    popper = poplib.POP3_SSL("localhost", server.port("pop3s"), context=context)
    popper.user(login)
    popper.pass_(login.partition("@")[0])
    assert popper.stat()[0] == 3
    popper.quit()
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with opener.open(f"https://localhost:{server.port('https')}/", timeout=20) as page:
        assert page.status == 200
