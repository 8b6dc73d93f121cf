"""The webmail: which of them a server has, what it lacks, and what it needs on disk at a start.

Both are programs in PHP behind nginx. They log in to Dovecot and Postfix of this server with
whatever the user typed, so that the rule of addresses stays the only judge of a login.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from devmail_config import durable, rainloop, surroundings, users
from devmail_config.directories import acting_as, give
from devmail_config.errors import Problem
from devmail_config.layout import Layout
from devmail_config.ownership import WEBMAIL_DATA, OwnDirectory
from devmail_config.settings import Settings
from devmail_config.surroundings import Machine

_LISTS = Path(__file__).parent.parent
# What "auto" stands for, the preferred one first.
_KNOWN = ("rainloop", "roundcube")
# The document root of Debian's package, with nothing in it but what browsers may see.
_ROUNDCUBE = Path("/var/lib/roundcube/public_html")
# Where its links lead: Debian's own scripts, and their configuration.
_ROUNDCUBE_LIBRARIES = (
    Path("/usr/share/roundcube"),
    Path("/usr/share/php"),
    Path("/etc/roundcube/defaults.inc.php"),
    Path("/etc/roundcube/plugins"),
    # The dates of these files are part of their addresses in a page.
    Path("/usr/share/javascript"),
    Path("/usr/share/nodejs/bootstrap"),
)
_ROUNDCUBE_EXTENSIONS = (
    *("pdo", "xml", "ctype", "dom", "exif", "fileinfo", "iconv", "intl", "mbstring"),
    *("pdo_sqlite", "simplexml", "zip"),
)
_RAINLOOP_EXTENSIONS = ("xml", "ctype", "dom", "fileinfo", "iconv", "simplexml")


@dataclass(frozen=True)
class Webmail:
    """A webmail that is installed."""

    name: str
    title: str
    # The document root.
    root: Path
    # Extensions of PHP that it uses, in the order in which they must be loaded.
    extensions: tuple[str, ...]
    # Where it reads from besides its root, most of all the first.
    libraries: tuple[Path, ...] = ()

    # After these, a request has failed.
    REQUEST_SECONDS: ClassVar[int] = 30

    def reaches(self, layout: Layout) -> tuple[Path, ...]:
        """List all that its scripts may read or write; PHP goes through it file by file."""
        config, php = layout.config(self.name), layout.config("php")
        if self.name == "roundcube":
            data = layout.webmail_data / "roundcube"
            scripts, others = self.libraries[:1], self.libraries[1:]
            return (*scripts, config, data, *others, self.root.parent, php)
        return (self.root, layout.webmail_data, config, php)


def packages(name: str) -> list[str]:
    """Read the Debian packages that the webmail ``name`` needs besides the server's own."""
    return surroundings.packages(_LISTS / f"debian-packages-{name}.txt")


def choose(
    settings: Settings, layout: Layout, machine: Machine
) -> tuple[Webmail | None, list[Problem]]:
    """Find the webmail that the settings ask for; a ``Problem`` if it is not installed.

    None without a ``Problem`` is a server without a webmail: ``none``, or ``auto`` with none
    installed.
    """
    if settings.webmail == "none":
        return None, []
    for name in allowed(settings):
        if not (missing := lacks(name, layout, machine)):
            return _installed(name, layout), list(_judge_place(name, settings, layout))
    if settings.webmail == "auto":
        return None, []
    return None, [
        Problem(
            settings.subject("webmail"),
            f"not installed: {', '.join(missing)}",
            f"devmail install --webmail {settings.webmail} (as root), or DEVMAIL_WEBMAIL=auto",
        )
    ]


def _judge_place(name: str, settings: Settings, layout: Layout) -> Iterable[Problem]:
    # Its usual place is in the state directory, which has been judged.
    if name != "rainloop" or settings.rainloop_dir is None:
        return
    if (blocked := surroundings.unreachable(layout.rainloop)) is not None:
        yield Problem(
            settings.subject("rainloop_dir"),
            f"the user that PHP runs as cannot enter {blocked}",
            "install it elsewhere, for example with DEVMAIL_RAINLOOP_DIR=/usr/local/share/rainloop",
        )


def program_directories(settings: Settings, layout: Layout) -> tuple[OwnDirectory, ...]:
    """List the directories that the installation of an allowed webmail replaces."""
    if "rainloop" not in allowed(settings):
        return ()
    setting = "rainloop_dir" if settings.rainloop_dir else "state_dir"
    return (rainloop.own_directory(layout.rainloop, setting),)


def allowed(settings: Settings) -> tuple[str, ...]:
    """List the webmails that the settings allow, the preferred one first."""
    return {"auto": _KNOWN, "none": ()}.get(settings.webmail, (settings.webmail,))


def lacks(name: str, layout: Layout, machine: Machine) -> list[str]:
    """List what the webmail ``name`` lacks: Debian packages, and its own files."""
    missing = surroundings.missing_packages(packages(name), machine)
    if name == "rainloop" and not rainloop.is_installed(layout.rainloop):
        missing.append(f"RainLoop {rainloop.VERSION} in {layout.rainloop}")
    return missing


def _installed(name: str, layout: Layout) -> Webmail:
    if name == "rainloop":
        return Webmail(name, "RainLoop", layout.rainloop, _RAINLOOP_EXTENSIONS)
    return Webmail(name, "Roundcube", _ROUNDCUBE, _ROUNDCUBE_EXTENSIONS, _ROUNDCUBE_LIBRARIES)


def prepare(webmail: Webmail, settings: Settings, layout: Layout) -> None:
    """Make what the webmail needs on disk before PHP starts: directories, keys, its own files."""
    user = pwd.getpwnam(users.PHP)
    uploads = layout.config("php") / "uploads"
    uploads.mkdir(exist_ok=True)
    # It may be a volume from elsewhere.
    for name in WEBMAIL_DATA:
        entry = layout.webmail_data / name
        if entry.is_symlink() or entry.exists():
            give(entry, user.pw_uid, user.pw_gid)
    for directory in (layout.webmail_data, uploads):
        os.chown(directory, user.pw_uid, user.pw_gid)
        directory.chmod(0o700)
    if webmail.name == "roundcube":
        with acting_as(user):
            _prepare_roundcube(layout.webmail_data / "roundcube")
    else:
        application = rainloop.application(
            layout.config("rainloop"), settings.rainloop_admin_password
        )
        with acting_as(user):
            rainloop.prepare(layout.webmail_data, application)


def _prepare_roundcube(data: Path) -> None:
    for directory in (data, data / "sessions", data / "temp"):
        directory.mkdir(mode=0o700, exist_ok=True)
    key = data / "key"
    # 32 characters, for AES-256. Whoever has it can read the passwords in the sessions.
    if not key.exists() or not re.fullmatch(rb"[0-9a-f]{32}", key.read_bytes()):
        durable.write(key, secrets.token_hex(16).encode(), 0o600)
