"""Whatever a client sends, on whatever port: the log and the commands show it, and do no more."""

from __future__ import annotations

import http.client
import json
import random
import re
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from devmail_config.fault_ports import fault_ports
from devmail_config.services import LISTENERS
from devmail_config.settings import Settings
from tests.helpers.clients import imap, smtp
from tests.helpers.octets import (
    FORGED,
    FULLY_TRIED,
    LETTERS,
    PAYLOADS,
    WAYS,
    Probe,
    complaints,
    probes,
    raw_log,
    unnamed,
)
from tests.helpers.server import DEVMAIL, Server, free_offset_with_fault_ports
from tests.helpers.wait import wait_for

# What the log quotes at either level, and at the level debug as well.
QUOTED = {
    "SMTP": {
        *("EHLO", "HELO", "VRFY, EXPN, ETRN", "another protocol", "AUTH", "AUTH LOGIN", "MAIL"),
        *("AUTH mechanism", "MAIL quoted", "MAIL domain", "RCPT", "RCPT quoted", "RCPT domain"),
        *("RCPT before AUTH", "header", "Message-ID", "header with SMTPUTF8", "BDAT", "delivery"),
    },
    "IMAP": {"LOGIN quoted", "LOGIN literal", "AUTHENTICATE"},
    "POP3": {"USER, PASS", "AUTH"},
    "HTTP": {
        *(way for way in WAYS["HTTP"] if "path /" in way or "query /" in way),
        *("User-Agent", "URI with a host", "method", "version", "no protocol"),
    },
}
QUOTED_IN_DEBUG = {
    "SMTP": {
        *("command", "verbs", "XCLIENT", "STARTTLS", "MAIL parameter", "MAIL ENVID", "RCPT ORCPT"),
    },
    "IMAP": {"ID after login", "folder", "folder as a literal", "search and flags"},
    "POP3": set(),
    "HTTP": {"Host"},
}

Probed = tuple[Server, list[Probe]]


@pytest.fixture(scope="module", params=["info", "debug"])
def probed(request: pytest.FixtureRequest) -> Iterator[Probed]:
    """A server at each level that everything has been sent to, and what that was."""
    offset = str(free_offset_with_fault_ports())
    settings = {"log_level": request.param, "webmail": "none", "bounce_after": "900"}
    with Server(None, port_offset=offset, fault_ports="yes", **settings) as server:
        is_debug = request.param == "debug"
        sent = list(probes(server, FULLY_TRIED[:3] if is_debug else FULLY_TRIED))
        # Not all that starts a program of ours at the same time.
        random.Random(1).shuffle(sent)  # noqa: S311 - not for a secret
        with ThreadPoolExecutor(48) as pool:
            list(pool.map(Probe.send, sent))
        finish(server)
        yield server, sent


def finish(server: Server) -> None:
    """Wait until everything is in the log: what is said last, and mail that is on its way."""
    with smtp(server, "joe@probe.example") as client:
        for recipient in ("last", '"last one"'):
            client.sendmail("joe@probe.example", [f"{recipient}@probe.example"], "Subject: x\r\n")
    with pytest.raises(Exception, match="AUTHENTICATIONFAILED"), imap(server, "last@x.test", "no"):
        pass
    for page in ("lookup/en?address=last@x.test", "en?last"):
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port('http')}/{page}") as answer:
            answer.read()

    def is_finished() -> bool:
        log = server.log()
        waiting = [recipient["address"] for one in queue(server) for recipient in one["recipients"]]
        return (
            all(address.endswith("@bad-domain.com") for address in waiting)
            and "login refused: 'last@x.test'" in log
            and "GET /en?last" in log
        )

    wait_for(is_finished, "the log to be complete", timeout=60, interval=0.2)


def queue(server: Server) -> list[dict[str, list[dict[str, str]]]]:
    done = server.command("queue", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_way_is_tried_on_every_port(probed: Probed) -> None:
    server, sent = probed
    tried = {(one.listener, one.way) for one in sent}
    assert {
        *((one.name, way) for one in LISTENERS for way in WAYS[one.protocol]),
        *((one.name, "hello") for one in LISTENERS),
        *((one.name, "hello") for one in fault_ports(Settings(fault_ports=True))),
    } == tried
    assert len(sent) == {"info": 3115, "debug": 2260}[server.settings["log_level"]]
    assert len(PAYLOADS) == 14


def test_the_log_shows_what_clients_sent_and_no_more(probed: Probed) -> None:
    server, sent = probed
    log = raw_log(server)
    assert complaints(log) == []
    assert unnamed(log) == []
    # It has been there, in the words of the log.
    assert log.count(FORGED) > 200
    assert log.count(rb"\xe2\x80\xae") > 20
    assert log.count(rb"\x9b") > 20
    tokens = set(re.findall(rb"p\d{5}q", log))
    quoted: dict[str, set[str]] = {protocol: set() for protocol in WAYS}
    for one in sent:
        if one.way != "hello" and one.token in tokens:
            quoted[one.protocol].add(one.way)
    for protocol, ways in QUOTED.items():
        is_debug = server.settings["log_level"] == "debug"
        expected = ways | (QUOTED_IN_DEBUG[protocol] if is_debug else set())
        assert expected - quoted[protocol] == set(), protocol


def test_what_is_not_found_is_no_error(probed: Probed) -> None:
    """It is in the line about the request, as it came; upstream and TLS errors are errors."""
    server, _ = probed
    lines = [line for line in raw_log(server).split(b"\n") if line.startswith(b"nginx: ")]
    errors = [line for line in lines if b"[error]" in line or b"[crit]" in line]
    assert [line for line in errors if b"http" in line and b"upstream" not in line] == []
    assert [line for line in errors if b"open()" in line or b"No such file" in line] == []
    assert any(b'" 404 ' in line for line in lines)


def test_letters_stay_readable_in_the_log_and_in_the_queue(probed: Probed) -> None:
    server, _ = probed
    login = f"{LETTERS}@x.test"
    with pytest.raises(Exception, match="AUTHENTICATIONFAILED"), imap(server, login, "no"):
        pass
    wait_for(lambda: f"login refused: '{login.lower()}'" in server.log(), "the login in the log")
    recipient = f'"{LETTERS}"@bad-domain.com'
    with smtp(server, "joe@probe.example") as client:
        client.mail("joe@probe.example", ["SMTPUTF8"])
        # smtplib's own rcpt() takes ASCII.
        client.send(f"RCPT TO:<{recipient}>\r\n".encode())
        assert client.getreply()[0] == 250
        assert client.data("Subject: x\r\n")[0] == 250
    wait_for(lambda: LETTERS in server.command("queue").stdout, "it in the queue")
    assert LETTERS in server.command("queue", "--json").stdout


def status(server: Server, target: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port("http"), timeout=20)
    connection.request("GET", target)
    code = connection.getresponse().status
    connection.close()
    return code


def test_no_path_has_a_control_character(server: Server) -> None:
    """Other errors than 404 would be logged with it as it is, a new line included."""
    controls = [*range(1, 0x20), 0x7F]
    for code in controls:
        assert status(server, f"/en%{code:02x}") == 400
        assert status(server, f"/%{code:02x}/lookup/en") == 400
    assert {status(server, f"/en?%{code:02x}") for code in controls} == {200}
    assert {status(server, quote(f"/x{letter}")) for letter in (*LETTERS, "\u202e", "\x9b")} == {
        404
    }


def test_an_error_of_the_server_is_in_the_log(own_directory: Path) -> None:
    with Server(own_directory, webmail="none") as server:
        (own_directory / "run/page/socket").unlink()
        assert status(server, "/lookup/en?address=a%0ab%1b") == 502
        wait_for(lambda: "page/socket failed (2: No such file" in server.log(), "the error")
        (line,) = [one for one in server.log().split("\n") if "page/socket failed" in one]
        assert re.match(r"nginx: \S+ \S+ \[crit\] ", line)
        assert 'request: "GET /lookup/en?address=a%0ab%1b HTTP/1.1"' in line


def output(server: Server, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command, and keep what it says as it is."""
    return subprocess.run(
        [*DEVMAIL, *arguments], env=server.environ, capture_output=True, timeout=60, check=False
    )


def test_the_queue_is_shown_and_steers_nothing(probed: Probed) -> None:
    server, sent = probed
    table = output(server, "queue")
    assert (table.returncode, table.stderr) == (0, b"")
    assert complaints(table.stdout) == []
    lines = table.stdout.decode().splitlines()
    waiting = [one.token.decode() for one in sent if one.way == "delivery"]
    shown = [line for line in lines if any(token in line for token in waiting)]
    assert len(shown) >= 4
    assert [line for line in lines[1:] if line not in shown and LETTERS not in line] == []
    for word in (r"\u202e", r"\ufeff", r"\U000e0041"):
        assert any(word in line for line in shown)

    listing = output(server, "queue", "--json")
    assert (listing.returncode, listing.stderr) == (0, b"")
    assert complaints(listing.stdout) == []
    assert rb"\u202e" in listing.stdout
    messages = [json.loads(line) for line in listing.stdout.splitlines()]
    recipients = [one["address"] for message in messages for one in message["recipients"]]
    assert len(recipients) == len(lines) - 1
    assert any("\u202e" in address for address in recipients)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        *((["health"], 0), (["summary"], 0), (["settings"], 0), (["reload"], 0)),
        *((["queue", "flush"], 0), (["queue", "expire"], 0)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_other_commands_do_not_either(
    probed: Probed, arguments: Sequence[str], status: int
) -> None:
    server, _ = probed
    done = output(server, *arguments)
    assert done.returncode == status
    assert complaints(done.stdout + done.stderr) == []


def test_the_log_is_clean_to_the_end(probed: Probed) -> None:
    """After all bounces have been written, and the server has stopped."""
    server, _ = probed
    wait_for(lambda: queue(server) == [], "the queue to be empty", timeout=60, interval=0.2)
    assert server.stop() == 0
    log = raw_log(server)
    assert complaints(log) == []
    assert unnamed(log) == []
