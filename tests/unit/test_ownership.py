"""Only what is devmail's own, or nobody's, is ever taken over."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from devmail_config import ownership, rainloop
from devmail_config.errors import DevmailError
from devmail_config.layout import Layout
from devmail_config.ownership import MARK, OwnDirectory, judge, own_directories
from devmail_config.settings import Settings


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.of(Settings(state_dir=tmp_path / "state"), tmp_path)


def own(layout: Layout, use: str) -> OwnDirectory:
    (found,) = (one for one in own_directories(Settings(), layout) if one.use == use)
    return found


USES = ("run", "spool", "postfix", "faults", "tls", "mail", "webmail")


def test_every_directory_that_a_start_writes_to_is_guarded(layout: Layout) -> None:
    assert tuple(one.use for one in own_directories(Settings(), layout)) == USES
    without = own_directories(Settings(webmail="none"), layout)
    assert tuple(one.use for one in without) == USES[:-1]


@pytest.mark.parametrize("use", USES)
def test_a_new_or_empty_directory_becomes_ours_and_stays_so(layout: Layout, use: str) -> None:
    directory = own(layout, use)
    assert directory.fault() is None
    directory.claim()
    (directory.path / "something").touch()
    assert directory.fault() is None
    directory.claim()
    assert sorted(entry.name for entry in directory.path.iterdir()) == [MARK, "something"]


def test_the_top_of_a_file_system_is_empty(layout: Layout) -> None:
    directory = own(layout, "mail")
    (directory.path / "lost+found").mkdir(parents=True)
    assert directory.fault() is None


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", ["file", ".hidden", "cur", "run", "roundcube"])
def test_a_directory_with_anything_else_is_refused_and_left_alone(
    layout: Layout, use: str, name: str
) -> None:
    directory = own(layout, use)
    (directory.path / name).mkdir(parents=True)
    assert directory.fault() == (
        f"{directory.path} has something in it that devmail did not put there: {name!r}"
    )
    with pytest.raises(DevmailError, match="did not put there"):
        directory.claim()
    assert [entry.name for entry in directory.path.iterdir()] == [name]


def test_of_many_things_some_are_named(layout: Layout) -> None:
    directory = own(layout, "run")
    directory.path.mkdir(parents=True)
    for name in "dbca":
        (directory.path / name).touch()
    assert str(directory.fault()).endswith(": 'a', 'b', 'c', ...")


def test_a_link_or_a_file_is_refused(layout: Layout, tmp_path: Path) -> None:
    directory = own(layout, "spool")
    layout.state.mkdir()
    (tmp_path / "empty").mkdir()
    directory.path.symlink_to(tmp_path / "empty")
    assert directory.fault() == f"{directory.path} is a link"
    directory.path.unlink()
    directory.path.touch()
    assert directory.fault() == f"{directory.path} is a file"


def test_a_mark_is_for_one_use_and_an_empty_one_for_any(layout: Layout) -> None:
    mail, spool = own(layout, "mail"), own(layout, "spool")
    mail.claim()
    (mail.path / "x").touch()
    assert replace(spool, path=mail.path).fault() is not None
    (mail.path / MARK).write_text("")
    assert replace(spool, path=mail.path).fault() is None
    (mail.path / MARK).unlink()
    # A link to a mark is not one.
    spool.claim()
    (mail.path / MARK).symlink_to(spool.path / MARK)
    assert replace(spool, path=mail.path).fault() is not None


def test_a_user_can_hand_a_directory_over_as_the_message_says(layout: Layout) -> None:
    directory = own(layout, "mail")
    (directory.path / "x").mkdir(parents=True)
    command = directory.remedy().rpartition(": ")[2]
    assert command == f"touch {directory.path}/{MARK}"
    Path(command.removeprefix("touch ")).touch()
    assert directory.fault() is None


# --- What earlier versions, and the seed image, have left ---


def test_a_state_directory_of_an_earlier_version_is_known(layout: Layout) -> None:
    for use in USES[:5]:
        (own(layout, use).path / "x").mkdir(parents=True)
    layout.lock.touch()
    assert own(layout, "spool").fault() is not None
    layout.fixed_settings.touch()
    assert [own(layout, use).fault() for use in USES[:5]] == [None] * 5
    layout.lock.unlink()
    assert own(layout, "spool").fault() is not None


def mailbox(directory: Path) -> Path:
    for part in ("cur", "new", "tmp"):
        (directory / part).mkdir(parents=True)
    return directory


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Who files belong to, by their names; the seed image's user if they are not listed."""
    found: dict[str, int] = {}
    lstat = Path.lstat

    def with_owner(path: Path) -> os.stat_result:
        fields = list(lstat(path))
        fields[4] = found.get(path.name, 500)
        return os.stat_result(fields)

    monkeypatch.setattr(Path, "lstat", with_owner)
    return found


def test_mailboxes_of_the_seed_image_are_known(layout: Layout, owners: dict[str, int]) -> None:
    directory = own(layout, "mail")
    mailbox(directory.path / "one.example" / "joe")
    (directory.path / "empty.example").mkdir()
    (directory.path / "postmaster").touch()
    (directory.path / "lost+found").mkdir()
    owners["postmaster"] = 0
    assert directory.fault() is None


def folder_of_another_kind(mail: Path) -> None:
    (mail / "two.example" / "joe" / "cur").mkdir(parents=True)


@pytest.mark.parametrize(
    "change",
    [
        folder_of_another_kind,
        lambda mail: (mail / "linked.example").symlink_to("/home"),
        lambda mail: (mail / "one.example" / "file").touch(),
        lambda mail: mailbox(mail / "work" / "person"),
        lambda mail: mailbox(mail / "work" / "root"),
        lambda mail: (mail / "letter-of-person").touch(),
    ],
)
def test_mailboxes_with_anything_else_are_not(
    layout: Layout, owners: dict[str, int], change: Callable[[Path], object]
) -> None:
    owners |= {"person": 1000, "letter-of-person": 59999, "root": 0}
    directory = own(layout, "mail")
    mailbox(directory.path / "one.example" / "joe")
    assert directory.fault() is None
    change(directory.path)
    assert directory.fault() is not None


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (("_data_/_default_/configs", "SALT.php", "VERSION", "INSTALLED"), True),
        (("roundcube/sessions", "roundcube/temp"), True),
        (("roundcube/sessions", "_data_/_default_", "index.html", ".htaccess"), True),
        (("roundcube/program",), False),
        (("SALT.php",), False),
        (("roundcube/sessions", ".ssh"), False),
        (("_data_/_default_", "project"), False),
    ],
)
def test_data_of_a_webmail_are_known(
    layout: Layout,
    names: tuple[str, ...],
    known: bool,  # noqa: FBT001
) -> None:
    directory = own(layout, "webmail")
    for name in names:
        (directory.path / name).mkdir(parents=True)
    assert (directory.fault() is None) == known


def test_only_an_installation_of_ours_is_replaced(tmp_path: Path) -> None:
    directory = rainloop.own_directory(tmp_path / "rainloop")
    directory.path.mkdir()
    include = directory.path / "include.php"
    include.write_text("<?php\n")
    assert directory.fault() is not None
    with pytest.raises(DevmailError, match=r"did not put there: 'include\.php'"):
        rainloop.install(directory.path, tmp_path / "archive.zip")
    include.write_text(rainloop._INCLUDE_TEXT)
    assert directory.fault() is None


# --- Settings ---


def test_a_problem_names_the_setting(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", mail_dir=tmp_path / "mail")
    (tmp_path / "mail" / "x").mkdir(parents=True)
    (tmp_path / "state" / "spool" / "x").mkdir(parents=True)
    subjects = [
        problem.subject
        for problem in judge(settings, own_directories(settings, Layout.of(settings, tmp_path)))
    ]
    assert subjects == [settings.subject("state_dir"), settings.subject("mail_dir")]


@pytest.mark.parametrize("place", ["state", "state/run", "state/run/mail", ".", "state/webmail"])
def test_directories_do_not_lie_in_one_another(tmp_path: Path, place: str) -> None:
    settings = Settings(state_dir=tmp_path / "state", mail_dir=tmp_path / place)
    layout = Layout.of(settings, tmp_path)
    problems = list(judge(settings, own_directories(settings, layout)))
    assert problems
    for problem in problems:
        assert "would lie in" in problem.fault
        assert problem.remedy == "give each of them a directory that is for nothing else"


def test_two_uses_of_one_directory_are_one_problem(tmp_path: Path) -> None:
    same = tmp_path / "same"
    settings = Settings(
        state_dir=tmp_path / "state",
        mail_dir=same,
        webmail_data_dir=same,
        origins={"webmail_data_dir": "environment"},
    )
    (problem,) = judge(settings, own_directories(settings, Layout.of(settings, tmp_path)))
    assert problem.subject == f"DEVMAIL_WEBMAIL_DATA_DIR='{same}' (environment)"
    assert problem.fault == f"{same} (webmail) would lie in {same} (mail)"


@pytest.mark.parametrize("place", ["mail", "state/mail", "state/other", "elsewhere"])
def test_directories_beside_one_another_are_good(tmp_path: Path, place: str) -> None:
    settings = Settings(state_dir=tmp_path / "state", mail_dir=tmp_path / place)
    assert not list(judge(settings, own_directories(settings, Layout.of(settings, tmp_path))))


def test_debian_people_begin_at_1000() -> None:
    assert 999 not in ownership._PEOPLE
    assert 1000 in ownership._PEOPLE
