"""Postfix's queue directories, made from a list like its own."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from devmail_config import spool

LIST = """\
# path:type:owner:group:mode:flags
$config_directory:d:root:-:755:u
$queue_directory:d:root:-:755:uc
$queue_directory/active:d:$mail_owner:-:700:ucr
$queue_directory/public:d:$mail_owner:$setgid_group:710:uc
$daemon_directory/smtpd:f:root:-:755
"""


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[str]]:
    """Who was given what, instead of giving it."""
    given: dict[str, list[str]] = {}

    def chown(path: Path, user: str | None = None, group: str | None = None) -> None:
        given.setdefault(path.name, []).append(user or f":{group}")

    monkeypatch.setattr(shutil, "chown", chown)
    listing = tmp_path / "postfix-files"
    listing.write_text(LIST)
    monkeypatch.setattr(spool, "_LIST", listing)
    return given


def test_what_is_missing_is_made_as_postfix_wants_it(
    tmp_path: Path, owners: dict[str, list[str]]
) -> None:
    queue = tmp_path / "spool"
    queue.mkdir()
    spool.make(queue)
    assert owners == {"active": ["postfix"], "public": ["postfix", ":postdrop"]}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in queue.iterdir()}
    assert modes == {"active": 0o700, "public": 0o710}


def test_what_is_there_stays_as_it_is(tmp_path: Path, owners: dict[str, list[str]]) -> None:
    queue = tmp_path / "spool"
    (queue / "active").mkdir(parents=True, mode=0o755)
    (queue / "active" / "message").touch()
    spool.make(queue)
    assert "active" not in owners
    assert (queue / "active" / "message").exists()
