"""The machine is judged before anything starts, whatever machine the tests run on."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devmail_config import surroundings
from devmail_config.errors import Problem
from devmail_config.layout import Layout
from devmail_config.services import LISTENERS
from devmail_config.settings import Settings, load
from devmail_config.surroundings import Machine, available_addresses, judge
from tests.helpers.server import ROOT, free_offset

DEBIAN_12 = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n'
STATUS = """\
Package: postfix
Status: install ok installed
Priority: optional

Package: nginx
Status: deinstall ok config-files

Package: s6-doc
Status: install ok installed
"""
CHOOSE = "choose a directory that root can write to"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine on which nothing is wrong."""
    files = Machine(
        os_release=tmp_path / "os-release",
        dpkg_status=tmp_path / "status",
        process_status=tmp_path / "self-status",
        user=0,
    )
    files.os_release.write_text(DEBIAN_12)
    files.process_status.write_text("Name:\tpython3\nCapEff:\t000001ffffffffff\nThreads:\t1\n")
    files.dpkg_status.write_text(STATUS)
    return files


@pytest.fixture
def settings(own_directory: Path) -> Settings:
    return Settings(state_dir=own_directory, port_offset=free_offset())


def found(settings: Settings, machine: Machine, needed: tuple[str, ...] = ()) -> list[Problem]:
    return judge(settings, Layout.of(settings, Path.cwd()), needed, machine)


def test_nothing_is_wrong_with_a_good_machine(settings: Settings, machine: Machine) -> None:
    assert found(settings, machine, ("postfix",)) == []
    assert list(settings.state_dir.iterdir()) == []


# --- System, packages, user ---


def test_capabilities_that_a_container_lacks_are_named(
    settings: Settings, machine: Machine
) -> None:
    # All but bits 1 and 18.
    machine.process_status.write_text("CapEff:\t000001fffffbfffd\n")
    assert found(settings, machine) == [
        Problem(
            "capability DAC_OVERRIDE",
            "missing: Postfix works as root in directories of its own user",
            "add --cap-add DAC_OVERRIDE",
        ),
        Problem(
            "capability SYS_CHROOT",
            "missing: Dovecot locks its login processes up in an empty directory",
            "add --cap-add SYS_CHROOT",
        ),
    ]
    other = replace(machine, user=1000)
    assert [problem.subject for problem in found(settings, other)] == ["user id 1000"]
    machine.process_status.unlink()
    assert found(settings, machine) == []


@pytest.mark.parametrize(
    ("os_release", "name"),
    [
        ('ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian GNU/Linux 13"\n', "Debian GNU/Linux 13"),
        ('ID=ubuntu\nVERSION_ID="12"\nPRETTY_NAME="Ubuntu 12"\n', "Ubuntu 12"),
        ("ID=debian\n# VERSION_ID\n", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_another_system_is_refused(
    settings: Settings, machine: Machine, os_release: str | None, name: str
) -> None:
    machine.os_release.unlink()
    if os_release is not None:
        machine.os_release.write_text(os_release)
    assert found(settings, machine) == [
        Problem(
            f"this system ({name})",
            "devmail configures the daemons of Debian 12",
            "run it on Debian 12, or in a container",
        )
    ]


def test_missing_packages_are_named_in_one_command(settings: Settings, machine: Machine) -> None:
    assert found(settings, machine, ("postfix", "nginx", "s6")) == [
        Problem(
            "Debian packages (nginx, s6)",
            "not installed",
            "apt-get install --no-install-recommends nginx s6 (as root, `make up` does that)",
        )
    ]
    machine.dpkg_status.unlink()
    (problem,) = found(settings, machine, ("postfix",))
    assert problem.subject == "Debian packages (postfix)"


def test_the_list_of_packages_is_names_alone() -> None:
    names = surroundings.packages(ROOT / "debian-packages.txt")
    assert {"postfix", "dovecot-imapd", "nginx", "s6"} <= set(names)
    assert all(name.replace("-", "").isalnum() for name in names)


def test_an_ordinary_user_is_told_what_root_is_for(settings: Settings, machine: Machine) -> None:
    assert found(settings, replace(machine, user=1000)) == [
        Problem(
            "user id 1000",
            "the daemons need root to start, and give it up for the users of their packages",
            "run it as root, or use `render` to only write the configuration",
        )
    ]


# --- Directories ---

PLAIN = "choose a path of letters, digits and . _ - + = @ /"


@pytest.mark.parametrize(
    ("path", "fault", "remedy"),
    [
        ("{here}/file", "{here}/file is a file", CHOOSE),
        ("{here}/file/below", "{here}/file is a file", CHOOSE),
        (
            "{here}/loop",
            "{here}/loop cannot be used: Too many levels of symbolic links",
            CHOOSE,
        ),
        (
            "{here}/with space",
            "{here}/with space has a character that the daemons' configuration gives a meaning to",
            PLAIN,
        ),
    ],
)
@pytest.mark.parametrize("name", ["state_dir", "mail_dir"])
def test_a_directory_that_cannot_be_used_is_refused(
    settings: Settings,
    machine: Machine,
    own_directory: Path,
    name: str,
    path: str,
    fault: str,
    remedy: str,
) -> None:
    (own_directory / "file").touch()
    (own_directory / "loop").symlink_to(own_directory / "loop")
    setting: dict[str, Any] = {name: Path(path.format(here=own_directory))}
    settings = replace(settings, **setting)
    assert found(settings, machine) == [
        Problem(settings.subject(name), fault.format(here=own_directory), remedy)
    ]
    assert sorted(entry.name for entry in own_directory.iterdir()) == ["file", "loop"]


def test_a_directory_that_cannot_be_written_to_is_refused(
    settings: Settings, machine: Machine
) -> None:
    settings = replace(settings, state_dir=Path("/proc/x"))
    (problem,) = found(settings, machine)
    # What the kernel says depends on the user.
    assert problem.fault.startswith("/proc cannot be written to: ")
    assert problem.remedy == CHOOSE


@pytest.mark.parametrize(
    ("name", "path", "fault", "remedy"),
    [
        (
            "state_dir",
            "closed/below",
            "the users that the daemons run as cannot enter {closed}",
            "choose a directory outside of it, such as DEVMAIL_STATE_DIR=/var/lib/devmail",
        ),
        (
            "state_dir",
            "closed",
            "the users that the daemons run as cannot enter {closed}",
            "choose a directory outside of it, such as DEVMAIL_STATE_DIR=/var/lib/devmail",
        ),
        (
            "mail_dir",
            "closed/below",
            "the user that the mailboxes belong to cannot enter {closed}",
            "choose a directory outside of it, such as DEVMAIL_MAIL_DIR=/srv/mail",
        ),
    ],
)
def test_a_directory_that_the_daemons_cannot_enter_is_refused(
    settings: Settings,
    machine: Machine,
    own_directory: Path,
    name: str,
    path: str,
    fault: str,
    remedy: str,
) -> None:
    closed = own_directory / "closed"
    closed.mkdir(mode=0o700)
    setting: dict[str, Any] = {name: own_directory / path}
    settings = replace(settings, **setting)
    assert found(settings, machine) == [
        Problem(settings.subject(name), fault.format(closed=closed), remedy)
    ]


def test_the_mail_directory_is_for_its_user_alone(
    settings: Settings, machine: Machine, own_directory: Path
) -> None:
    mail = own_directory / "mail"
    mail.mkdir(mode=0o700)
    assert found(replace(settings, mail_dir=mail), machine) == []


def test_a_relative_directory_starts_at_the_working_directory(
    settings: Settings, machine: Machine, own_directory: Path
) -> None:
    (own_directory / "a b").mkdir()
    relative = replace(settings, state_dir=Path("state"), mail_dir=Path("mail"))
    layout = Layout.of(relative, own_directory / "a b")
    assert (layout.state, layout.mail) == (
        own_directory / "a b" / "state",
        own_directory / "a b" / "mail",
    )
    faults = [problem.subject for problem in judge(relative, layout, (), machine)]
    assert faults == [relative.subject("state_dir"), relative.subject("mail_dir")]


def test_a_path_too_long_for_its_sockets_is_refused(settings: Settings, machine: Machine) -> None:
    # 107 octets, less those of "/run/dovecot/base/imap-urlauth-worker".
    longest = settings.state_dir / ("x" * (70 - len(str(settings.state_dir)) - 1))
    assert found(replace(settings, state_dir=longest), machine) == []
    for state, excess in ((Path(f"{longest}ä"), 2), (Path(f"{longest}{'x' * 300}"), 300)):
        longer = replace(settings, state_dir=state)
        problem = found(longer, machine)[0]
        assert problem == Problem(
            longer.subject("state_dir"),
            f"{state} is {excess} bytes too long for the Unix sockets inside it",
            "choose a shorter path, such as DEVMAIL_STATE_DIR=/var/lib/devmail",
        )


@pytest.mark.parametrize(("blocks", "files"), [(1, 10**6), (10**9, 499)])
def test_a_full_disk_is_refused(
    settings: Settings,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    blocks: int,
    files: int,
) -> None:
    class Disk:
        f_blocks, f_bavail, f_frsize, f_files, f_favail = 10**9, blocks, 4096, 10**7, files
        f_flag = 0

    def statvfs(_: Any) -> type[Disk]:
        return Disk

    monkeypatch.setattr(os, "statvfs", statvfs)
    state = settings.state_dir
    assert found(settings, machine) == [
        Problem(
            settings.subject("state_dir"),
            f"the disk is full: {blocks * 4096 // 1024**2} MiB and {files} files are free at "
            f"{state}, 112 MiB and 500 files are needed",
            "make room, choose a directory on another disk, or lower DEVMAIL_MESSAGE_SIZE_LIMIT",
        )
    ]


@pytest.mark.parametrize(
    ("name", "make", "fault"),
    [
        ("lock", lambda path: path.write_text("root:x:0:0\n"), "a file that devmail did not make"),
        ("lock", lambda path: path.symlink_to("/etc/passwd"), "not a file"),
        ("devmail.log", lambda path: path.symlink_to("/nowhere"), "not a file"),
        ("devmail.log", Path.mkdir, "not a file"),
    ],
)
def test_a_file_of_someone_else_is_never_written_to(
    settings: Settings,
    machine: Machine,
    own_directory: Path,
    name: str,
    make: Callable[[Path], object],
    fault: str,
) -> None:
    make(own_directory / name)
    assert found(settings, machine) == [
        Problem(
            settings.subject("state_dir"),
            f"{own_directory / name} is {fault}",
            "choose a directory that is new or empty",
        )
    ]


@pytest.mark.parametrize("content", ["", "1\n", "4194304\n"])
def test_what_a_server_leaves_in_its_lock_is_its_own(
    settings: Settings, machine: Machine, own_directory: Path, content: str
) -> None:
    (own_directory / "lock").write_text(content)
    (own_directory / "devmail.log").write_text("a line\n")
    assert found(settings, machine) == []


def test_a_server_that_runs_on_the_state_directory_is_named(
    settings: Settings, machine: Machine, own_directory: Path
) -> None:
    with (own_directory / "lock").open("w") as lock:
        lock.write("4321\n")
        lock.flush()
        assert found(settings, machine) == []
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert found(settings, machine) == [
            Problem(
                settings.subject("state_dir"),
                f"a server is already running on {own_directory} (process 4321)",
                "stop it with `make down`, or give this one another DEVMAIL_STATE_DIR",
            )
        ]
    assert found(settings, machine) == []


# --- Addresses and ports ---


def test_a_taken_port_is_named_with_the_process_that_has_it(
    settings: Settings, machine: Machine
) -> None:
    port = settings.port("imap")
    settings = replace(settings, bind_address=("127.0.0.1", "127.0.0.2"))
    remedy = "stop the other program, or move all ports, for example DEVMAIL_PORT_OFFSET=20000"
    name = Path("/proc/self/comm").read_text().strip()
    with socket.create_server(("127.0.0.1", port)):
        assert found(settings, machine) == [
            Problem(
                settings.subject("port_offset"),
                f"port {port} (imap) on 127.0.0.1 is taken by {name} (process {os.getpid()})",
                remedy,
            )
        ]
    with socket.create_server(("0.0.0.0", port)):
        # Without a look into the processes, the port alone is named.
        assert found(settings, replace(machine, proc=Path("/nowhere"))) == [
            Problem(
                settings.subject("port_offset"),
                f"port {port} (imap) on 127.0.0.1 and 127.0.0.2 is taken",
                remedy,
            )
        ]


def test_a_port_that_was_just_closed_is_free(settings: Settings, machine: Machine) -> None:
    """A connection in TIME-WAIT does not keep a server from starting again."""
    port = settings.port("imap")
    with (
        socket.create_server(("127.0.0.1", port)) as listener,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        listener.accept()[0].close()
        assert client.recv(1) == b""
    assert found(settings, machine) == []


def test_a_port_that_may_not_be_had_is_a_problem(
    settings: Settings, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str, port: int) -> OSError | None:
        return PermissionError(13, "Permission denied") if port == settings.port("imap") else None

    monkeypatch.setattr(surroundings, "_bind", refuse)
    (problem,) = found(settings, machine)
    port = settings.port("imap")
    assert problem.fault == f"port {port} (imap) on 127.0.0.1 and ::1: Permission denied"


def test_no_offset_puts_a_port_beyond_the_last() -> None:
    _, problems = load({"DEVMAIL_PORT_OFFSET": "64001"})
    assert [problem.fault for problem in problems] == ["not a whole number from 0 to 64000"]
    assert max(listener.port for listener in LISTENERS) + 64000 <= 65535


@pytest.mark.parametrize(
    ("addresses", "refused"),
    [
        (("192.0.2.7",), ["192.0.2.7"]),
        (("127.0.0.1", "2001:db8::7"), ["2001:db8::7"]),
        (("192.0.2.7", "192.0.2.8"), ["192.0.2.7", "192.0.2.8"]),
    ],
)
def test_an_address_of_another_machine_is_refused(
    settings: Settings, machine: Machine, addresses: tuple[str, ...], refused: list[str]
) -> None:
    settings = replace(settings, bind_address=addresses)
    assert found(settings, machine) == [
        Problem(
            settings.subject("bind_address"),
            f"cannot listen on {address}: Cannot assign requested address",
            "name an address of this machine, or 0.0.0.0 and :: for all of them",
        )
        for address in refused
    ]


@pytest.mark.parametrize(
    ("given", "with_ipv6", "without_ipv6"),
    [
        ("127.0.0.1 ::1", "127.0.0.1 ::1", "127.0.0.1"),
        ("0.0.0.0 ::", "0.0.0.0 ::", "0.0.0.0"),
        ("127.0.0.1 0.0.0.0", "0.0.0.0", "0.0.0.0"),
        ("::1 :: 127.0.0.1", ":: 127.0.0.1", "127.0.0.1"),
        # With nothing left, the setting stands, and is judged.
        ("::1", "::1", "::1"),
    ],
)
def test_which_addresses_are_listened_on(
    monkeypatch: pytest.MonkeyPatch, given: str, with_ipv6: str, without_ipv6: str
) -> None:
    settings = Settings(bind_address=tuple(given.split()))

    def bind(address: str, _: int) -> OSError | None:
        return OSError(97, "Address family not supported") if ":" in address else None

    monkeypatch.setattr(surroundings, "_bind", lambda *_: None)
    assert available_addresses(settings) == tuple(with_ipv6.split())
    monkeypatch.setattr(surroundings, "_bind", bind)
    assert available_addresses(settings) == tuple(without_ipv6.split())


def test_everything_wrong_is_reported_at_once(settings: Settings, machine: Machine) -> None:
    machine.os_release.unlink()
    settings = replace(settings, state_dir=Path("/proc/x"), bind_address=("192.0.2.7",))
    subjects = [
        problem.subject for problem in found(settings, replace(machine, user=1000), ("nginx",))
    ]
    assert subjects == [
        "this system (unknown)",
        "Debian packages (nginx)",
        "user id 1000",
        settings.subject("state_dir"),
        settings.subject("bind_address"),
    ]


def test_the_holder_of_a_port_is_its_oldest_process_whatever_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    line = "0: 0100007F:0019 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1\n"
    (tmp_path / "net" / "tcp").write_text("head\n" + line)
    # Numbers begin anew after the highest: the child has a lower one here.
    for number, name, started in ((40000, "master", 100), (50, "smtpd", 300)):
        process = tmp_path / str(number)
        (process / "fd").mkdir(parents=True)
        (process / "fd" / "6").symlink_to("socket:[4711]")
        (process / "comm").write_text(f"{name}\n")
        (process / "stat").write_text(f"{number} ({name}) S {'0 ' * 18}{started} 0\n")
    assert surroundings._holder(25, Machine(proc=tmp_path)) == " by master (process 40000)"
