"""Each kind of setting: which texts it takes, what it makes of them, why it refuses the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from devmail_config import kinds
from devmail_config.kinds import Kind

NAMES = kinds.list_of(kinds.HOSTNAME_OR_IP, "names", "a.test, 192.0.2.7")
ADDRESSES = kinds.list_of(kinds.IP_ADDRESS, "addresses", "127.0.0.1", may_be_empty=False)
PERCENT = kinds.integer(0, 100)
LEVEL = kinds.choice("info", "debug")

GOOD = [
    (kinds.HOSTNAME, "mail.localhost", "mail.localhost"),
    (kinds.HOSTNAME, "LOCALHOST", "localhost"),
    (kinds.HOSTNAME, "mail.example.test.", "mail.example.test"),
    (kinds.HOSTNAME, "3com.test", "3com.test"),
    (kinds.HOSTNAME, "a" * 63 + ".test", "a" * 63 + ".test"),
    (kinds.DOMAIN, "Down.Example.", "down.example"),
    (kinds.DOMAIN, "МЮНХЕН.example", "xn--e1andb2b0c.example"),
    (kinds.IP_ADDRESS, "192.0.2.7", "192.0.2.7"),
    (kinds.IP_ADDRESS, "[2001:DB8::0:1]", "2001:db8::1"),
    (kinds.HOSTNAME_OR_IP, "::1", "::1"),
    (kinds.HOSTNAME_OR_IP, "mail.test", "mail.test"),
    (kinds.ORIGIN, "https://cdn.example", "https://cdn.example"),
    (kinds.ORIGIN, "HTTP://App.Test:31999/", "http://app.test:31999"),
    (kinds.ORIGIN, "http://127.0.0.1:080", "http://127.0.0.1:80"),
    (kinds.ORIGIN, "https://почта.рф", "https://xn--80a1acny.xn--p1ai"),
    (kinds.ORIGIN, "http://localhost:65535", "http://localhost:65535"),
    (kinds.BOOLEAN, "yes", True),
    (kinds.BOOLEAN, "True", True),
    (kinds.BOOLEAN, "ON", True),
    (kinds.BOOLEAN, "1", True),
    (kinds.BOOLEAN, "no", False),
    (kinds.BOOLEAN, "false", False),
    (kinds.BOOLEAN, "off", False),
    (kinds.BOOLEAN, "0", False),
    (kinds.DURATION, "90", 90),
    (kinds.DURATION, "90s", 90),
    (kinds.DURATION, "5 m", 300),
    (kinds.DURATION, "2h", 7200),
    (kinds.SIZE, "1000", 1000),
    (kinds.SIZE, "64M", 64 * 1024**2),
    (kinds.SIZE, "100 kB", 100 * 1024),
    (kinds.SIZE, "1GiB", 1024**3),
    (kinds.PATH, "/srv/dev-mail_1.2", Path("/srv/dev-mail_1.2")),
    (kinds.PATH, "почта/x", Path("почта/x")),
    (PERCENT, "0", 0),
    (PERCENT, "100", 100),
    (LEVEL, "DEBUG", "debug"),
    (NAMES, "", ()),
    (NAMES, "a.test, B.test 192.0.2.7,,a.test", ("a.test", "b.test", "192.0.2.7")),
    (ADDRESSES, "::1 127.0.0.1", ("::1", "127.0.0.1")),
]

NOT_A_HOST = "not a host name (letters, digits, hyphens and dots)"
NOT_A_PATH = "a path with a character other than letters, digits and . _ - + = @ /"
BAD = [
    (kinds.HOSTNAME, "", NOT_A_HOST),
    (kinds.DOMAIN, "under_score.test", NOT_A_HOST),
    (kinds.DOMAIN, "мюнхен..test", "not an internationalised domain (RFC 5890)"),
    (kinds.HOSTNAME, "under_score.test", NOT_A_HOST),
    (kinds.HOSTNAME, "-a.test", NOT_A_HOST),
    (kinds.HOSTNAME, "a..test", NOT_A_HOST),
    (kinds.HOSTNAME, "a.test\nmynetworks = 0.0.0.0/0", NOT_A_HOST),
    (kinds.HOSTNAME, "münchen.test", NOT_A_HOST),
    (kinds.HOSTNAME, "a" * 64, NOT_A_HOST),
    (kinds.HOSTNAME, "a." * 127 + "a", NOT_A_HOST),
    (kinds.HOSTNAME, "127.0.0.1", "not a host name: its last part is a number"),
    (kinds.HOSTNAME, "mail.25", "not a host name: its last part is a number"),
    (kinds.IP_ADDRESS, "localhost", "not an IPv4 or IPv6 address"),
    (kinds.IP_ADDRESS, "127.0.0.256", "not an IPv4 or IPv6 address"),
    (kinds.IP_ADDRESS, "127.0.0.1:25", "not an IPv4 or IPv6 address"),
    (
        kinds.IP_ADDRESS,
        "fe80::1%eth0",
        "an IPv6 address with a zone, which only this machine could make sense of",
    ),
    *(
        (kinds.ORIGIN, text, "not http:// or https:// with a host and no path")
        for text in (
            *("", "cdn.example", "//cdn.example", "https:cdn.example", "https://", "https:", "*"),
            *("ftp://cdn.example", "data:", "https://*", "https://*.cdn.example", "'self'"),
            *("https://cdn.example/a.png", "https://cdn.example?x", "https://cdn.example#x"),
            *("https://joe@cdn.example", "https://cdn.example:", "https://cdn.example:x"),
            *(
                "https://cdn.example; script-src *",
                "https://a.test\nb",
                'https://a"b',
                "https://a'b",
            ),
            *("https://a\\b", "https://cdn.example:123456", "https://cdn.example//"),
        )
    ),
    (kinds.ORIGIN, "https://under_score.test", NOT_A_HOST),
    (kinds.ORIGIN, "https://$host", NOT_A_HOST),
    (kinds.ORIGIN, "https://a}b", NOT_A_HOST),
    (kinds.ORIGIN, "https://1.2.3", "not a host name: its last part is a number"),
    (
        kinds.ORIGIN,
        "http://[::1]:80",
        "an IPv6 address, which no Content-Security-Policy can name",
    ),
    (kinds.ORIGIN, "https://cdn.example:0", "an origin whose port is not from 1 to 65535"),
    (kinds.ORIGIN, "https://cdn.example:65536", "an origin whose port is not from 1 to 65535"),
    (kinds.HOSTNAME_OR_IP, "a b", "neither a host name nor an IP address"),
    (kinds.HOSTNAME_OR_IP, "300.0.0.1", "neither a host name nor an IP address"),
    (kinds.BOOLEAN, "", "neither yes nor no"),
    (kinds.BOOLEAN, "maybe", "neither yes nor no"),
    (kinds.DURATION, "", "not a duration of at least one second"),
    (kinds.DURATION, "0", "not a duration of at least one second"),
    (kinds.DURATION, "-1s", "not a duration of at least one second"),
    (kinds.DURATION, "1.5m", "not a duration of at least one second"),
    (kinds.DURATION, "2 days", "not a duration of at least one second"),
    (kinds.DURATION, "٣", "not a duration of at least one second"),
    (kinds.DURATION, "999999999h", "longer than the 68 years that Postfix can count"),
    (kinds.SIZE, "0", "not a size of at least one byte"),
    (kinds.SIZE, "big", "not a size of at least one byte"),
    (kinds.SIZE, "2G", "larger than the 2 GiB that Postfix can handle"),
    (kinds.PATH, "", "empty"),
    (kinds.PATH, "/srv/dev mail", NOT_A_PATH),
    (kinds.PATH, "/srv/%d", NOT_A_PATH),
    (kinds.PATH, "/srv/$x;", NOT_A_PATH),
    (kinds.PATH, "/srv/\udcff", NOT_A_PATH),
    (kinds.PATH, "/srv\0", NOT_A_PATH),
    (PERCENT, "", "not a whole number from 0 to 100"),
    (PERCENT, "101", "not a whole number from 0 to 100"),
    (PERCENT, "-1", "not a whole number from 0 to 100"),
    (PERCENT, "1e1", "not a whole number from 0 to 100"),
    (LEVEL, "loud", "not one of: info, debug"),
    (NAMES, "a.test, b_c", "'b_c' is neither a host name nor an IP address"),
    (ADDRESSES, " , ", "an empty list"),
]


@pytest.mark.parametrize(("kind", "text", "value"), GOOD)
def test_a_text_that_fits_gives_the_value(kind: Kind, text: str, value: Any) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(("kind", "text", "reason"), BAD)
def test_a_text_that_does_not_fit_is_refused_with_a_reason(
    kind: Kind, text: str, reason: str
) -> None:
    with pytest.raises(ValueError) as caught:
        kind.parse(text)
    assert str(caught.value) == reason


@pytest.mark.parametrize(("kind", "text", "value"), GOOD)
def test_a_value_is_shown_as_a_text_that_gives_it_again(kind: Kind, text: str, value: Any) -> None:
    assert kind.parse(kind.show(kind.parse(text))) == value


@pytest.mark.parametrize("kind", [*dict.fromkeys(case[0] for case in GOOD)])
def test_the_example_of_a_kind_fits_it(kind: Kind) -> None:
    kind.parse(kind.example)
