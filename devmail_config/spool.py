"""The directories of Postfix's queue.

They are made from Postfix's own list, as ``postfix check`` would make them; its shell scripts also
look into every file of the package, and take longer than all other steps of a start together.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from pathlib import Path

from devmail_config import users

# Manual: the comment at the top of that file.
_LIST = Path("/etc/postfix/postfix-files")
_OWNERS = {"$mail_owner": users.POSTFIX, "$setgid_group": "postdrop"}
# In these, a file that its owner may execute is a message, and any other one is not complete.
_MESSAGES = {"active", "deferred", "hold", "incoming"}


def make(spool: Path) -> None:
    """Make what is missing below ``spool``, and have all owned and protected as Postfix wants it.

    What somebody has given away or opened with all that is in it, Postfix would not take for mail.
    """
    for line in _LIST.read_text(encoding="ascii").splitlines():
        path, kind, owner, group, mode, flags = (*line.split(":"), "", "", "", "", "")[:6]
        if kind != "d" or not path.startswith("$queue_directory"):
            continue
        directory = spool / path.removeprefix("$queue_directory").lstrip("/")
        directory.mkdir(exist_ok=True)
        user = pwd.getpwnam(_OWNERS.get(owner, owner)).pw_uid
        before = directory.lstat()
        # Without a group in the list, any is good.
        number = before.st_gid if group == "-" else grp.getgrnam(_OWNERS[group]).gr_gid
        wanted = (user, number, int(mode, 8))
        if (before.st_uid, before.st_gid, stat.S_IMODE(before.st_mode)) == wanted:
            continue
        os.chown(directory, user, number)
        directory.chmod(int(mode, 8))
        # "r" for recursive.
        if "r" in flags:
            _mend(directory, user)


def _mend(directory: Path, user: int) -> None:
    """Give everything in a directory of the queue back to ``user``, and to nobody else."""
    file_mode = 0o700 if directory.name in _MESSAGES else 0o600
    for _, folders, files, descriptor in os.fwalk(directory):
        for names, mode in ((folders, 0o700), (files, file_mode)):
            for name in names:
                _give(name, user, mode, descriptor)


def _give(name: str, user: int, mode: int, directory: int) -> None:
    """Change owner and mode of an entry of the open ``directory``, and never of another one's."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with contextlib.suppress(OSError):
        entry = os.open(name, flags, dir_fd=directory)
        try:
            os.fchown(entry, user, -1)
            os.fchmod(entry, mode)
        finally:
            os.close(entry)
