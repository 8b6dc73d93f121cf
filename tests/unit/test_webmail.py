"""Which webmail a server has, and what `make up` does to get one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from devmail_config import native, rainloop, surroundings, webmail
from devmail_config.errors import DevmailError, Problem
from devmail_config.layout import Layout
from devmail_config.settings import Settings
from devmail_config.surroundings import Machine


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.of(Settings(state_dir=tmp_path), tmp_path)


def machine(tmp_path: Path, *packages: str, user: int = 0) -> Machine:
    status = tmp_path / "status"
    status.write_text(
        "".join(f"Package: {name}\nStatus: install ok installed\n\n" for name in packages)
    )
    return Machine(dpkg_status=status, user=user)


ROUNDCUBE = webmail.packages("roundcube")
RAINLOOP = webmail.packages("rainloop")


@pytest.mark.parametrize(
    ("wanted", "packages", "release", "title"),
    [
        ("auto", (), False, None),
        ("auto", (), True, None),
        ("auto", ROUNDCUBE, False, "Roundcube"),
        ("auto", [*ROUNDCUBE, *RAINLOOP], True, "RainLoop"),
        ("roundcube", [*ROUNDCUBE, *RAINLOOP], True, "Roundcube"),
        ("none", ROUNDCUBE, False, None),
    ],
)
def test_the_first_that_is_installed_is_chosen(
    tmp_path: Path,
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    packages: list[str],
    release: bool,  # noqa: FBT001
    title: str | None,
) -> None:
    monkeypatch.setattr(rainloop, "is_installed", lambda _: release)
    settings = Settings(webmail=wanted)
    chosen, problems = webmail.choose(settings, layout, machine(tmp_path, *packages))
    assert problems == []
    assert (chosen and chosen.title) == title


@pytest.mark.parametrize(
    ("wanted", "packages", "missing"),
    [
        ("roundcube", ROUNDCUBE[:2], ", ".join(ROUNDCUBE[2:])),
        ("rainloop", RAINLOOP, "RainLoop 1.17.0 in {rainloop}"),
        ("rainloop", (), ", ".join(RAINLOOP) + ", RainLoop 1.17.0 in {rainloop}"),
    ],
)
def test_one_that_is_asked_for_and_not_installed_is_a_problem(
    tmp_path: Path, layout: Layout, wanted: str, packages: list[str], missing: str
) -> None:
    chosen, (problem,) = webmail.choose(
        Settings(webmail=wanted), layout, machine(tmp_path, *packages)
    )
    assert chosen is None
    assert str(problem) == (
        f"DEVMAIL_WEBMAIL='{wanted}' (default): "
        f"not installed: {missing.format(rainloop=layout.rainloop)}\n"
        f"    -> devmail install --webmail {wanted} (as root), or DEVMAIL_WEBMAIL=auto"
    )


def test_rainloop_where_php_cannot_enter_is_a_problem(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rainloop, "is_installed", lambda _: True)
    monkeypatch.setattr(surroundings, "unreachable", lambda path: path)
    settings = Settings(rainloop_dir=layout.rainloop)
    _, (problem,) = webmail.choose(settings, layout, machine(tmp_path, *RAINLOOP))
    assert str(problem).startswith(
        f"DEVMAIL_RAINLOOP_DIR='{layout.rainloop}' (default): "
        f"the user that PHP runs as cannot enter {layout.rainloop}\n"
    )
    assert webmail.choose(Settings(), layout, machine(tmp_path, *RAINLOOP))[1] == []


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for the installation, which knows no RainLoop."""
    names: list[str] = []

    def install(name: str, *_: object) -> None:
        if name == "rainloop":
            raise DevmailError([Problem("the address", "cannot be downloaded: no way", "wait")])
        names.append(name)

    monkeypatch.setattr(native, "install_webmail", install)
    return names


def test_roundcube_takes_the_place_of_a_rainloop_that_cannot_be_had(
    tmp_path: Path, layout: Layout, installed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    native.provide_webmail(Settings(), layout, machine(tmp_path))
    assert installed == ["roundcube"]
    said = "rainloop cannot be downloaded: no way: using roundcube instead\n"
    assert capsys.readouterr().out == said


def test_who_asks_for_rainloop_gets_nothing_else(
    tmp_path: Path, layout: Layout, installed: list[str]
) -> None:
    with pytest.raises(DevmailError, match="cannot be downloaded: no way"):
        native.provide_webmail(Settings(webmail="rainloop"), layout, machine(tmp_path))
    assert installed == []


@pytest.mark.parametrize(
    ("settings", "user", "packages"),
    [(Settings(webmail="none"), 0, ()), (Settings(), 1000, ()), (Settings(), 0, ROUNDCUBE)],
)
def test_nothing_is_installed_without_need_or_right(
    tmp_path: Path,
    layout: Layout,
    installed: list[str],
    settings: Settings,
    user: int,
    packages: list[str],
) -> None:
    native.provide_webmail(settings, layout, machine(tmp_path, *packages, user=user))
    assert installed == []


def test_rainloop_is_downloaded_before_its_packages_are_installed(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(rainloop, "download", lambda _: steps.append("download"))
    monkeypatch.setattr(native, "install", lambda *_: steps.append("packages"))
    monkeypatch.setattr(rainloop, "install", lambda *_: steps.append("unpack"))
    native.install_webmail("rainloop", layout, machine(tmp_path))
    native.install_webmail("rainloop", layout, machine(tmp_path), tmp_path / "release.zip")
    native.install_webmail("roundcube", layout, machine(tmp_path))
    assert steps == ["download", "packages", "unpack", "packages", "unpack", "packages"]


@pytest.mark.parametrize("damaged", ["", "0123456789abcdef", "0" * 33, "ключ"])
def test_a_key_that_a_power_cut_left_damaged_is_made_again(tmp_path: Path, damaged: str) -> None:
    webmail._prepare_roundcube(tmp_path)
    key = (tmp_path / "key").read_text()
    webmail._prepare_roundcube(tmp_path)
    assert (tmp_path / "key").read_text() == key
    (tmp_path / "key").write_text(damaged)
    webmail._prepare_roundcube(tmp_path)
    made = (tmp_path / "key").read_text()
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert made != key


def test_the_admin_password_is_shown_nowhere() -> None:
    settings = Settings(rainloop_admin_password="open sesame")  # noqa: S106
    assert "sesame" not in settings.subject("rainloop_admin_password")
