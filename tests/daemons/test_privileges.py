"""Which user may talk to which inner socket, and as which users the processes run."""

from __future__ import annotations

import errno
import grp
import json
import pwd
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from devmail_config import debian
from devmail_config.fault_ports import fault_ports
from devmail_config.services import PYTHON
from devmail_config.settings import Settings
from tests.helpers.clients import LOOPBACK, imap, pop3, send, smtp, wait_for_message
from tests.helpers.server import Server, is_free
from tests.helpers.session import deliver
from tests.helpers.wait import wait_for

# sysexits.h
EX_NOUSER = 67
PORTS = fault_ports(Settings(fault_ports=True))
# Tries to connect to each path that it reads, and writes the numbers of the errors, 0 for none.
KNOCK = """
import errno, json, os, socket, stat, sys

def knock(path):
    try:
        if stat.S_ISFIFO(os.lstat(path).st_mode):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            return 0
    except OSError as error:
        return error.errno
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as probe:
            answer = probe.connect_ex(path)
        if answer != errno.EPROTOTYPE:
            return answer

json.dump([knock(path) for path in json.load(sys.stdin)], sys.stdout)
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


def inner_ways(server: Server) -> dict[str, Path]:
    """List the sockets and named pipes of a server, by their place in the state directory."""
    return {
        str(path.relative_to(server.state)): path
        for path in server.state.rglob("*")
        if path.is_socket() or path.is_fifo()
    }


def knock(user: str, paths: list[Path]) -> set[tuple[Path, int]]:
    """Connect to each socket as a user, or open the pipe to write; give the error numbers."""
    done = subprocess.run(
        [
            *("setpriv", "--reuid", user, "--regid", str(pwd.getpwnam(user).pw_gid)),
            *("--init-groups", PYTHON, "-c", KNOCK),
        ],
        input=json.dumps([str(path) for path in paths]),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(zip(paths, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("user", ["nobody", "www-data", "daemon"])
def test_no_user_of_the_machine_can_talk_to_an_inner_socket(server: Server, user: str) -> None:
    ways = inner_ways(server)
    # The list is not empty by mistake.
    assert {
        *("run/dovecot/base/lmtp", "run/dovecot/base/login/imap", "run/dovecot/base/quota-status"),
        *("run/page/socket", "run/php/fpm.sock", "run/supervisor/postfix/supervise/control"),
        *("spool/private/address-rule", "spool/private/fault-policy", "spool/public/pickup"),
    } <= set(ways)
    assert len(ways) > 45
    assert knock(user, list(ways.values())) == {(path, errno.EACCES) for path in ways.values()}


def test_each_socket_lets_in_who_needs_it(server: Server) -> None:
    dovecot = server.state / "run" / "dovecot" / "base"
    for user, paths in {
        "postfix": [dovecot / name for name in ("lmtp", "postfix-auth", "quota-status")],
        "mail": [
            dovecot / name for name in ("auth-userdb", "auth-master", "stats-writer", "config")
        ],
        "dovenull": [
            *(dovecot / "login" / name for name in ("imap", "pop3", "login", "stats-writer")),
            *(server.state / "run" / name for name in ("page/socket", "php/fpm.sock")),
        ],
    }.items():
        assert knock(user, paths) == {(path, 0) for path in paths}
        others = [path for path in inner_ways(server).values() if path not in paths]
        if user != "postfix":
            assert knock(user, others) == {(path, errno.EACCES) for path in others}


# What has to be root: it opens ports, reads the key, or starts others as who they are.
ROOT = {"s6-supervise", "dovecot", "config", "master", "nginx", Path(debian.PHP_FPM).name}
# These two only keep their way back to root, and are Postfix's user meanwhile.
ON_LEAVE = {"spawn", "pipe"}
OTHERS = {
    "mail": {"imap", "pop3", "lmtp", "quota-status"},
    "dovecot": {"auth", "anvil", "stats", "log"},
    "www-data": {Path(debian.PHP_FPM).name},
    # The worker of nginx, what starts the page's program, the filters of the log, our programs.
    "dovenull": {
        *("imap-login", "pop3-login", "nginx", "s6-ipcserverd", "perl", "python3", "mawk"),
    },
}


def test_only_those_processes_are_root_that_have_to_be(server: Server) -> None:
    def settled() -> dict[str, set[str]] | None:
        """A process that has just been started is still root for a moment."""
        found = owners(server)
        return found if found["root"] == ROOT else None

    with (
        imap(server, "b@two.example") as reader,
        pop3(server, "b@two.example"),
        smtp(server, "a@one.example") as writer,
        socket.create_connection((LOOPBACK, 110 + 8000 + server.offset)) as bare,
    ):
        reader.select("INBOX")
        writer.mail("a@one.example")
        # Two fault services, and a fault port.
        writer.rcpt("joe@first-1.fault.test")
        writer.rcpt("joe@end-554.fault.test")
        writer.rcpt("b@two.example")
        writer.docmd("DATA")
        assert bare.recv(100).startswith(b"+OK")
        found = wait_for(settled, "only these to be root")
        writer.docmd(".")
    assert found is not None
    assert found.pop("root") == ROOT
    assert {"smtpd", "qmgr"} <= found.pop("postfix")
    assert found == OTHERS


def owners(server: Server) -> dict[str, set[str]]:
    """Give the names of the processes by their users; none but root's can do more than its user."""
    found: dict[str, set[str]] = {}
    for process in server.processes():
        if (status := status_of(process)) is None:
            continue
        name = status["Name"]
        users = [pwd.getpwuid(int(number)).pw_name for number in status["Uid"].split()]
        if name in ON_LEAVE and set(users) == {"root", "postfix"}:
            # Real, effective, saved, and for files.
            assert users[1] == users[3] == "postfix"
        else:
            (user,) = set(users)
            found.setdefault(user, set()).add(name)
        if set(users) != {"root"}:
            assert status["CapEff"] == "0" * 16, name
        if users[0] == "mail":
            assert groups_of(status) == {"nogroup"}, name
    return found


def status_of(process: int) -> dict[str, str] | None:
    """Read what proc(5) says about a process; None if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def groups_of(status: dict[str, str]) -> set[str]:
    return {
        grp.getgrgid(int(number)).gr_name
        for field in ("Gid", "Groups")
        for number in status.get(field, "").split()
    }


def test_each_user_can_write_to_no_files_but_its_own(server: Server) -> None:
    for user, expected in {
        "dovenull": {"faults"},
        "mail": {"mail"},
        "www-data": {"webmail", "run/php/uploads"},
        "nobody": set[str](),
    }.items():
        done = subprocess.run(
            [
                *("setpriv", "--reuid", user, "--regid", str(pwd.getpwnam(user).pw_gid)),
                *("--init-groups", "find", str(server.state), "-writable"),
                *("(", "-type", "d", "-o", "-type", "f", ")", "-prune", "-printf", r"%P\0"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        found = set(done.stdout.split("\0")) - {""}
        # nginx's own directories of temporary files.
        temporary = {path for path in found if path.startswith("run/nginx/tmp_")}
        assert bool(temporary) == (user == "dovenull")
        assert found - temporary == expected


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
# By LMTP's answer: 550 is an unknown user, 501 is not even an address.
HOSTILE = {
    550: (
        *('"../../../outside/box"@x.test', '"/tmp/box"@x.test', '"a/b"@x.test', '"a\\/b"@x.test'),
        *('".."@x.test', '"."@x.test', '".a"@x.test', '"a."@x.test', '"a..b"@x.test'),
        *("a%@x.test", "a%2@x.test", "a%zzb@x.test", "%d@x.test", "%%d@x.test", "%h@x.test"),
        *("%{home}@x.test", "${HOME}@x.test", "a$2fb@x.test", "a&2fb@x.test", '"a;b"@x.test'),
        *('"a b"@x.test', '"a:b"@x.test', '"a@b"@x.test', '"@"@x.test', '""@x.test', "a*@x.test"),
        *("~/@x.test", "box", "postmaster"),
        *(f"{'a' * 193}@x.test", f"{'a' * 256}@x.test", f"a@{'d.' * 127}test"),
        *("box@-x.test", "box@x-.test", "box@x_y.test"),
    ),
    501: (
        *("box@..", "box@.", "box@x..test", "box@/tmp", "box@../outside", '"box"@../outside'),
        *("box@x.test/..", "box@x@y", "box@[../..]", "box@[", "@x.test"),
        *("é@x.test", '"a\tb"@x.test'),
    ),
}
HARMLESS = {
    "box@x.test": "x.test/box",
    "BOX@X.test": "x.test/box",
    '"box"@x.test': "x.test/box",
    "a%2fb@x.test": "x.test/a%2fb",
    "%2e%2e@x.test": "x.test/%2e%2e",
    "%00@x.test": "x.test/%00",
    "a+b=c~d@x-y.1-2": "x-y.1-2/a+b=c~d",
    "box@[ipv6:2001:db8::1]": "[ipv6:2001:db8::1]/box",
    "box@[192.0.2.1]": "[192.0.2.1]/box",
    f"{'%2e' * 64}@x.test": f"x.test/{'%2e' * 64}",
    f"a@{'d.' * 124}test": f"{'d.' * 124}test/a",
}


def lmtp(server: Server, *commands: str) -> list[str]:
    """Talk LMTP as the user of Postfix, and give the answers."""
    path = server.state / "run" / "dovecot" / "base" / "lmtp"
    done = subprocess.run(
        [
            *("setpriv", "--reuid", "postfix", "--regid", "postfix", "--clear-groups"),
            *(PYTHON, "-c", LMTP, str(path)),
        ],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    answers: list[str] = json.loads(done.stdout)
    return answers


def test_a_name_that_is_no_mailbox_never_becomes_a_path(server: Server) -> None:
    before = set(server.mail.rglob("*"))
    for code, names in HOSTILE.items():
        for name in names:
            (answer,) = lmtp(server, f"RCPT TO:<{name}>")
            assert answer.startswith(str(code)), name
            if "*" in name:
                # doveadm takes that for a pattern.
                continue
            # Nor for those who ask without LMTP, as dovecot-lda does.
            config = server.state / "run" / "dovecot" / "dovecot.conf"
            done = subprocess.run(
                ["doveadm", "-c", str(config), "user", "-u", name.replace('"', "")],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == EX_NOUSER, name
    assert set(server.mail.rglob("*")) == before
    assert not (server.state.parent / "outside").exists()


def test_the_name_of_a_mailbox_becomes_its_place(server: Server) -> None:
    for name, place in HARMLESS.items():
        answers = lmtp(server, f"RCPT TO:<{name}>", "DATA", "Subject: x\r\n\r\nx\r\n.")
        assert [answer[:3] for answer in answers] == ["250", "354", "250"], name
        assert list((server.mail / place / "new").iterdir()), name


@pytest.mark.parametrize("owner", [500, "mail"])
@pytest.mark.parametrize("mode", [0o2775, 0o2770, 0o770, 0o775, 0o700])
def test_mailboxes_that_are_open_to_a_group_are_served_as_any_other(
    own_directory: Path, owner: int | str, mode: int
) -> None:
    """Of the seed image, or of a version that had another group."""
    mail = own_directory / "mail"
    box = mail / "old.example" / "joe"
    for part in ("cur", "new", "tmp", ".Old/cur", ".Old/new", ".Old/tmp"):
        (box / part).mkdir(parents=True)
    (box / "cur" / "1.M1.x:2,").write_text("Subject: old\n\nx\n")
    for path in (*mail.rglob("*"), mail):
        shutil.chown(path, owner, owner)
        path.chmod(mode if path.is_dir() else mode & 0o660)
    with Server(own_directory) as server:
        for address in ("joe@old.example", "new@old.example"):
            send(server, "a@one.example", address, "today")
            wait_for_message(server, address, "today")
            with imap(server, address) as client:
                for folder in ("Sent", "Made.Below", *(["Old"] if "joe" in address else [])):
                    client.create(folder)
                    answer, text = client.append(folder, "", "", b"Subject: x\r\n\r\nx\r\n")
                    assert answer == "OK", text
        with imap(server, "joe@old.example") as client:
            assert client.select("INBOX") == ("OK", [b"2"])
        assert "rror" not in server.log()
