"""The directories of Postfix's queue.

They are made from Postfix's own list, as ``postfix check`` would make them; its shell scripts also
look into every file of the package, and take longer than all other steps of a start together.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from devmail_config import users

# Manual: the comment at the top of that file.
_LIST = Path("/etc/postfix/postfix-files")
_OWNERS = {"$mail_owner": users.POSTFIX, "$setgid_group": "postdrop"}


def make(spool: Path) -> None:
    """Make what is missing below ``spool``, owned and protected as Postfix wants it."""
    for line in _LIST.read_text(encoding="ascii").splitlines():
        path, kind, owner, group, mode = (*line.split(":"), "", "", "", "")[:5]
        if kind != "d" or not path.startswith("$queue_directory"):
            continue
        directory = spool / path.removeprefix("$queue_directory").lstrip("/")
        if not directory.exists():
            directory.mkdir()
            shutil.chown(directory, _OWNERS.get(owner, owner))
            if group != "-":
                shutil.chown(directory, group=_OWNERS.get(group, group))
            directory.chmod(int(mode, 8))
