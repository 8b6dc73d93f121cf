"""Which directories are devmail's own, and what keeps it from taking over anyone else's.

As root, devmail empties, replaces and gives away directories that a setting may point anywhere. It
does so only in a directory that has its mark. It marks those that it made or found empty, and those
that only the seed image or an earlier version of devmail can have filled.
"""

from __future__ import annotations

import itertools
import os
import pwd
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from devmail_config import tls, users
from devmail_config.errors import DevmailError, Problem
from devmail_config.layout import Layout
from devmail_config.settings import Settings

MARK = ".devmail-owns-this"
# Below a first line that says what the directory is for.
_MARK_TEXT = """\
devmail made this directory, or found it empty. As long as this file is here, devmail may change,
give to the users of its daemons, and remove whatever else is in the directory.
"""
# The top of a file system, such as a volume, may have the second one.
_ALWAYS_ALLOWED = {MARK, "lost+found"}
# Debian's range of user numbers for people (Debian policy, section 9.2.2).
_PEOPLE = range(1000, 60000)
# The entries of a webmail's data directory: of RainLoop, and of Roundcube in its part of it.
WEBMAIL_DATA = (
    *("_data_", "SALT.php", "DATA.php", "INSTALLED", "VERSION", "EMPTY"),
    *("index.html", "index.php", ".htaccess", "roundcube"),
)
# The entries that show whose it is: other programs have some of the above, too.
_WEBMAIL_DATA_PROOF = ("_data_/_default_", "roundcube/sessions")


@dataclass(frozen=True)
class OwnDirectory:
    """A directory that devmail has for itself."""

    path: Path
    # What it is for, as the mark says it: the mark of one use is not good for another.
    use: str
    # The setting that says where it is.
    setting: str
    # Recognises one without a mark that an earlier version or the seed image has filled.
    is_known: Callable[[Path], bool]

    def fault(self) -> str | None:
        """Say what keeps devmail from having this directory; None if nothing does.

        Looks at the disk and changes nothing.
        """
        try:
            mode = self.path.lstat().st_mode
            if not stat.S_ISDIR(mode):
                return f"{self.path} is {'a link' if stat.S_ISLNK(mode) else 'a file'}"
            foreign = _names(self.path) - _ALWAYS_ALLOWED
            if not foreign or self._is_marked() or self.is_known(self.path):
                return None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return f"{self.path} cannot be read: {error.strerror}"
        shown = [*map(repr, sorted(foreign)[:3]), *(["..."] if len(foreign) > 3 else [])]
        return f"{self.path} has something in it that devmail did not put there: {', '.join(shown)}"

    def remedy(self) -> str:
        """Say what to do about a fault."""
        return (
            "choose a directory that is new or empty; to let devmail have this one, with all that "
            f"is in it: touch {self.path / MARK}"
        )

    def require(self) -> None:
        """Raise ``DevmailError`` if the directory is somebody else's."""
        if fault := self.fault():
            raise DevmailError([Problem(str(self.path), fault, self.remedy())])

    def claim(self) -> None:
        """Make the directory, if it is not there, and mark it.

        Raises ``DevmailError`` when it is somebody else's, and ``OSError``.
        """
        self.require()
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._is_marked():
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(self.path / MARK, flags, 0o644), "w") as mark:
                mark.write(f"{self.use}\n{_MARK_TEXT}")

    def _is_marked(self) -> bool:
        try:
            descriptor = os.open(self.path / MARK, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return False
        with os.fdopen(descriptor, "rb") as mark:
            # A user who hands a directory over makes an empty one.
            return mark.readline().strip() in {b"", self.use.encode()}


def own_directories(settings: Settings, layout: Layout) -> tuple[OwnDirectory, ...]:
    """List the directories that a start makes devmail's own."""

    def is_of_this_state(_: Path) -> bool:
        # No other program leaves these two together.
        return layout.fixed_settings.is_file() and layout.lock.is_file()

    below_state = {
        "run": layout.run,
        "spool": layout.spool,
        "postfix": layout.postfix_data,
        "faults": layout.faults,
    }
    if tls.makes_material(settings):
        below_state["tls"] = layout.tls
    own = [
        OwnDirectory(path, use, "state_dir", is_of_this_state) for use, path in below_state.items()
    ]
    setting = "mail_dir" if settings.mail_dir else "state_dir"
    own.append(OwnDirectory(layout.mail, "mail", setting, _has_mailboxes_of_a_server))
    if settings.webmail != "none":
        setting = "webmail_data_dir" if settings.webmail_data_dir else "state_dir"
        own.append(OwnDirectory(layout.webmail_data, "webmail", setting, _has_data_of_a_webmail))
    return tuple(own)


def judge(settings: Settings, own: Sequence[OwnDirectory]) -> Iterator[Problem]:
    """Find directories that are somebody else's, and those that lie in one another."""
    for directory in own:
        if fault := directory.fault():
            yield Problem(settings.subject(directory.setting), fault, directory.remedy())
    for pair in itertools.combinations(own, 2):
        outer, inner = sorted(pair, key=lambda directory: len(directory.path.parts))
        if outer.path in (inner.path, *inner.path.parents):
            yield Problem(
                settings.subject(max(outer.setting, inner.setting, key=settings.is_set)),
                f"{inner.path} ({inner.use}) would lie in {outer.path} ({outer.use})",
                "give each of them a directory that is for nothing else",
            )


def _has_mailboxes_of_a_server(directory: Path) -> bool:
    """Tell whether all there is are mailboxes of a mail server, none of them a person's.

    The seed image keeps them as we do, in ``<domain>/<local part>``. Some mail readers do, too, but
    theirs belong to a user of the machine. Single files, which we never touch, may be there.
    """
    if _is_as_left_by_a_start(directory):
        return True
    count = 0
    for domain in directory.iterdir():
        entry = domain.lstat()
        if domain.name in _ALWAYS_ALLOWED or (
            stat.S_ISREG(entry.st_mode) and entry.st_uid not in _PEOPLE
        ):
            continue
        if not stat.S_ISDIR(entry.st_mode):
            return False
        for mailbox in domain.iterdir():
            owner = mailbox.lstat().st_uid
            parts = (mailbox / "cur", mailbox / "new", mailbox / "tmp")
            if owner == 0 or owner in _PEOPLE or not all(map(_is_directory, parts)):
                return False
            count += 1
    return count > 0


def _is_as_left_by_a_start(directory: Path) -> bool:
    """Tell whether it belongs to the user of the mailboxes alone, as nobody else's does."""
    entry = directory.lstat()
    try:
        owner = pwd.getpwnam(users.MAIL).pw_uid
    except KeyError:
        return False
    return entry.st_uid == owner and not entry.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def _has_data_of_a_webmail(directory: Path) -> bool:
    names = _names(directory) - _ALWAYS_ALLOWED
    return names <= set(WEBMAIL_DATA) and any(
        _is_directory(directory / proof) for proof in _WEBMAIL_DATA_PROOF
    )


def _names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False
