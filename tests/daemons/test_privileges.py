"""Which user may talk to which inner socket, and as which users the processes run."""

from __future__ import annotations

import errno
import json
import pwd
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from devmail_config.fault_ports import fault_ports
from devmail_config.services import PYTHON
from devmail_config.settings import Settings
from tests.helpers.clients import imap, pop3, send, wait_for_message
from tests.helpers.server import Server, is_free
from tests.helpers.session import deliver
from tests.helpers.wait import wait_for

PORTS = fault_ports(Settings(fault_ports=True))
# Tries to connect to each path that it reads, and writes the numbers of the errors, 0 for none.
CONNECT = """
import json, socket, sys
answers = {}
for path in json.load(sys.stdin):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as probe:
            answers[path] = probe.connect_ex(path)
        if answers[path] != 91:  # EPROTOTYPE
            break
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with every socket that a setting can add, in use."""
    candidates = random.sample(range(10000, 20000), 100)
    offset = next(
        offset for offset in candidates if all(is_free(one.port + offset) for one in PORTS)
    )
    with Server(webmail="roundcube", fault_ports="yes", port_offset=str(offset)) as running:
        send(running, "a@one.example", "b@two.example", "ordinary")
        wait_for_message(running, "b@two.example", "ordinary")
        rare = "rare one"
        send(running, "a@one.example", f'"{rare}"@two.example', "rare")
        wait_for_message(running, f'"{rare}"@two.example', "rare", password=rare)
        # Asks quota-status, and the service that counts.
        deliver(running, ["joe@quota-1.fault.test"])
        deliver(running, ["joe@first-1.fault.test"])
        yield running


def sockets(server: Server) -> list[str]:
    return [str(path) for path in server.state.rglob("*") if path.is_socket()]


def connect(user: str, paths: list[str]) -> dict[str, int]:
    """Connect to each socket as a user."""
    done = subprocess.run(
        [
            *("setpriv", "--reuid", user, "--regid", str(pwd.getpwnam(user).pw_gid)),
            *("--init-groups", PYTHON, "-c", CONNECT),
        ],
        input=json.dumps(paths),
        capture_output=True,
        text=True,
        check=True,
    )
    answers: dict[str, int] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize(
    ("user", "allowed"),
    [("nobody", set()), ("www-data", {"run/page/socket", "run/php/fpm.sock"})],
)
def test_no_user_of_the_machine_can_talk_to_an_inner_socket(
    server: Server, user: str, allowed: set[str]
) -> None:
    paths = sockets(server)
    # Postfix's, Dovecot's, and the two above: the list is not empty by mistake.
    assert len(paths) > 40
    answers = connect(user, paths)
    assert {path for path, number in answers.items() if number == 0} == {
        str(server.state / one) for one in allowed
    }
    assert {number for number in answers.values() if number != 0} == {errno.EACCES}


def test_each_socket_lets_in_who_needs_it(server: Server) -> None:
    base = server.state / "run" / "dovecot" / "base"
    for user, names in {
        "postfix": ("lmtp", "postfix-auth", "quota-status"),
        "mail": ("auth-userdb", "auth-master", "stats-writer"),
    }.items():
        answers = connect(user, [str(base / name) for name in names])
        assert set(answers.values()) == {0}


# What has to be root: it opens ports, reads the key, or starts others as who they are. Postfix's
# spawn and pipe keep their way back to root only. The last two are the supervisor's own.
ROOT_MAY_BE = {
    *("dovecot", "log", "config", "master", "spawn", "pipe", "nginx", "php-fpm8.2"),
    *("s6-supervise", "sed"),
}


def owners_of_processes(server: Server) -> dict[str, set[str]]:
    """The names of the server's processes, by each user that they are or can become again."""
    owners: dict[str, set[str]] = {}
    for process in server.processes():
        directory = Path("/proc") / str(process)
        try:
            lines = (directory / "status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        for number in set(fields["Uid"].split()):
            name = pwd.getpwuid(int(number)).pw_name
            owners.setdefault(name, set()).add(fields["Name"])
    return owners


def test_only_those_processes_are_root_that_have_to_be(server: Server) -> None:
    with imap(server, "b@two.example") as reader, pop3(server, "b@two.example"):
        reader.select("INBOX")
        # A process that has just been started gives root up as its first step.
        wait_for(
            lambda: owners_of_processes(server)["root"] <= ROOT_MAY_BE, "all others to give up root"
        )
        owners = owners_of_processes(server)
    assert {"imap", "pop3", "lmtp"} <= owners["mail"]
    # As nobody, any other service of the machine may run.
    assert "nobody" not in owners


# Talks LMTP to the socket in its first argument, and prints the answer to each recipient.
LMTP = """
import json, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    file = connection.makefile("rwb")
    file.readline()
    answers = []
    for command in ["LHLO x", "MAIL FROM:<a@x.test>", *json.load(sys.stdin)]:
        file.write(command.encode() + b"\\r\\n")
        file.flush()
        while (line := file.readline())[3:4] == b"-":
            pass
        answers.append(line.decode())
json.dump(answers[2:], sys.stdout)
"""
HOSTILE = (
    '"../../../outside/box"@x.test',
    '"/tmp/box"@x.test',
    '".."@x.test',
    '"."@x.test',
    '"a/b"@x.test',
    '".a"@x.test',
    '"a..b"@x.test',
    "box@..",
    '"box"@../outside',
    '"a%zzb"@x.test',
    '"a$b"@x.test',
    '"a b"@x.test',
    "box",
)
HARMLESS = (
    "box@x.test",
    "BOX@x.test",
    "a%2fb@x.test",
    "%2e%2e@x.test",
    "a+b=c~d@x.test",
    "box@[ipv6:2001:db8::1]",
    "box@[192.0.2.1]",
)


def test_a_name_that_is_no_mailbox_never_becomes_a_path(server: Server) -> None:
    path = str(server.state / "run" / "dovecot" / "base" / "lmtp")
    done = subprocess.run(
        [
            *("setpriv", "--reuid", "postfix", "--regid", "postfix", "--clear-groups"),
            *(PYTHON, "-c", LMTP, path),
        ],
        input=json.dumps([f"RCPT TO:<{name}>" for name in (*HOSTILE, *HARMLESS)]),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    answers = dict(zip((*HOSTILE, *HARMLESS), json.loads(done.stdout), strict=True))
    assert {name: answers[name][:1] for name in HOSTILE} == dict.fromkeys(HOSTILE, "5")
    assert {name: answers[name][:3] for name in HARMLESS} == dict.fromkeys(HARMLESS, "250")
