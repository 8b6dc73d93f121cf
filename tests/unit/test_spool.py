"""Postfix's queue directories, made from a list like its own."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from devmail_config import spool

LIST = """\
# path:type:owner:group:mode:flags
$config_directory:d:root:-:755:u
$queue_directory:d:root:-:755:uc
$queue_directory/active:d:$mail_owner:-:700:ucr
$queue_directory/defer:d:$mail_owner:-:700:ucr
$queue_directory/public:d:$mail_owner:$setgid_group:710:uc
$daemon_directory/smtpd:f:root:-:755
"""


@pytest.fixture(autouse=True)
def everyone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    """Be every user and group of the list, and tell who was asked for."""
    asked: set[str] = set()

    def find(name: str) -> SimpleNamespace:
        asked.add(name)
        return SimpleNamespace(pw_uid=os.getuid(), gr_gid=os.getgid())

    monkeypatch.setattr(pwd, "getpwnam", find)
    monkeypatch.setattr(grp, "getgrnam", find)
    listing = tmp_path / "postfix-files"
    listing.write_text(LIST)
    monkeypatch.setattr(spool, "_LIST", listing)
    return asked


def modes(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): stat.S_IMODE(path.lstat().st_mode)
        for path in directory.rglob("*")
    }


def test_what_is_missing_is_made_as_postfix_wants_it(tmp_path: Path, everyone: set[str]) -> None:
    queue = tmp_path / "spool"
    spool.make(queue)
    assert everyone == {"root", "postfix", "postdrop"}
    assert modes(queue) == {"active": 0o700, "defer": 0o700, "public": 0o710}


def test_what_is_good_stays_as_it_is(tmp_path: Path) -> None:
    queue = tmp_path / "spool"
    spool.make(queue)
    (queue / "active" / "message").touch(mode=0o640)
    spool.make(queue)
    assert modes(queue)["active/message"] == 0o640


def test_what_somebody_has_opened_is_closed_with_all_that_is_in_it(tmp_path: Path) -> None:
    queue, elsewhere = tmp_path / "spool", tmp_path / "elsewhere"
    spool.make(queue)
    elsewhere.touch(mode=0o644)
    (queue / "defer" / "A").mkdir()
    for name in ("active/message", "defer/A/reason", "public/other"):
        (queue / name).touch()
    for path in queue.rglob("*"):
        path.chmod(0o755)
    (queue / "active" / "link").symlink_to(elsewhere)
    spool.make(queue)
    found = modes(queue)
    assert found.pop("active/link")
    assert found == {
        "active": 0o700,
        "active/message": 0o700,
        "defer": 0o700,
        "defer/A": 0o700,
        "defer/A/reason": 0o600,
        # Postfix's list has nothing to say about what is in this one.
        "public": 0o710,
        "public/other": 0o755,
    }
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o644
