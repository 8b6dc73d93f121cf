"""Roundcube as a program uses it, without a browser: its forms over HTTPS."""

from __future__ import annotations

import contextlib
import http.client
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlencode

from tests.helpers.clients import local_part
from tests.helpers.server import Server

_FORM = "application/x-www-form-urlencoded"


class Answer(NamedTuple):
    """The answer to a request."""

    status: int
    headers: http.client.HTTPMessage
    text: str


class Session:
    """The cookies of one visitor."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._cookies: dict[str, str] = {}

    def ask(
        self, method: str, path: str, form: dict[str, str] | str | None = None, timeout: float = 60
    ) -> Answer:
        """Send one request, with the cookies, and keep those of the answer."""
        headers = {"Content-Type": _FORM} if form is not None else {}
        body = urlencode(form) if isinstance(form, dict) else form
        with self.begin(method, path, body, headers, timeout) as response:
            text = response.read().decode(errors="replace")
        for cookie in response.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            self._cookies[name] = value
        return Answer(response.status, response.headers, text)

    @contextlib.contextmanager
    def begin(
        self,
        method: str,
        path: str,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send one request, with the cookies, and give the answer to be read."""
        connection = http.client.HTTPSConnection(
            "localhost",
            self._server.port("https"),
            context=self._server.tls_context(),
            timeout=timeout,
        )
        cookies = "; ".join(f"{name}={one}" for name, one in self._cookies.items())
        try:
            connection.request(method, path, body, {**(headers or {}), "Cookie": cookies})
            yield connection.getresponse()
        finally:
            connection.close()

    def log_in(self, login: str, password: str | None = None) -> Answer:
        """Send the login form."""
        form = {
            "_token": self.token(self.ask("GET", "/?_task=login")),
            "_task": "login",
            "_action": "login",
            "_user": login,
            "_pass": local_part(login) if password is None else password,
        }
        return self.ask("POST", "/?_task=login", form)

    def open(self, login: str) -> str:
        """Log in, and give the token that every later form needs."""
        answer = self.log_in(login)
        assert answer.status == 302, answer
        return self.token(self.ask("GET", "/?_task=mail"))

    @staticmethod
    def token(answer: Answer) -> str:
        """Find the token of the session in a page."""
        found = re.search(r'"request_token":"([^"]+)"', answer.text)
        assert found, answer
        return found[1]
