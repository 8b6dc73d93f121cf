"""The page on ports 80 and 443, and the CA certificate on it."""

from __future__ import annotations

import hashlib
import html
import http.client
import plistlib
import re
import ssl
from pathlib import Path
from urllib.parse import quote, urlencode
from xml.etree import ElementTree as ET

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from devmail_config.addresses import Address
from devmail_config.render import TEMPLATES
from devmail_config.services import LISTENERS
from tests.helpers.clients import LOOPBACK, imap
from tests.helpers.server import HOSTNAME, Server

WORDS = TEMPLATES / "nginx" / "www"


def get(
    server: Server, path: str, body: str | None = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(LOOPBACK, server.port("http"), timeout=10)
    try:
        connection.request("GET" if body is None else "POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def page(server: Server, path: str, **headers: str) -> str:
    """Fetch a page of HTML and give its text, as a browser would show it."""
    status, received, body = get(server, path, None, **headers)
    assert status == 200
    assert received["Content-Type"] == "text/html; charset=utf-8"
    text = re.sub(r"</?(?:code|a|span)\b[^>]*>", "", body.decode())
    text = re.sub(r"<[^>]*>", " ", text)
    return " ".join(html.unescape(text).split())


def test_the_page_says_what_this_server_is(server: Server) -> None:
    text = page(server, "/")
    assert text.startswith(f"{HOSTNAME}: development mail server")
    for listener in LISTENERS:
        assert str(server.port(listener.name)) in text
    assert "The login is the full address, the password is the part before the @." in text
    assert "Mail to any address at bad-domain.com cannot be delivered: after 60 seconds" in text


def test_the_page_speaks_english_and_russian(server: Server) -> None:
    russian = page(server, "/", **{"Accept-Language": "ru-RU,ru;q=0.9,en;q=0.8"})
    assert russian.startswith(f"{HOSTNAME}: почтовый сервер для разработки")
    assert page(server, "/ru") == russian
    assert page(server, "/", **{"Accept-Language": "en-GB,ru"}) == page(server, "/en")
    assert page(server, "/", **{"Accept-Language": "fr"}) == page(server, "/en")
    assert get(server, "/")[1]["Vary"] == "Accept-Language"


def test_both_languages_have_the_same_words() -> None:
    english, russian = (
        re.findall(r"^ {4}(\"\w+\"):|\{% block (\w+)", (WORDS / name).read_text(), re.MULTILINE)
        for name in ("index.en.html.j2", "index.ru.html.j2")
    )
    assert english == russian


@pytest.mark.parametrize(
    ("address", "login", "password", "directory"),
    [
        ("mail1@company1.com", "mail1@company1.com", "mail1", "company1.com/mail1"),
        ("Joe+News@Example.ORG", "joe+news@example.org", "joe+news", "example.org/joe+news"),
        ('"John Q."@x.test', '"john q."@x.test', "john q.", "x.test/john%20q%2e"),
        ('"a\\"<b>&"@x.test', '"a\\"<b>&"@x.test', 'a"<b>&', "x.test/a%22%3cb%3e%26"),
        ("юзер@почта.рф", "юзер@xn--80a1acny.xn--p1ai", "юзер", None),
    ],
)
def test_the_page_tells_the_login_of_an_address(
    server: Server, address: str, login: str, password: str, directory: str | None
) -> None:
    query = urlencode({"address": address})
    directory = directory or Address.parse(address).directory
    expected = f"Login {login} Password {password} Mailbox {directory}"
    assert expected in page(server, f"/lookup/en?{query}")
    assert expected in page(server, f"/?{query}")
    russian = f"Логин {login} Пароль {password} Ящик {directory}"
    assert russian in page(server, f"/ru?{query}")
    with imap(server, login, password) as client:
        assert client.select()[0] == "OK"


def test_the_page_says_why_something_is_not_an_address(server: Server) -> None:
    for address, reason in (
        ("joe", "it has no @: give the full address, such as joe@example.com"),
        ("a..b@x.test", "the part before the @ has a character or a dot that must stand in quotes"),
        (
            "<script>@x.test",
            "the part before the @ has a character or a dot that must stand in quo",
        ),
        ("", "it has no @"),
        ("%ff%00@x", "the part before the @ has"),
    ):
        query = address if address.startswith("%") else quote(address)
        text = page(server, f"/lookup/en?address={query}")
        assert text.startswith(f"Not an e-mail address: {reason}"), text
        assert reason in page(server, f"/lookup/ru?address={query}")
    status, _, body = get(server, f"/?address={quote('<script>@x.test')}")
    assert status == 200
    assert b"<script>@" not in body


def test_a_lookup_without_sense_harms_nobody(server: Server) -> None:
    junk = "a" * 4000
    assert page(server, f"/lookup/en?address={junk}@x").startswith("Not an e-mail address")
    assert page(server, "/lookup/en").startswith("Not an e-mail address")
    assert get(server, "/lookup/fr?address=a@b")[0] == 404
    assert get(server, "/lookup/../page/socket")[0] == 404


def test_thunderbird_finds_the_settings_of_any_domain(server: Server) -> None:
    for path in ("/mail/config-v1.1.xml", "/.well-known/autoconfig/mail/config-v1.1.xml"):
        status, headers, body = get(server, f"{path}?emailaddress=a%40b.test", Host="autoconfig.b")
        assert status == 200
        assert headers["Content-Type"].startswith("text/xml")
        provider = ET.fromstring(body)[0]  # noqa: S314 - our own server's
        assert provider.findtext("domain") == "%EMAILDOMAIN%"
        incoming = provider.find("incomingServer")
        assert incoming is not None
        assert incoming.findtext("hostname") == HOSTNAME
        assert incoming.findtext("port") == str(server.port("imaps"))
        assert incoming.findtext("username") == "%EMAILADDRESS%"


def test_outlook_discovers_the_settings_of_any_address(server: Server) -> None:
    question = """<?xml version="1.0"?><Autodiscover><Request>
        <EMailAddress>O'Neil&amp;Sons@b.test</EMailAddress></Request></Autodiscover>"""
    for path in ("/autodiscover/autodiscover.xml", "/Autodiscover/Autodiscover.xml"):
        status, headers, body = get(server, path, question)
        assert status == 200
        assert headers["Content-Type"].startswith("application/xml")
        found = {
            protocol.findtext("{*}Type"): (
                protocol.findtext("{*}Server"),
                protocol.findtext("{*}Port"),
                protocol.findtext("{*}LoginName"),
            )
            for protocol in ET.fromstring(body).iter(  # noqa: S314 - our own server's
                "{http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a}Protocol"
            )
        }
        login = "o'neil&sons@b.test"
        assert found == {
            "IMAP": (HOSTNAME, str(server.port("imaps")), login),
            "POP3": (HOSTNAME, str(server.port("pop3s")), login),
            "SMTP": (HOSTNAME, str(server.port("smtps")), login),
        }


def test_an_apple_profile_holds_the_account_and_the_ca(server: Server) -> None:
    query = urlencode({"address": "Tim&Co@fruit.test"})
    status, headers, body = get(server, f"/profile.mobileconfig?{query}")
    assert status == 200
    assert headers["Content-Type"].startswith("application/x-apple-aspen-config")
    authority, account = plistlib.loads(body)["PayloadContent"]
    pem = server.ca.read_text()
    assert authority["PayloadContent"] == ssl.PEM_cert_to_DER_cert(pem)
    assert account["EmailAddress"] == account["IncomingMailServerUsername"] == "tim&co@fruit.test"
    assert account["IncomingPassword"] == account["OutgoingPassword"] == "tim&co"
    assert account["IncomingMailServerPortNumber"] == server.port("imaps")
    assert account["OutgoingMailServerPortNumber"] == server.port("smtps")
    assert get(server, "/profile.mobileconfig?address=joe")[0] == 404


def test_the_ca_can_be_downloaded_and_is_the_one_that_signs(server: Server) -> None:
    status, headers, body = get(server, "/ca.crt")
    assert status == 200
    assert headers["Content-Type"] == "application/x-x509-ca-cert"
    assert body == server.ca.read_bytes()
    der = ssl.PEM_cert_to_DER_cert(body.decode())
    fingerprint = hashlib.sha256(der).digest().hex(":").upper()
    assert fingerprint in get(server, "/")[2].decode()
    assert fingerprint in server.log()
    assert get(server, "/ca.der")[2] == der
    _, headers, archive = get(server, "/ca.p12")
    assert headers["Content-Type"] == "application/x-pkcs12"
    _, _, (authority,) = pkcs12.load_key_and_certificates(archive, None)
    assert authority.public_bytes(Encoding.DER) == der


def test_https_gives_the_same_page_without_a_webmail(own_directory: Path) -> None:
    with Server(own_directory, webmail="none") as server:
        connection = http.client.HTTPSConnection(
            "localhost", server.port("https"), context=server.tls_context(), timeout=10
        )
        connection.request("GET", "/")
        body = connection.getresponse().read()
        connection.close()
        assert body == get(server, "/")[2]
        assert not server.processes("php")


def test_the_page_is_made_from_the_live_settings(own_directory: Path) -> None:
    settings = {"hostname": "post.test", "bad_domains": "", "tls_names": "mail.lan"}
    with Server(own_directory, **settings) as server:
        text = page(server, "/")
        assert text.startswith("post.test: development mail server")
        assert "No domain is configured to be unreachable." in text
        assert "bad-domain.com" not in text


def test_nothing_but_the_page_is_served(server: Server) -> None:
    for path in ("/index.html.j2", "/../nginx.conf", "/%2e%2e/nginx.conf", "/www/", "/nginx.pid"):
        assert get(server, path)[0] in (400, 404)
