"""The directories that outlive a start, and who owns them.

Mailboxes may come from another server: those of ``hidiv/dev-email-server`` are where ours are,
``<domain>/<local part>``, but belong to a user of its own. They are given to ours at the first
start with them.
"""

from __future__ import annotations

import os
import pwd
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from devmail_config.layout import Layout

_MAIL_USER = "mail"
_MAIL_MODE = 0o700


def make(layout: Layout) -> None:
    """Make the directories that outlive a start, each owned by the user who writes to it."""
    # Not made ours if it was there: it may be a directory like /srv, which others use as well.
    layout.state.mkdir(parents=True, exist_ok=True)
    _own(layout.spool, "root", 0o755)
    _own(layout.postfix_data, "postfix", 0o700)
    _own(layout.faults, _MAIL_USER, 0o700)


def take_over_mail(directory: Path) -> Iterator[str]:
    """Make ``directory`` and every Maildir in it ours; give lines for the log while that goes on.

    Whether there is anything to do is written on the directory itself: as its owner is changed
    last, an ordinary start looks at nothing else, however many mailboxes there are, and a start
    that was interrupted is made good by the next one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    user = pwd.getpwnam(_MAIL_USER)
    if directory.stat().st_uid != user.pw_uid:
        foreign = [one for one in _maildirs(directory) if one.stat().st_uid != user.pw_uid]
        if foreign:
            began = time.monotonic()
            yield (
                f"mailboxes in {directory} belong to another user "
                f"(number {foreign[0].stat().st_uid}): giving {len(foreign)} to {_MAIL_USER}"
            )
            for mailbox in foreign:
                _give(mailbox, user)
            yield f"they belong to {_MAIL_USER} now ({time.monotonic() - began:.1f} s)"
        for domain in _domains(directory):
            shutil.chown(domain, _MAIL_USER, _MAIL_USER)
    _own(directory, _MAIL_USER, _MAIL_MODE)


def remove_locks(directory: Path) -> None:
    """Remove the lock files that daemons left in mailboxes when they were killed.

    Dovecot believes such a lock for two minutes if a process has the number that is in it, and
    after a restart, of a container above all, some other process often has.
    """
    for mailbox in _maildirs(directory):
        for folder in (mailbox, *mailbox.glob(".*/")):
            for lock in folder.glob("*.lock"):
                if not lock.is_dir():
                    lock.unlink(missing_ok=True)


def _own(directory: Path, user: str, mode: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    shutil.chown(directory, user, user)
    directory.chmod(mode)


def _maildirs(directory: Path) -> Iterator[Path]:
    """Find the mailboxes; what is no Maildir is none of ours, and stays as it is."""
    return (current.parent for current in directory.glob("*/*/cur"))


def _domains(directory: Path) -> set[Path]:
    """Find the directories that mailboxes are in, or were in."""
    empty = {path for path in directory.glob("*/") if not any(path.iterdir())}
    return empty | {mailbox.parent for mailbox in _maildirs(directory)}


def _give(mailbox: Path, user: pwd.struct_passwd) -> None:
    """Change the owner of all that is in ``mailbox``, of the directory itself last."""
    for _, directories, files, descriptor in os.fwalk(mailbox, topdown=False):
        for name in (*files, *directories):
            os.chown(name, user.pw_uid, user.pw_gid, dir_fd=descriptor, follow_symlinks=False)
    os.chown(mailbox, user.pw_uid, user.pw_gid, follow_symlinks=False)
