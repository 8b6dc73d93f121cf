"""The directories that outlive a start, and who owns them.

Mailboxes may come from another server: those of ``hidiv/dev-email-server`` are where ours are,
``<domain>/<local part>``, but belong to a user of its own. They are given to ours at the first
start with them.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from devmail_config import users
from devmail_config.errors import DevmailError
from devmail_config.layout import Layout
from devmail_config.ownership import MARK, OwnDirectory

_MAIL_MODE = 0o700


def make(layout: Layout, own: Iterable[OwnDirectory]) -> None:
    """Make the directories of a server, and give those that daemons write to to their users.

    Raises ``DevmailError`` when one is somebody else's.
    """
    # Others may use it as well, as they do /srv: only what is below it is ours.
    layout.state.mkdir(parents=True, exist_ok=True)
    for directory in own:
        directory.claim()
    _own(layout.spool, "root", 0o755)
    # An earlier version counted faults as another user, and somebody may have given all away.
    for path, name in ((layout.postfix_data, users.POSTFIX), (layout.faults, users.UNTRUSTED)):
        user = pwd.getpwnam(name)
        if path.stat().st_uid != user.pw_uid:
            give(path, user.pw_uid, user.pw_gid)
        _own(path, name, 0o700)


@contextlib.contextmanager
def rehearsal(layout: Layout) -> Iterator[Layout]:
    """Give a layout in a temporary directory, for all steps of a start that starts nothing.

    It has a copy of our own TLS material. A ``DevmailError`` in the body speaks of the real places.
    """
    with tempfile.TemporaryDirectory(prefix="devmail-", dir=_temporary_place()) as name:
        state = Path(os.path.realpath(name))
        state.chmod(0o755)
        if layout.tls.is_dir():
            shutil.copytree(layout.tls, state / "tls")
            (state / "tls" / MARK).touch()
        try:
            yield replace(layout, state=state, mail=state / "mail", webmail_data=state / "webmail")
        except DevmailError as error:
            raise DevmailError(
                problem.with_text_replaced(str(state), str(layout.state))
                for problem in error.problems
            ) from None


def _temporary_place() -> str:
    """Find where to put temporary files, in a container with a read-only root, too."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return "/dev/shm"  # noqa: S108 - what is made there has a name of its own


def take_over_mail(directory: Path) -> Iterator[str]:
    """Make ``directory`` and every Maildir in it ours; give lines for the log while that goes on.

    Whether there is anything to do is written on the directory itself: as its owner is changed
    last, an ordinary start looks at nothing else, however many mailboxes there are, and a start
    that was interrupted is made good by the next one.
    """
    user = pwd.getpwnam(users.MAIL)
    # Dovecot keeps the group of a mailbox that is open to it, which it can do as a member only.
    ours = user.pw_uid, grp.getgrnam(users.MAIL_GROUP).gr_gid
    if _owners(directory) != ours:
        foreign = [one for one in _maildirs(directory) if _owners(one) != ours]
        if foreign:
            began = time.monotonic()
            number, group = _owners(foreign[0])
            other = f"user (number {number})" if number != ours[0] else f"group (number {group})"
            yield (
                f"mailboxes in {directory} belong to another {other}: "
                f"giving {len(foreign)} to {users.MAIL}"
            )
            for mailbox in foreign:
                give(mailbox, *ours)
            yield f"they belong to {users.MAIL} now ({time.monotonic() - began:.1f} s)"
        for domain in _domains(directory):
            os.chown(domain, *ours, follow_symlinks=False)
    shutil.chown(directory, *ours)
    directory.chmod(_MAIL_MODE)


def remove_locks(directory: Path, older_than: Path) -> subprocess.Popen[bytes]:
    """Begin to remove the lock files that daemons left in mailboxes when they were killed.

    Dovecot believes such a lock for two minutes if a process has the number that is in it, and
    after a restart, of a container above all, some other process often has. Looking for them takes
    seconds where there are many mailboxes, so nobody waits for that: what the daemons of this start
    lock meanwhile is not ``older_than`` the file that it wrote first.
    """
    messages = ("-name", "cur", "-o", "-name", "new", "-o", "-name", "tmp")
    lock = ("-type", "f", "-name", "*.lock", "!", "-newer", older_than)
    # As their owner, and through no link: a mailbox leads nobody elsewhere.
    return subprocess.Popen(
        [
            *("/usr/bin/find", "-P", directory, "-mindepth", "3", "-maxdepth", "4"),
            *("(", *messages, ")", "-prune", "-o", *lock, "-exec", "/bin/rm", "-f", "{}", "+"),
        ],
        user=users.MAIL,
        group=users.MAIL_GROUP,
        extra_groups=(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # Mailboxes that are not ours yet have no locks of ours.
        stderr=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def acting_as(user: pwd.struct_passwd) -> Iterator[None]:
    """Touch files with the rights of ``user`` only.

    A daemon can put whatever it likes into its own directories: a link there must not lead root to
    write, or to remove something, where it points to. Meanwhile Python must not need to import
    anything, even a codec, since ``user`` may not be able to read it: hence bytes, not text.
    """
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def give(path: Path, user: int, group: int) -> None:
    """Change user and group of ``path`` and of all that is in it; of ``path`` itself last."""

    def change(name: str | Path, descriptor: int | None = None) -> None:
        entry = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        if (entry.st_uid, entry.st_gid) != (user, group):
            os.chown(name, user, group, dir_fd=descriptor, follow_symlinks=False)

    # Through descriptors, and no link is followed: the tree may change its shape meanwhile.
    if path.is_dir():
        for _, directories, files, descriptor in os.fwalk(path, topdown=False):
            for name in (*files, *directories):
                change(name, descriptor)
    change(path)


def _owners(path: Path) -> tuple[int, int]:
    entry = path.stat()
    return entry.st_uid, entry.st_gid


def _own(directory: Path, user: str, mode: int) -> None:
    shutil.chown(directory, user, user)
    directory.chmod(mode)


def _maildirs(directory: Path) -> Iterator[Path]:
    """Find the mailboxes; what is no Maildir is none of ours, and stays as it is."""
    return (
        current.parent
        for current in directory.glob("*/*/cur")
        if not (current.parent.is_symlink() or current.parent.parent.is_symlink())
    )


def _domains(directory: Path) -> set[Path]:
    """Find the directories that mailboxes are in, or were in."""
    empty = {
        path for path in directory.glob("*/") if not path.is_symlink() and not any(path.iterdir())
    }
    return empty | {mailbox.parent for mailbox in _maildirs(directory)}
