"""Use the server for real, the way a client does, and say for each service whether it works."""

from __future__ import annotations

import contextlib
import http.client
import imaplib
import os
import poplib
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from devmail_config import queue, surroundings, tls
from devmail_config.errors import DevmailError
from devmail_config.layout import Layout
from devmail_config.render import reachable
from devmail_config.services import HEALTH_CHECK, HEALTH_CHECK_ADDRESS, LISTENERS, Listener
from devmail_config.settings import Settings
from devmail_config.tls import TlsFiles

# Seconds. A server that takes longer than this is not well.
_TIMEOUT = 5.0
_POLL_INTERVAL = 0.1
# RFC 5321, section 4.2.3.
_OK = 250
_FAULTS = (
    OSError,
    smtplib.SMTPException,
    imaplib.IMAP4.error,
    poplib.error_proto,
    http.client.HTTPException,
)


@dataclass(frozen=True)
class Verdict:
    """What was found about a listener, or what lies behind all; ``fault`` is None if it works."""

    name: str
    fault: str | None

    def __str__(self) -> str:
        return f"{self.name:<11}{self.fault or 'ok'}"


@dataclass(frozen=True)
class _Target:
    host: str
    port: int
    name: str
    context: ssl.SSLContext
    login: str


def progress(settings: Settings, layout: Layout, timeout: float) -> Iterator[str]:
    """Wait until all works; give a line for each service that begins to, "" for a look in vain.

    Raises ``TimeoutError`` with the fault that is left after ``timeout`` seconds.
    """
    began = time.monotonic()
    working: set[str] = set()
    while len(working) < len(LISTENERS):
        files = tls.planned(settings, layout)
        fault = "" if files.ca_pem else f"there is no CA in {files.ca} yet"
        if not fault:
            for verdict in examine(settings, files, surroundings.available_addresses(settings)):
                if verdict.fault:
                    fault = str(verdict)
                    break
                if verdict.name not in working:
                    working.add(verdict.name)
                    yield f"  {verdict.name} works ({time.monotonic() - began:.1f} s)"
        if fault:
            if time.monotonic() - began > timeout:
                raise TimeoutError(fault)
            yield ""
            time.sleep(_POLL_INTERVAL)


def examine(settings: Settings, files: TlsFiles, addresses: tuple[str, ...]) -> Iterator[Verdict]:
    """Log in to every service and fetch both pages, every TLS verified against our own CA."""
    context = ssl.create_default_context(cafile=str(files.ca))
    host = reachable(addresses)

    def check(listener: Listener) -> Verdict:
        target = _Target(
            host,
            settings.port(listener.name),
            settings.hostname,
            context,
            f"{HEALTH_CHECK}@{settings.hostname}",
        )
        try:
            _CHECKS[listener.protocol](listener, target)
        except _FAULTS as error:
            return Verdict(listener.name, _in_words(error))
        return Verdict(listener.name, None)

    # At the same time, so that even services that all hang are reported within one timeout.
    with ThreadPoolExecutor(len(LISTENERS)) as pool:
        yield from pool.map(check, LISTENERS)


def examine_storage(settings: Settings, layout: Layout) -> Iterator[Verdict]:
    """Look at what clients do not see: whether there is room for mail, and what is not delivered.

    For whoever may look there: root, or nothing is found about the queue.
    """
    disk = os.statvfs(layout.mail if layout.mail.exists() else layout.state)
    free = disk.f_bavail * disk.f_frsize
    fault = None
    if free < settings.message_size_limit or (disk.f_files and not disk.f_favail):
        fault = (
            f"the disk is full: {free // 1024**2} MiB and {disk.f_favail} files are free at "
            f"{layout.mail}, which the largest message would not fit into"
        )
    yield Verdict("mailboxes", fault)
    yield Verdict("queue", _delayed_here(layout) if _something_is_deferred(layout) else None)


def _something_is_deferred(layout: Layout) -> bool:
    try:
        return any(path.is_file() for path in (layout.spool / "deferred").rglob("*"))
    except PermissionError:
        return False


def _delayed_here(layout: Layout) -> str | None:
    """Say what is not delivered, although nobody asked for that: by our own daemons."""
    try:
        _, waiting = queue.listing(layout)
    except DevmailError as error:
        return error.problems[0].fault
    reasons = [
        reason
        for message in waiting
        for _, reason in message.recipients
        # Dovecot's socket, or the program that delivers to rare addresses.
        if str(layout.run) in reason or reason.startswith("temporary failure")
    ]
    if not reasons:
        return None
    return f"not delivered, and tried again: {len(reasons)}; the oldest: {reasons[0]}"


def _in_words(error: Exception) -> str:
    """Say what went wrong without the names that Python gives to it."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ConnectionRefusedError():
            return "nothing listens on its port"
        case TimeoutError():
            return f"no answer within {_TIMEOUT:g} s"
        case ConnectionError() | ssl.SSLEOFError() | smtplib.SMTPServerDisconnected():
            return "it closes the connection"
        # Those for IMAP and POP3 have no error of their own for that.
        case imaplib.IMAP4.abort() | poplib.error_proto(args=["-ERR EOF"]):
            return "it closes the connection"
        case smtplib.SMTPResponseException():
            return f"it answers {error.smtp_code} {_text(error.smtp_error)}"
        case imaplib.IMAP4.error() | poplib.error_proto():
            return f"it answers {_text(error.args[0])}"
        case ssl.SSLError():
            return f"TLS fails: {error.reason.replace('_', ' ').lower()}"
        case OSError():
            return error.strerror or str(error)
    return str(error)


def _text(answer: object) -> str:
    return answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)


def _connect(listener: Listener, target: _Target) -> socket.socket:
    source = (HEALTH_CHECK_ADDRESS, 0) if target.host == "127.0.0.1" else None
    plain = socket.create_connection((target.host, target.port), _TIMEOUT, source)
    if listener.tls != "implicit":
        return plain
    try:
        return target.context.wrap_socket(plain, server_hostname=target.name)
    except OSError:
        plain.close()
        raise


class _Smtp(smtplib.SMTP):
    """An SMTP client that connects to one address, and verifies the name of another."""

    def __init__(self, listener: Listener, target: _Target) -> None:
        self._listener, self._target = listener, target
        super().__init__(target.host, target.port, local_hostname="localhost", timeout=_TIMEOUT)
        self._host = target.name

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return _connect(self._listener, self._target)


class _Imap(imaplib.IMAP4):
    """An IMAP client that connects to one address, and verifies the name of another."""

    def __init__(self, listener: Listener, target: _Target) -> None:
        self._listener, self._target = listener, target
        super().__init__(target.host, target.port, timeout=_TIMEOUT)
        self.host = target.name

    def _create_socket(self, timeout: float | None) -> socket.socket:
        return _connect(self._listener, self._target)


class _Pop3(poplib.POP3):
    """A POP3 client that connects to one address, and verifies the name of another."""

    def __init__(self, listener: Listener, target: _Target) -> None:
        self._socket = _connect(listener, target)
        try:
            super().__init__(target.host, target.port, timeout=_TIMEOUT)
        except (OSError, poplib.error_proto):
            # Without a greeting, poplib forgets the connection, and does not close it.
            self._socket.close()
            self.file.close()
            raise
        self.host = target.name

    def _create_socket(self, timeout: float) -> socket.socket:
        return self._socket


def _check_smtp(listener: Listener, target: _Target) -> None:
    with _Smtp(listener, target) as client:
        if listener.tls == "starttls":
            client.starttls(context=target.context)
        client.login(target.login, HEALTH_CHECK)
        # No message begins here, and no rule for a sender fits; but a full disk refuses it.
        code, answer = client.mail("")
        if code != _OK:
            raise smtplib.SMTPResponseException(code, answer)


def _check_imap(listener: Listener, target: _Target) -> None:
    client = _Imap(listener, target)
    try:
        if listener.tls == "starttls":
            client.starttls(target.context)
        client.login(target.login, HEALTH_CHECK)
        client.select("INBOX", readonly=True)
        client.logout()
    finally:
        # A connection that the server has closed has not been logged out, nor closed here.
        with contextlib.suppress(OSError):
            client.shutdown()


def _check_pop3(listener: Listener, target: _Target) -> None:
    client = _Pop3(listener, target)
    try:
        if listener.tls == "starttls":
            client.stls(target.context)
        client.user(target.login)
        client.pass_(HEALTH_CHECK)
        client.stat()
        client.quit()
    finally:
        client.close()


def _check_http(listener: Listener, target: _Target) -> None:
    connection = http.client.HTTPConnection(target.host, target.port, timeout=_TIMEOUT)
    connection.sock = _connect(listener, target)
    try:
        connection.request("GET", "/", headers={"Host": target.name, "User-Agent": HEALTH_CHECK})
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != http.HTTPStatus.OK:
        raise http.client.HTTPException(f"it answers with the status {status}")


_CHECKS: dict[str, Callable[[Listener, _Target], None]] = {
    "SMTP": _check_smtp,
    "IMAP": _check_imap,
    "POP3": _check_pop3,
    "HTTP": _check_http,
}
