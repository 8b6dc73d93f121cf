"""Our own CA over the life of a server: one that an earlier version made is replaced, and told."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.ca import write_earlier_material
from tests.helpers.clients import LOOPBACK, send, wait_for_message
from tests.helpers.server import HOSTNAME, Server
from tests.helpers.wait import wait_for

NAMES = (HOSTNAME, "localhost", "127.0.0.1", "::1")
NEWS = (
    "a new CA replaces our own: an earlier version of devmail made it, and its key can sign "
    "anyone's e-mail. Clients have to trust it again; remove the old one wherever it is trusted"
)
REPLACED = f"devmail: {NEWS}"


@pytest.fixture
def earlier(own_directory: Path) -> Iterator[Server]:
    """A server that does not run, whose state an earlier version left."""
    server = Server(own_directory)
    with server:
        assert server.stop() == 0
        assert "new CA" not in server.log()
        for directory in (own_directory / "tls", own_directory / "run"):
            (directory / ".devmail-owns-this").unlink()
        shutil.rmtree(own_directory / "tls")
        write_earlier_material(own_directory / "tls", NAMES)
        (own_directory / "test.log").unlink()
        yield server
        server.command("down")
        wait_for(lambda: not server.processes(), "every process to be gone")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def handshake(server: Server, ca: Path) -> None:
    context = ssl.create_default_context(cafile=str(ca))
    with (
        socket.create_connection((LOOPBACK, server.port("imaps")), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=HOSTNAME),
    ):
        pass


def test_a_start_replaces_the_ca_of_an_earlier_version_once_and_says_so(earlier: Server) -> None:
    tls = earlier.state / "tls"
    old = earlier.state / "old.pem"
    shutil.copy(tls / "ca.cert.pem", old)
    before = contents(tls)
    check = earlier.command("check")
    assert (check.returncode, check.stderr) == (0, "")
    first, news, last = check.stdout.splitlines()
    assert first.endswith("; our own CA is made at the start")
    assert (news, last) == (REPLACED, "devmail: nothing is wrong, the server can start")
    assert contents(tls) == before

    earlier.start()
    assert earlier.log().splitlines()[1] == REPLACED
    assert earlier.log().count("new CA") == 1
    assert not (tls / "ca.key.pem").exists()
    handshake(earlier, earlier.ca)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(earlier, old)
    send(earlier, "a@one.example", "b@two.example", "under the new CA")
    wait_for_message(earlier, "b@two.example", "under the new CA")

    new = earlier.ca.read_bytes()
    assert earlier.stop() == 0
    earlier.start()
    assert earlier.log().count("new CA") == 1
    assert earlier.ca.read_bytes() == new


def test_up_says_it_where_it_is_seen(earlier: Server) -> None:
    up = earlier.command("up")
    assert (up.returncode, up.stderr) == (0, "")
    assert up.stdout.splitlines()[0] == REPLACED
    again = earlier.command("up")
    assert again.returncode == 0
    assert "new CA" not in again.stdout
    handshake(earlier, earlier.ca)


def test_another_name_needs_another_ca(own_directory: Path) -> None:
    with Server(own_directory) as server:
        assert server.stop() == 0
        server.settings["tls_names"] = "mail.test"
        server.start()
        assert (
            "devmail: a new CA replaces our own: it may not sign for mail.test. "
            "Clients have to trust it again; remove the old one wherever it is trusted\n"
        ) in server.log()


def test_a_reload_leaves_the_ca_as_it_is(own_directory: Path) -> None:
    with Server(own_directory) as server:
        done = server.command("reload")
        assert (done.returncode, done.stderr) == (0, "")
        assert "CA" not in done.stdout

        # As if a version before the one that reloads had started it.
        tls = own_directory / "tls"
        for path in tls.glob("*.pem"):
            path.unlink()
        write_earlier_material(tls, NAMES)
        before = contents(tls)
        done = server.command("reload")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[1:] == [f"devmail: at the next start, {NEWS}"]
        assert contents(tls) == before
        wait_for(server.is_healthy, "the server to have the certificate of that CA")
