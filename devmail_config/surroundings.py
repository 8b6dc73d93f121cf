"""Judge the machine before anything starts: system, packages, rights, ports, paths, disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from devmail_config import debian
from devmail_config.errors import Problem
from devmail_config.fault_ports import fault_ports
from devmail_config.kinds import is_plain_path
from devmail_config.layout import Layout
from devmail_config.services import LISTENERS
from devmail_config.settings import Settings

# Linux: sun_path holds 108 bytes, the last of which ends the string.
_SOCKET_PATH_BYTES = 107
# The longest name that Dovecot gives to a socket, below the run directory.
_LONGEST_SOCKET = "dovecot/base/imap-urlauth-worker"
# Enough for the rendered tree and the log, next to what Postfix needs for a message.
_FREE_BYTES = 16 * 1024**2
_FREE_FILES = 500
# What root is in a container with few capabilities, by bit (linux/capability.h), and who needs it.
_CAPABILITIES = {
    0: ("CHOWN", "directories are given to the users that the daemons run as"),
    1: ("DAC_OVERRIDE", "Postfix works as root in directories of its own user"),
    3: ("FOWNER", "Postfix sets the modes of directories of its own user"),
    5: ("KILL", "the supervisor ends processes that outlived their daemon"),
    6: ("SETGID", "every daemon gives up root"),
    7: ("SETUID", "every daemon gives up root"),
    18: ("SYS_CHROOT", "Dovecot locks its login processes up in an empty directory"),
}
# A port that any process may bind, to see whether the address itself can be.
_ANY_PORT = 0
_WILDCARDS = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Machine:
    """Where the facts about the machine are read from; tests put their own in its place."""

    os_release: Path = Path("/etc/os-release")
    dpkg_status: Path = Path("/var/lib/dpkg/status")
    proc: Path = Path("/proc")
    process_status: Path = Path("/proc/self/status")
    user: int = os.geteuid()


def packages(listing: Path) -> list[str]:
    """Read the Debian packages that the server needs."""
    lines = listing.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def missing_packages(needed: Iterable[str], machine: Machine) -> list[str]:
    """List those of ``needed`` that dpkg has not installed."""
    try:
        status = machine.dpkg_status.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return list(needed)
    stanza = re.compile(r"^Package: (\S+)\nStatus: \S+ \S+ installed$", re.MULTILINE)
    installed = {match[1] for match in stanza.finditer(status)}
    return [package for package in needed if package not in installed]


def available_addresses(settings: Settings) -> tuple[str, ...]:
    """List the addresses to listen on: the setting's, less ``::1`` and ``::`` without IPv6.

    Every other address that the machine lacks is a ``Problem`` of ``judge``, and so are those two
    when there is no other. An address that a wildcard includes is left out.
    """
    wanted = settings.bind_address
    available = tuple(
        address
        for address in wanted
        if address in _WILDCARDS or _wildcard(address) not in wanted
        if address not in {"::1", "::"} or _bind(address, _ANY_PORT) is None
    )
    return available or wanted


def judge(
    settings: Settings, layout: Layout, needed_packages: Iterable[str], machine: Machine
) -> list[Problem]:
    """Find everything about the machine that would keep the server from running."""
    return [
        *_judge_system(machine),
        *_judge_packages(needed_packages, machine),
        *_judge_user(machine),
        *_judge_capabilities(machine),
        *_judge_state(settings, layout),
        *_judge_mail(settings, layout),
        *_judge_webmail(settings, layout),
        *_judge_listening(settings, machine),
    ]


def _judge_system(machine: Machine) -> Iterable[Problem]:
    try:
        lines = machine.os_release.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    facts = dict(line.replace('"', "").split("=", 1) for line in lines if "=" in line)
    if (facts.get("ID"), facts.get("VERSION_ID")) != ("debian", debian.RELEASE):
        yield Problem(
            f"this system ({facts.get('PRETTY_NAME', 'unknown')})",
            f"devmail configures the daemons of Debian {debian.RELEASE}",
            f"run it on Debian {debian.RELEASE}, or in a container",
        )


def _judge_packages(needed: Iterable[str], machine: Machine) -> Iterable[Problem]:
    if missing := missing_packages(needed, machine):
        yield Problem(
            f"Debian packages ({', '.join(missing)})",
            "not installed",
            f"apt-get install --no-install-recommends {' '.join(missing)} "
            "(as root, `make up` does that)",
        )


def _judge_user(machine: Machine) -> Iterable[Problem]:
    if machine.user != 0:
        yield Problem(
            f"user id {machine.user}",
            "the daemons need root to start, and give it up for the users of their packages",
            "run it as root, or use `render` to only write the configuration",
        )


def _judge_capabilities(machine: Machine) -> Iterable[Problem]:
    try:
        status = machine.process_status.read_text(encoding="utf-8")
    except OSError:
        return
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    if machine.user != 0 or not match:
        return
    effective = int(match[1], 16)
    for bit, (name, reason) in _CAPABILITIES.items():
        if not effective >> bit & 1:
            yield Problem(f"capability {name}", f"missing: {reason}", f"add --cap-add {name}")


def _judge_state(settings: Settings, layout: Layout) -> Iterable[Problem]:
    subject = settings.subject("state_dir")
    longest = layout.run / _LONGEST_SOCKET
    if (excess := len(os.fsencode(longest)) - _SOCKET_PATH_BYTES) > 0:
        yield Problem(
            subject,
            f"{layout.state} is {excess} bytes too long for the Unix sockets inside it",
            "choose a shorter path, such as DEVMAIL_STATE_DIR=/var/lib/devmail",
        )
    yield from _judge_characters(subject, layout.state)
    if fault := _unusable(layout.state):
        yield Problem(subject, fault, "choose a directory that root can write to")
        return
    existing = _nearest_existing(layout.state)
    if (blocked := unreachable(existing)) is not None:
        yield Problem(
            subject,
            f"the users that the daemons run as cannot enter {blocked}",
            "choose a directory outside of it, such as DEVMAIL_STATE_DIR=/var/lib/devmail",
        )
    yield from _judge_disk(settings, subject, existing)
    # The supervisor's scripts are there.
    if os.statvfs(existing).f_flag & os.ST_NOEXEC:
        yield Problem(
            subject,
            f"programs in {existing} cannot be run: its file system is mounted with noexec",
            f"mount it with exec, as in docker run --tmpfs {layout.state}:exec",
        )
    for path in (layout.lock, layout.log):
        if fault := _foreign_file(path, layout):
            yield Problem(subject, fault, "choose a directory that is new or empty")
    if (holder := running_server(layout)) is not None:
        yield Problem(
            subject,
            f"a server is already running on {layout.state} (process {holder})",
            "stop it with `make down`, or give this one another DEVMAIL_STATE_DIR",
        )


def _judge_mail(settings: Settings, layout: Layout) -> Iterable[Problem]:
    if settings.mail_dir is not None:
        subject = settings.subject("mail_dir")
        remedy = "choose a directory outside of it, such as DEVMAIL_MAIL_DIR=/srv/mail"
        yield from _judge_data(settings, subject, layout.mail, "the mailboxes belong to", remedy)


def _judge_webmail(settings: Settings, layout: Layout) -> Iterable[Problem]:
    if settings.webmail_data_dir is not None and settings.webmail != "none":
        subject = settings.subject("webmail_data_dir")
        remedy = "choose a directory outside of it, such as DEVMAIL_WEBMAIL_DATA_DIR=/srv/webmail"
        yield from _judge_data(settings, subject, layout.webmail_data, "PHP runs as", remedy)


def _judge_data(
    settings: Settings, subject: str, directory: Path, user: str, remedy: str
) -> Iterable[Problem]:
    yield from _judge_characters(subject, directory)
    if fault := _unusable(directory):
        yield Problem(subject, fault, "choose a directory that root can write to")
        return
    if (blocked := unreachable(_nearest_existing(directory.parent))) is not None:
        yield Problem(subject, f"the user that {user} cannot enter {blocked}", remedy)
    yield from _judge_disk(settings, subject, _nearest_existing(directory))


def judge_paths(settings: Settings, layout: Layout) -> Iterable[Problem]:
    """Find the directories that cannot be named in the daemons' configuration."""
    for name, directory in (
        ("state_dir", layout.state),
        ("mail_dir", layout.mail),
        ("webmail_data_dir", layout.webmail_data),
    ):
        if name == "state_dir" or settings.is_set(name):
            yield from _judge_characters(settings.subject(name), directory)


def _judge_characters(subject: str, directory: Path) -> Iterable[Problem]:
    if not is_plain_path(str(directory)):
        yield Problem(
            subject,
            f"{directory} has a character that the daemons' configuration gives a meaning to",
            "choose a path of letters, digits and . _ - + = @ /",
        )


def _judge_disk(settings: Settings, subject: str, existing: Path) -> Iterable[Problem]:
    disk = os.statvfs(existing)
    free = disk.f_bavail * disk.f_frsize
    # Postfix refuses all mail while less than one and a half of the largest message is free.
    needed = _FREE_BYTES + settings.message_size_limit * 3 // 2
    if free < needed or (disk.f_files and disk.f_favail < _FREE_FILES):
        yield Problem(
            subject,
            f"the disk is full: {free // 1024**2} MiB and {disk.f_favail} files are free at "
            f"{existing}, {needed // 1024**2} MiB and {_FREE_FILES} files are needed",
            "make room, choose a directory on another disk, or lower DEVMAIL_MESSAGE_SIZE_LIMIT",
        )


def running_server(layout: Layout) -> int | None:
    """Give the process id of the server that holds the lock of this state directory, if any."""
    try:
        with layout.lock.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read() or 0)
    except OSError:
        pass
    return None


def unreachable(path: Path) -> Path | None:
    """Give the first directory on the way to ``path`` that other users cannot enter, if any."""
    for directory in reversed([path, *path.parents]):
        if not directory.stat().st_mode & stat.S_IXOTH:
            return directory
    return None


def _nearest_existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if _is_there(parent))


def _is_there(path: Path) -> bool:
    # Unlike Path.exists(), this takes a path that cannot be looked up for one that is not there.
    try:
        path.stat()
    except OSError:
        return False
    return True


def _unusable(directory: Path) -> str | None:
    """Say why files cannot be written below ``directory``, which may not exist yet."""
    try:
        directory.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        return f"{directory} cannot be used: {error.strerror}"
    existing = _nearest_existing(directory)
    if not existing.is_dir():
        return f"{existing} is a file"
    # Asked, not tried: to judge a directory must not even change its date.
    if not os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        is_read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
        reason = errno.EROFS if is_read_only else errno.EACCES
        return f"{existing} cannot be written to: {os.strerror(reason)}"
    if not os.statvfs(existing).f_blocks:
        return f"{existing} cannot be written to: it is not on a disk"
    return None


def _foreign_file(path: Path, layout: Layout) -> str | None:
    """Say why a file of the state directory cannot be devmail's own; None if it can."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None
    if not stat.S_ISREG(mode):
        return f"{path} is not a file"
    # A number, see supervise.lock.
    if path == layout.lock and not re.fullmatch(rb"\d{0,19}\n?", path.read_bytes()[:21]):
        return f"{path} is a file that devmail did not make"
    return None


def _judge_listening(settings: Settings, machine: Machine) -> Iterable[Problem]:
    usable = []
    for address in available_addresses(settings):
        if error := _bind(address, _ANY_PORT):
            yield Problem(
                settings.subject("bind_address"),
                f"cannot listen on {address}: {error.strerror}",
                "name an address of this machine, or 0.0.0.0 and :: for all of them",
            )
        else:
            usable.append(address)
    ports = [(listener.name, listener.port) for listener in LISTENERS]
    ports += ((broken.name, broken.port) for broken in fault_ports(settings))
    for name, number in ports:
        port = number + settings.port_offset
        # By fault, so that a port taken on several addresses is one problem.
        refused: dict[str, list[str]] = {}
        for address in usable:
            if error := _bind(address, port):
                taken = error.errno == errno.EADDRINUSE
                fault = f" is taken{_holder(port, machine)}" if taken else f": {error.strerror}"
                refused.setdefault(fault, []).append(address)
        for fault, addresses in refused.items():
            yield Problem(
                settings.subject("port_offset"),
                f"port {port} ({name}) on {' and '.join(addresses)}{fault}",
                "stop the other program, or move all ports, for example DEVMAIL_PORT_OFFSET=20000",
            )


def _wildcard(address: str) -> str:
    """Give the address that means every interface, for the family of ``address``."""
    return "::" if ":" in address else "0.0.0.0"


def _bind(address: str, port: int) -> OSError | None:
    """Try to listen as the daemons will; give the error if that fails."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address, port))
            probe.listen()
    except OSError as error:
        return error
    return None


def _holder(port: int, machine: Machine) -> str:
    """Name the process that listens on ``port``, as far as /proc lets us see it."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (machine.proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for columns in map(str.split, lines):
            # proc(5): local address as hex:port, state 0A is LISTEN, the tenth column the inode.
            if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{columns[9]}]")
    # The oldest first: children may have inherited the socket.
    for process in sorted(machine.proc.glob("[0-9]*"), key=_started):
        # It may have ended by now, or belong to someone who does not let us look.
        with contextlib.suppress(OSError):
            if any(str(link.readlink()) in inodes for link in (process / "fd").iterdir()):
                name = (process / "comm").read_text().strip()
                return f" by {name} (process {process.name})"
    return ""


def _started(process: Path) -> tuple[int, int]:
    """Give a key that puts the oldest process first; numbers alone begin anew when they run out."""
    ticks = 0
    with contextlib.suppress(OSError):
        # proc(5): the 22nd field, of which the first two are the number and the name.
        ticks = int((process / "stat").read_text().rpartition(")")[2].split()[19])
    return ticks, int(process.name)
