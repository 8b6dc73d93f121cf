"""The page on ports 80 and 443, and the CA certificate on it."""

from __future__ import annotations

import hashlib
import http.client
import ssl
from pathlib import Path

from tests.helpers.clients import LOOPBACK
from tests.helpers.server import HOSTNAME, Server


def get(server: Server, path: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(LOOPBACK, server.port("http"), timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def test_the_page_says_what_this_server_is(server: Server) -> None:
    status, headers, body = get(server, "/")
    page = body.decode()
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert HOSTNAME in page
    assert str(server.port("imaps")) in page
    assert "<code>bad-domain.com</code>" in page
    assert "60 seconds" in page
    assert "<code>mail1@company1.com</code> has the password <code>mail1</code>" in page


def test_the_ca_can_be_downloaded_and_is_the_one_that_signs(server: Server) -> None:
    status, headers, body = get(server, "/ca.crt")
    assert status == 200
    assert headers["Content-Type"] == "application/x-x509-ca-cert"
    assert body == server.ca.read_bytes()
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(body.decode())).digest().hex(":").upper()
    assert fingerprint in get(server, "/")[2].decode()
    assert fingerprint in server.log()


def test_https_gives_the_same_page(server: Server) -> None:
    connection = http.client.HTTPSConnection(
        "localhost", server.port("https"), context=server.tls_context(), timeout=10
    )
    connection.request("GET", "/")
    body = connection.getresponse().read()
    connection.close()
    assert body == get(server, "/")[2]


def test_the_page_is_made_from_the_live_settings(own_directory: Path) -> None:
    settings = {"hostname": "post.test", "bad_domains": "", "tls_names": "mail.lan"}
    with Server(own_directory, **settings) as server:
        page = get(server, "/")[2].decode()
        assert "<h1>post.test</h1>" in page
        assert "No domain is configured to be unreachable." in page
        assert "bad-domain.com" not in page


def test_nothing_but_the_page_is_served(server: Server) -> None:
    for path in ("/index.html.j2", "/../nginx.conf", "/%2e%2e/nginx.conf", "/www/", "/nginx.pid"):
        assert get(server, path)[0] in (400, 404)
