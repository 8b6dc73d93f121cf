"""Mailboxes of another server become ours once, and nothing else does."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from devmail_config import directories
from devmail_config.errors import DevmailError, Problem
from devmail_config.layout import Layout
from devmail_config.settings import Settings


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would change its owner, in that order."""
    changed: list[str] = []

    def chown(path: str | Path, *_: Any, dir_fd: int | None = None, **__: Any) -> None:
        directory = f"{Path(f'/proc/self/fd/{dir_fd}').readlink()}/" if dir_fd else ""
        changed.append(f"{directory}{path}")

    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(shutil, "chown", chown)
    return changed


def mailbox(directory: Path) -> Path:
    for part in ("cur", "new", "tmp", ".Sent/cur"):
        (directory / part).mkdir(parents=True)
    (directory / "cur" / "1.M1.x").touch()
    return directory


def test_maildirs_and_what_they_are_in_become_ours_from_the_inside_out(
    tmp_path: Path, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=-8, pw_gid=-8))
    monkeypatch.setattr(grp, "getgrnam", lambda _: SimpleNamespace(gr_gid=-9))
    box = mailbox(tmp_path / "old.example" / "joe")
    (tmp_path / "empty.example").mkdir()
    (tmp_path / "postmaster").touch()
    (tmp_path / "home" / "documents").mkdir(parents=True)

    lines = list(directories.take_over_mail(tmp_path))
    number = os.getuid()
    assert lines[0] == (
        f"mailboxes in {tmp_path} belong to another user (number {number}): giving 1 to mail"
    )
    assert lines[1].startswith("they belong to mail now (")
    assert given.index(f"{box}/cur/1.M1.x") < given.index(f"{box}/cur") < given.index(str(box))
    assert set(given[given.index(str(box)) + 1 : -1]) == {
        str(tmp_path / "old.example"),
        str(tmp_path / "empty.example"),
    }
    assert given[-1] == str(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_is_ours_is_not_looked_into(
    tmp_path: Path, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = SimpleNamespace(pw_uid=os.getuid(), gr_gid=os.getgid())
    monkeypatch.setattr(pwd, "getpwnam", lambda _: ours)
    monkeypatch.setattr(grp, "getgrnam", lambda _: ours)
    mailbox(tmp_path / "old.example" / "joe")
    assert list(directories.take_over_mail(tmp_path)) == []
    assert given == [str(tmp_path)]


def test_mailboxes_of_an_earlier_version_change_their_group(
    tmp_path: Path, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=os.getuid()))
    monkeypatch.setattr(grp, "getgrnam", lambda _: SimpleNamespace(gr_gid=-9))
    box = mailbox(tmp_path / "old.example" / "joe")
    lines = list(directories.take_over_mail(tmp_path))
    assert lines[0] == (
        f"mailboxes in {tmp_path} belong to another group (number {os.getgid()}): giving 1 to mail"
    )
    assert {str(box), f"{box}/cur/1.M1.x"} <= set(given)


def test_a_rehearsal_speaks_of_the_real_places_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    layout = Layout.of(Settings(state_dir=Path("state"), mail_dir=Path("mail")), tmp_path / "x")

    def rehearse() -> None:
        with directories.rehearsal(layout) as elsewhere:
            places = {elsewhere.state, elsewhere.mail, elsewhere.webmail_data}
            assert not any(place.is_relative_to(layout.state.parent) for place in places)
            raise DevmailError([Problem(f"the CA in {elsewhere.tls}", "damaged", "remove it")])

    with pytest.raises(DevmailError) as caught:
        rehearse()
    assert caught.value.problems == (Problem(f"the CA in {layout.tls}", "damaged", "remove it"),)
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_finds_a_place_where_there_is_no_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_at_all() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, "gettempdir", none_at_all)
    with directories.rehearsal(Layout.of(Settings(), tmp_path)) as elsewhere:
        assert elsewhere.state.parent == Path("/dev/shm")  # noqa: S108
