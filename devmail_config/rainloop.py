"""RainLoop: get its pinned release, patch it, and write its configuration into its data directory.

No code of RainLoop is ours to keep or to publish: what we have of it is the address of its release,
that release's checksum, and patches that consist of nothing but our own added lines.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from devmail_config import debian, durable
from devmail_config.errors import DevmailError, Problem
from devmail_config.ownership import OwnDirectory

VERSION = "1.17.0"
URL = (
    "https://github.com/RainLoop/rainloop-webmail/releases/download/"
    f"v{VERSION}/rainloop-legacy-{VERSION}.zip"
)
# As three packagers recorded it independently when it was published.
SHA256 = "782dcabacadab5d7176f7701dd23319a040b2cfbf974fac6df068600cf69c50a"

_PATCHES = Path(__file__).parent.parent / "patches"
_LIBRARIES = f"rainloop/v/{VERSION}/app/libraries"
# Seconds without any data.
_DOWNLOAD_TIMEOUT = 20.0
# The name of the file in the document root that says where the data are.
_INCLUDE = "include.php"
_INCLUDE_TEXT = """\
<?php
// RainLoop asks here where its data are: outside of what nginx serves, and of what root owns.
function __get_custom_data_full_path()
{
    return getenv('DEVMAIL_DATA');
}
"""
# How the SALT.php begins that the seed image was published with: its key is known to everyone.
_PUBLISHED_SALT = b"0569f4085c33"
_SALT_PREFIX = b"<?php //"
# The line in the rendered application.ini that a password takes the place of.
_CLOSED = 'admin_password = ""'
# RainLoop's own directories, below _data_/_default_ in its data directory.
_DIRECTORIES = ("cache", "configs", "domains", "logs", "plugins", "storage")


@dataclass(frozen=True)
class Patch:
    """A patch, the one file that it changes, and that file's SHA-256 before and after."""

    name: str
    target: str
    before: str
    after: str


PATCHES = (
    Patch(
        "any-domain.patch",
        f"{_LIBRARIES}/RainLoop/Providers/Domain/DefaultDomain.php",
        before="15c43c71ddcceb6eb9519d77dcf2c538a2d45d9d656dfaae78d14689847e412b",
        after="559fa4306cbcc3067120c1d89e350e4dd173eb89f48b607e20b9a9db8336d347",
    ),
    Patch(
        "html-sanitiser.patch",
        f"{_LIBRARIES}/MailSo/Base/HtmlUtils.php",
        before="84d331f5dcb83336d52f3c9cd420d9ff976e5b0a74989afc5cb88279d38323fb",
        after="f667936e3350882b79766c0b19c7955eef32919c10aa53cd9e5da5e1a58235a0",
    ),
    Patch(
        "editor.patch",
        f"rainloop/v/{VERSION}/app/templates/Index.html",
        before="74d459ce4314c2ddf3efd0093ecafc1da79871c46a7352dae27b2fb3467fb5b5",
        after="c085451937b9394206fe1f360fa68ddfd8e32fd4d099ae5e973489ce99bf9dcc",
    ),
)


def is_installed(directory: Path) -> bool:
    """Tell whether ``directory`` has RainLoop with every patch of ours in it."""
    try:
        return (directory / _INCLUDE).is_file() and all(
            _checksum(directory / patch.target) == patch.after for patch in PATCHES
        )
    except OSError:
        return False


def own_directory(directory: Path, setting: str = "rainloop_dir") -> OwnDirectory:
    """Describe the directory that an installation replaces; ``setting`` says where it is."""

    def has_our_file(directory: Path) -> bool:
        include = directory / _INCLUDE
        return include.is_file() and include.read_text(encoding="utf-8") == _INCLUDE_TEXT

    return OwnDirectory(directory, "rainloop", setting, has_our_file)


def download(path: Path) -> None:
    """Fetch the release from ``URL`` to ``path``.

    Raises ``DevmailError`` when it cannot be had.
    """
    # Not at the top, because a start needs none of it.
    import http.client
    import urllib.request

    try:
        with (
            urllib.request.urlopen(URL, timeout=_DOWNLOAD_TIMEOUT) as response,  # noqa: S310
            path.open("wb") as file,
        ):
            shutil.copyfileobj(response, file)
    except (OSError, http.client.HTTPException) as error:
        raise _error(
            URL,
            f"cannot be downloaded: {getattr(error, 'reason', error)}",
            "give the archive with --archive, or use Debian's webmail: --webmail roundcube",
        ) from None


def install(directory: Path, archive: Path, sha256: str = SHA256) -> None:
    """Unpack and patch the release in ``directory``, which is replaced, and owned by root.

    Raises ``DevmailError`` when ``archive`` is not what was expected, or ``directory`` is somebody
    else's; nothing has changed then.
    """
    own_directory(directory).require()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rainloop-", dir=directory.parent) as temporary:
        unpacked = Path(temporary) / "unpacked"
        _unpack(archive, sha256, unpacked)
        for patch in PATCHES:
            apply(patch, unpacked)
        (unpacked / _INCLUDE).write_text(_INCLUDE_TEXT, encoding="ascii")
        own_directory(unpacked).claim()
        if directory.exists():
            shutil.rmtree(directory)
        unpacked.rename(directory)


def apply(patch: Patch, directory: Path) -> None:
    """Apply ``patch`` below ``directory``.

    The patches have no lines of context, since those would be RainLoop's: what keeps them from
    being applied in a wrong place, or twice, are the checksums of the target before and after.
    """
    target = directory / patch.target
    if not target.is_file() or _checksum(target) != patch.before:
        raise _error(
            f"patches/{patch.name}",
            f"{target} is not the file of RainLoop {VERSION} that it is made for",
            f"start from the unchanged release {URL}",
        )
    path = _PATCHES / patch.name
    done = subprocess.run(
        [
            "patch",
            "--strip=1",
            "--fuzz=0",
            "--quiet",
            f"--directory={directory}",
            f"--input={path}",
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0 or _checksum(target) != patch.after:
        raise _error(
            f"patches/{patch.name}",
            f"the patched file is not what it should be {' '.join(done.stdout.split())}".strip(),
            "make the patch and its checksums in devmail_config/rainloop.py agree",
        )


def application(rendered: Path, admin_password: str) -> bytes:
    """Read the application.ini in the directory ``rendered``, and fill the admin's password in.

    An empty ``admin_password`` keeps the admin panel closed.
    """
    text = (rendered / "application.ini").read_text(encoding="utf-8")
    if admin_password:
        text = text.replace(_CLOSED, f'admin_password = "{_hash(admin_password)}"')
    return text.encode()


def prepare(data: Path, application: bytes) -> None:
    """Write what RainLoop must find in its data directory before its first request.

    Called with the rights of the user that PHP runs as, see ``webmail.prepare``.
    """
    own = data / "_data_" / "_default_"
    # What it keeps here depends on its version alone, not on what was changed meanwhile.
    shutil.rmtree(own / "cache", ignore_errors=True)
    for name in _DIRECTORIES:
        (own / name).mkdir(parents=True, exist_ok=True)
    # RainLoop makes its domains at a first start, unless it finds this file; none is ever needed.
    (own / "domains" / "disabled").write_bytes(b"")
    (own / "configs" / "application.ini").write_bytes(application)
    # Without a line's end: RainLoop compares the whole file, and sets itself up anew otherwise.
    for name in ("INSTALLED", "VERSION"):
        (data / name).write_bytes(VERSION.encode())
    _provide_salt(data / "SALT.php")


def _hash(password: str) -> str:
    """Hash a password with bcrypt, by the function that RainLoop will check it with."""
    return subprocess.run(
        [debian.PHP, "-n", "-r", "echo password_hash(stream_get_contents(STDIN), '2y');"],
        input=password,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def _provide_salt(path: Path) -> None:
    """Keep the key that sessions are encrypted with, unless there is none or everyone knows it."""
    try:
        salt = path.read_bytes().removeprefix(_SALT_PREFIX)
    except OSError:
        salt = b""
    if not salt.strip() or salt.startswith(_PUBLISHED_SALT):
        durable.write(path, _SALT_PREFIX + secrets.token_hex(48).encode(), 0o600)


def _unpack(archive: Path, sha256: str, directory: Path) -> None:
    try:
        found = _checksum(archive)
    except OSError as error:
        raise _error(str(archive), f"cannot be read: {error.strerror}", f"get {URL}") from None
    if found != sha256:
        raise _error(
            str(archive),
            f"its SHA-256 is {found}, not {sha256}: this is not the release",
            f"get {URL}, or use Debian's webmail: --webmail roundcube",
        )
    import zipfile

    with zipfile.ZipFile(archive) as release:
        release.extractall(directory)
    directory.chmod(0o755)


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _error(subject: str, fault: str, remedy: str) -> DevmailError:
    return DevmailError([Problem(subject, fault, remedy)])
