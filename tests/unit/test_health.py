"""What a sick service is said to have, in words."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from devmail_config import authority, tls
from devmail_config.health import examine, examine_storage
from devmail_config.layout import Layout
from devmail_config.services import LISTENERS
from devmail_config.settings import Settings
from tests.helpers.octets import complaints
from tests.helpers.server import DEVMAIL, ROOT, free_offset

LOOPBACK = "127.0.0.1"
CLOSES = "it closes the connection"


@contextlib.contextmanager
def everywhere(
    offset: int, greeting: bytes, context: ssl.SSLContext | None = None
) -> Iterator[None]:
    """Stand on every port of a server, greet each client so, and hang up."""

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                with client:
                    if context:
                        with contextlib.suppress(OSError):
                            context.wrap_socket(client, server_side=True)
                        continue
                    client.sendall(greeting)
                    client.shutdown(socket.SHUT_WR)
                    # Until the other side is done: what it sends would else make this a reset.
                    client.settimeout(2)
                    while client.recv(1000):
                        pass

    sockets = [socket.create_server((LOOPBACK, one.port + offset)) for one in LISTENERS]
    threads = [threading.Thread(target=serve, args=(one,)) for one in sockets]
    for thread in threads:
        thread.start()
    yield
    for listening in sockets:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("greeting", "said"),
    [
        (b"", {"smtp": CLOSES, "imap": CLOSES, "pop3": CLOSES, "http": CLOSES, "imaps": CLOSES}),
        (b"554 no service here\r\n", {"smtp": "it answers 554 no service here"}),
        (b"* BYE overloaded\r\n", {"imap": "it answers * BYE overloaded"}),
        (b"-ERR overloaded\r\n", {"pop3": "it answers -ERR overloaded"}),
        (
            b"HTTP/1.0 502 Bad Gateway\r\n\r\n",
            {"http": "it answers with the status 502", "https": "TLS fails: wrong version number"},
        ),
    ],
)
def test_a_fault_is_said_in_words(tmp_path: Path, greeting: bytes, said: dict[str, str]) -> None:
    settings = Settings(state_dir=tmp_path, port_offset=free_offset())
    authority.ensure(tmp_path / "tls", ["mail.localhost"], datetime.now(UTC))
    files = tls.planned(settings, Layout.of(settings, tmp_path))
    with everywhere(settings.port_offset, greeting):
        found = {one.name: one.fault for one in examine(settings, files, (LOOPBACK,))}
    assert {name: fault for name, fault in found.items() if name in said} == said


@pytest.mark.parametrize("greeting", [b"554 no%b\r\n", b"* BYE no%b\r\n", b"-ERR no%b\r\n"])
@pytest.mark.parametrize("wait", [[], ["--wait", "0.1"]])
def test_what_a_server_answers_steers_no_terminal(
    tmp_path: Path, greeting: bytes, wait: list[str]
) -> None:
    offset = free_offset()
    authority.ensure(tmp_path / "tls", ["mail.localhost"], datetime.now(UTC))
    with everywhere(offset, greeting % b"\x1b]0;x\x07\x9b\xc2\x9b\xe2\x80\xae"):
        done = subprocess.run(
            [*DEVMAIL, "health", *wait],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "DEVMAIL_STATE_DIR": str(tmp_path),
                "DEVMAIL_PORT_OFFSET": str(offset),
            },
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert complaints(done.stdout + done.stderr) == []
    if not wait:
        assert rb"no\x1b]0;x\x07" in done.stdout
        assert rb"\x9b\u202e" in done.stdout


def test_a_certificate_of_someone_else_is_named_as_the_fault(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, port_offset=free_offset())
    now = datetime.now(UTC)
    authority.ensure(tmp_path / "tls", ["mail.localhost"], now)
    stranger = authority.ensure(tmp_path / "other", ["mail.localhost"], now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(stranger.certificate, stranger.key)
    files = tls.planned(settings, Layout.of(settings, tmp_path))
    with everywhere(settings.port_offset, b"", context):
        found = {one.name: one.fault for one in examine(settings, files, (LOOPBACK,))}
    assert found["imaps"] is not None
    assert found["imaps"].startswith("its certificate is not trusted: ")


def test_a_queue_that_cannot_be_listed_is_a_fault_among_the_others(tmp_path: Path) -> None:
    layout = Layout.of(Settings(state_dir=tmp_path), tmp_path)
    (layout.spool / "deferred" / "A").mkdir(parents=True)
    (layout.spool / "deferred" / "A" / "message").touch()
    found = {one.name: one.fault for one in examine_storage(Settings(), layout)}
    assert found == {"mailboxes": None, "queue": "no server has run there"}
