"""What is said of a server that has just started."""

from __future__ import annotations

from pathlib import Path

import pytest

from devmail_config import surroundings, tls
from devmail_config.layout import Layout
from devmail_config.settings import Settings
from devmail_config.summary import summary
from devmail_config.surroundings import Machine
from devmail_config.tls import TlsFiles

SUMMARY = """
  smtp       [::1]:20025       plain or STARTTLS  send mail
  submission [::1]:20587       plain or STARTTLS  send mail
  smtps      [::1]:20465       TLS                send mail
  imap       [::1]:20143       plain or STARTTLS  read mail
  imaps      [::1]:20993       TLS                read mail
  pop3       [::1]:20110       plain or STARTTLS  read mail
  pop3s      [::1]:20995       TLS                read mail
  http       [::1]:20080       plain              this server's page, and its CA certificate
  https      [::1]:20443       TLS                this server's page

  login      the full address; the password is the part before the @
             for example mail1@company1.com with the password mail1
  pages      http://[::1]:20080/ and https://a.test:20443/
  webmail    none
  CA         http://[::1]:20080/ca.crt
             SHA-256 AB:CD
"""


@pytest.mark.parametrize(
    ("offset", "addresses", "pages"),
    [
        (20000, ("::",), "http://[::1]:20080/ and https://a.test:20443/"),
        (0, ("0.0.0.0",), "http://127.0.0.1/ and https://a.test/"),
        (0, ("::1", "127.0.0.1"), "http://[::1]/ and https://a.test/"),
    ],
)
def test_the_summary_says_where_everything_is(
    monkeypatch: pytest.MonkeyPatch,
    offset: int,
    addresses: tuple[str, ...],
    pages: str,
) -> None:
    files = TlsFiles(
        Path("/key"), Path("/cert"), Path("/ca.pem"), made_here=True, ca_fingerprint="AB:CD"
    )
    monkeypatch.setattr(tls, "planned", lambda *_: files)
    monkeypatch.setattr(surroundings, "available_addresses", lambda _: addresses)
    layout = Layout.of(Settings(), Path("/"))
    bare = Machine(dpkg_status=Path("/nonexistent"))
    text = summary(Settings(hostname="a.test", port_offset=offset), layout, bare)
    assert f"  pages      {pages}\n" in text
    if offset:
        assert text == SUMMARY.rstrip()
