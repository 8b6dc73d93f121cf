"""Clients that have every part of a server do something, while parts of it are killed."""

from __future__ import annotations

import contextlib
import http.client
import imaplib
import poplib
import smtplib
import ssl
import threading
from collections.abc import Callable
from typing import Self
from urllib.parse import urlencode

from tests.helpers.clients import LOOPBACK, imap, pop3, smtp
from tests.helpers.server import Server

AWAY = (
    OSError,
    smtplib.SMTPException,
    imaplib.IMAP4.error,
    poplib.error_proto,
    http.client.HTTPException,
)
# Seconds between two visits.
_PAUSE = 0.25


class Visits:
    """As a context manager, they come until its end. They expect nothing: see ``load`` for that."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        kinds = (
            self._read,
            self._read_by_rare_name,
            self._fetch,
            self._fail,
            self._ask,
            self._browse,
        )
        self._threads = [threading.Thread(target=self._come, args=(visit,)) for visit in kinds]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _come(self, visit: Callable[[], None]) -> None:
        while not self._stop.wait(_PAUSE):
            with contextlib.suppress(*AWAY):
                visit()

    def _read(self) -> None:
        with imap(self._server, "box0@two.example") as client:
            client.select("INBOX", readonly=True)
            client.fetch("*", "(BODY.PEEK[])")

    def _read_by_rare_name(self) -> None:
        """Log in by the one way that takes a program of ours."""
        with imap(self._server, '"rare 0"@two.example', "rare 0") as client:
            client.select("INBOX", readonly=True)

    def _fetch(self) -> None:
        with pop3(self._server, "box1@two.example") as client:
            client.stat()

    def _fail(self) -> None:
        """Ask for faults that take a program of ours, with a memory and without."""
        with smtp(self._server, "visitor@one.example") as client:
            for recipient in ("x@rate-1.fault.test", "x@data-451.fault.test"):
                client.docmd("MAIL", "FROM:<visitor@one.example>")
                client.docmd("RCPT", f"TO:<{recipient}>")
                client.docmd("DATA")
                client.docmd("RSET")

    def _ask(self) -> None:
        query = urlencode({"address": "a@one.example"})
        connection = http.client.HTTPConnection(LOOPBACK, self._server.port("http"), timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", f"/lookup/en?{query}")
            connection.getresponse().read()

    def _browse(self) -> None:
        connection = http.client.HTTPSConnection(
            LOOPBACK, self._server.port("https"), timeout=5, context=self._context()
        )
        with contextlib.closing(connection):
            connection.request("GET", "/", headers={"Host": "mail.localhost"})
            connection.getresponse().read()

    def _context(self) -> ssl.SSLContext:
        return self._server.tls_context()
