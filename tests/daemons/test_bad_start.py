"""What keeps a server from starting, with the real program: a status, a reason, and no daemon."""

from __future__ import annotations

import imaplib
import os
import poplib
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

from devmail_config.services import LISTENERS
from tests.helpers.ca import DAY, Material, issue, make_ca, make_material
from tests.helpers.clients import LOOPBACK, send, wait_for_message
from tests.helpers.server import DEVMAIL, HOSTNAME, Server
from tests.helpers.wait import wait_for

CA = make_ca()


def refused(server: Server, *wrapper: str) -> str:
    """Check that neither `run` nor `check` starts anything; give what both of them say."""
    said = set()
    for command in ("check", "run"):
        done = subprocess.run(
            [*wrapper, *DEVMAIL, command],
            env=server.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("devmail: ")
        assert "Traceback" not in done.stderr
        said.add(done.stderr)
    (error,) = said
    assert not server.processes()
    assert [one.name for one in LISTENERS if is_open(one.port + server.offset)] == []
    return error


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


# --- Settings ---


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ({"hostname": "a b"}, ["DEVMAIL_HOSTNAME='a b' (environment): not a host name"]),
        ({"hostname": "127.0.0.1"}, ["not a host name: its last part is a number"]),
        ({"hostnme": "a.test"}, ["did you mean DEVMAIL_HOSTNAME?"]),
        ({"hostname_file": "/nowhere"}, ["DEVMAIL_HOSTNAME_FILE='/nowhere' (environment): cannot"]),
        ({"config": "/nowhere"}, ["DEVMAIL_CONFIG='/nowhere' (environment): cannot be read"]),
        ({"bounce_after": "never"}, ["not a duration of at least one second"]),
        ({"message_size_limit": "3G"}, ["larger than the 2 GiB that Postfix can handle"]),
        ({"log_level": "loud"}, ["not one of: info, debug"]),
        ({"bind_address": "192.0.2.7"}, ["cannot listen on 192.0.2.7: Cannot assign requested"]),
        ({"bind_address": ""}, ["DEVMAIL_BIND_ADDRESS='' (environment): an empty list"]),
        ({"state_dir": "/root/x"}, ["the users that the daemons run as cannot enter /root"]),
        ({"state_dir": "/dev/null"}, ["/dev/null is a file"]),
        ({"state_dir": f"/srv/{'x' * 300}"}, ["bytes too long for the Unix sockets inside it"]),
        ({"mail_dir": "/dev/null/x"}, ["DEVMAIL_MAIL_DIR='/dev/null/x' (environment)"]),
        (
            {"tls_ca_path": "/nowhere"},
            ["DEVMAIL_TLS_CA_PATH='/nowhere' (environment): there is no"],
        ),
        (
            {"hostname": "a b", "port_offset": "-1", "state_dir": "/root/x", "typo": "1"},
            [
                "devmail: 4 problems:",
                "DEVMAIL_HOSTNAME='a b'",
                "DEVMAIL_PORT_OFFSET='-1'",
                "cannot enter /root",
                "DEVMAIL_TYPO",
            ],
        ),
    ],
)
def test_a_bad_setting(own_directory: Path, settings: dict[str, str], messages: list[str]) -> None:
    server = Server(own_directory)
    # These come after those that the server has for the test, and win.
    server.settings |= settings
    error = refused(server)
    for message in messages:
        assert message in error
    assert list(own_directory.iterdir()) == []


# --- The machine ---


def test_a_disk_may_forbid_what_no_daemon_needs(mounted: Callable[[str], Path]) -> None:
    """Nothing of it is a device or a set-user-id program; mailboxes are not run."""
    place, mail = mounted("nosuid,nodev,mode=755"), mounted("noexec,nosuid,nodev,mode=755")
    with Server(place, mail_dir=str(mail)) as server:
        send(server, "a@one.example", "b@two.example", "here")
        wait_for_message(server, "b@two.example", "here")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("size=1m,mode=755", "the disk is full: 1 MiB and "),
        ("nr_inodes=100,mode=755", "500 files are needed"),
        ("nr_inodes=1,mode=755", "and 0 files are free at"),
        ("ro,mode=755", "cannot be written to: Read-only file system"),
        ("noexec,mode=755", "its file system is mounted with noexec\n    -> mount it with exec"),
        ("mode=700", "the users that the daemons run as cannot enter"),
    ],
)
def test_a_bad_disk(mounted: Callable[[str], Path], options: str, message: str) -> None:
    place = mounted(options)
    assert message in refused(Server(place))
    assert list(place.iterdir()) == []


def test_another_system_without_the_packages(own_directory: Path) -> None:
    (own_directory / "os-release").write_text('PRETTY_NAME="Fedora 40"\nID=fedora\n')
    (own_directory / "status").touch()
    script = (
        f"mount --bind {own_directory}/os-release /etc/os-release; "
        f"mount --bind {own_directory}/status /var/lib/dpkg/status; "
        'exec "$@"'
    )
    server = Server(own_directory / "state")
    error = refused(server, "unshare", "--mount", "sh", "-ec", script, "sh")
    assert "this system (Fedora 40): devmail configures the daemons of Debian 12" in error
    assert "apt-get install --no-install-recommends dovecot-imapd " in error


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("lock", Path.mkdir, "/lock is not a file\n    -> choose a directory that is new"),
        ("spool", Path.touch, "/spool is a file\n    -> choose a directory that is new"),
        ("tls", Path.touch, "/tls is a file\n    -> choose a directory that is new"),
    ],
)
def test_a_state_directory_that_is_not_as_a_server_left_it(
    own_directory: Path, name: str, make: Callable[[Path], None], message: str
) -> None:
    make(own_directory / name)
    assert message in refused(Server(own_directory))


# --- TLS material ---


def expired(material: Material) -> None:
    past = issue("old", CA, names=[HOSTNAME], start=CA_START - 9 * DAY, end=CA_START)
    material.write(past, CA)


CA_START = CA.certificate.not_valid_before_utc


def another_key(material: Material) -> None:
    material.write_key(CA.key_pem)


def encrypted_key(material: Material) -> None:
    material.write_key(issue("x").encrypted_key_pem)


def another_ca(material: Material) -> None:
    material.ca.write_bytes(make_ca("Another CA").pem)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda material: material.key.unlink(), "DEVMAIL_TLS_KEY_PATH='{}/key.pem'"),
        (lambda material: material.ca.write_text("x"), "not a certificate in PEM form"),
        (lambda material: material.key.chmod(0o644), "chmod 0400 {}/key.pem"),
        (another_key, "the key does not belong to the certificate in {}/cert.pem"),
        (encrypted_key, "the key is encrypted"),
        (another_ca, "it does not lead to the CA in {}/ca.pem"),
        (expired, "ran out on"),
        (
            lambda material: make_material(material.ca.parent, "other.test"),
            f"the certificate is not for {HOSTNAME}: its subject alternative names are other.test",
        ),
    ],
)
def test_bad_tls_material(
    own_directory: Path, change: Callable[[Material], object], message: str
) -> None:
    material = make_material(own_directory)
    change(material)
    server = Server(own_directory / "state", **tls_settings(material))
    assert message.format(own_directory) in refused(server)
    assert not server.state.exists()


def tls_settings(material: Material) -> dict[str, str]:
    return {
        name.removeprefix("DEVMAIL_").lower(): value for name, value in material.environ.items()
    }


# --- Good material, and our own ---


def served_certificates(server: Server, name: str) -> set[bytes]:
    """Give the certificates of every port that has TLS, each verified for ``name``."""
    context = server.tls_context()
    found = set()

    def take(connection: socket.socket | ssl.SSLSocket | None) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        found.add(connection.getpeercert(binary_form=True) or b"")

    def starttls(listener: str) -> None:
        port = server.port(listener)
        match listener:
            case "smtp" | "submission":
                with smtplib.SMTP(LOOPBACK, port) as smtp:
                    smtp._host = name  # type: ignore[attr-defined]
                    smtp.starttls(context=context)
                    take(smtp.sock)
            case "imap":
                with imaplib.IMAP4(LOOPBACK, port) as imap:
                    imap.host = name
                    imap.starttls(context)
                    take(imap.sock)
            case _:
                with closing(poplib.POP3(LOOPBACK, port)) as pop3:
                    pop3.host = name
                    pop3.stls(context)
                    take(pop3.sock)

    for listener in LISTENERS:
        if listener.tls == "implicit":
            with (
                socket.create_connection((LOOPBACK, server.port(listener.name))) as plain,
                context.wrap_socket(plain, server_hostname=name) as secure,
            ):
                take(secure)
        elif listener.tls == "starttls":
            starttls(listener.name)
    return found


def test_mounted_material_is_served_on_every_port(own_directory: Path) -> None:
    directory = own_directory / "material"
    directory.mkdir()
    material = make_material(directory, HOSTNAME, "mail.test")
    with Server(own_directory, **tls_settings(material)) as server:
        # The first one in the file; the intermediate follows.
        served = load_pem_x509_certificate(material.certificate.read_bytes())
        for name in (HOSTNAME, "mail.test"):
            assert served_certificates(server, name) == {served.public_bytes(Encoding.DER)}
        with urlopen(f"http://{LOOPBACK}:{server.port('http')}/ca.crt") as page:
            assert page.read() == material.ca.read_bytes()
        assert "; the CA of your certificate has the SHA-256 fingerprint " in server.log()
        assert not (server.state / "tls").exists()
        send(server, "a@one.example", "b@two.example", "over your material")
        wait_for_message(server, "b@two.example", "over your material")


def test_material_that_was_replaced_is_taken_over_by_a_reload(own_directory: Path) -> None:
    directory = own_directory / "material"
    directory.mkdir()
    material = make_material(directory)
    with Server(own_directory, **tls_settings(material)) as server:
        pkcs12 = f"http://{LOOPBACK}:{server.port('http')}/ca.p12"
        with urlopen(pkcs12) as page:
            before = page.read()
        # The same files, as a tool that renews certificates leaves them; even the CA is another.
        make_material(directory)
        renewed = load_pem_x509_certificate(material.certificate.read_bytes())

        def is_served() -> bool:
            try:
                served = served_certificates(server, HOSTNAME)
            except ssl.SSLCertVerificationError:
                return False
            return served == {renewed.public_bytes(Encoding.DER)}

        assert not is_served()
        assert server.command("reload").returncode == 0
        wait_for(is_served, "every port to have the new certificate")
        with urlopen(pkcs12) as page:
            assert page.read() != before
        wait_for(server.is_healthy, "every service to work")


def test_our_own_certificate_is_for_more_names_if_told_so(own_directory: Path) -> None:
    with Server(own_directory, tls_names="mail.test, 192.0.2.7") as server:
        (first,) = {
            certificate
            for name in (HOSTNAME, "mail.test", "192.0.2.7")
            for certificate in served_certificates(server, name)
        }
        assert server.stop() == 0
        server.start()
        assert served_certificates(server, "mail.test") == {first}


def test_check_finds_nothing_wrong_and_starts_nothing(own_directory: Path) -> None:
    server = Server(own_directory)
    done = server.command("check")
    assert (done.returncode, done.stderr) == (0, "")
    first, last = done.stdout.splitlines()
    assert first.startswith("devmail: version ")
    assert last == "devmail: nothing is wrong, the server can start"
    assert not server.processes()
    assert not is_open(server.port("smtp"))


@pytest.fixture
def closed_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("closed_umask")
def test_a_umask_that_closes_everything_does_no_harm(own_directory: Path) -> None:
    with Server(own_directory) as server:
        # This address needs a program of ours, run by the mail user.
        recipient = "o'hara@two.example"
        send(server, "a@one.example", recipient, "through a closed umask")
        wait_for_message(server, recipient, "through a closed umask")


def test_a_wildcard_includes_what_is_listed_beside_it(own_directory: Path) -> None:
    with Server(own_directory, bind_address="127.0.0.1, 0.0.0.0") as server:
        assert "on 0.0.0.0: smtp " in server.log()
        send(server, "a@one.example", "b@two.example", "on every address")
        wait_for_message(server, "b@two.example", "on every address")
