"""Getting RainLoop: what is refused, what is patched, and what it finds in its data directory."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path

import pytest

from devmail_config import rainloop
from devmail_config.errors import DevmailError
from devmail_config.rainloop import Patch

PATCHES = Path(rainloop.__file__).parent.parent / "patches"

ORIGINAL = b"one\r\ntwo\r\nthree\r\n"
PATCHED = b"one\r\ntwo\r\nours\nthree\r\n"
PATCH = """\
Why: for this test.

--- a/app/file.php
+++ b/app/file.php
@@ -2,0 +3,1 @@
+ours
"""


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Patch:
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches/small.patch").write_text(PATCH)
    monkeypatch.setattr(rainloop, "_PATCHES", tmp_path / "patches")
    patch = Patch("small.patch", "app/file.php", checksum(ORIGINAL), checksum(PATCHED))
    monkeypatch.setattr(rainloop, "PATCHES", (patch,))
    return patch


@pytest.fixture
def target(tmp_path: Path, patch: Patch) -> Path:
    path = tmp_path / patch.target
    path.parent.mkdir()
    path.write_bytes(ORIGINAL)
    return path


def test_a_patch_is_applied(tmp_path: Path, patch: Patch, target: Path) -> None:
    rainloop.apply(patch, tmp_path)
    assert target.read_bytes() == PATCHED


@pytest.mark.parametrize(
    "content",
    [PATCHED, b"zero\r\n" + ORIGINAL, ORIGINAL.replace(b"\r\n", b"\n"), b""],
    ids=["patched already", "shifted", "other line ends", "empty"],
)
def test_a_patch_is_refused_where_it_does_not_belong(
    tmp_path: Path, patch: Patch, target: Path, content: bytes
) -> None:
    target.write_bytes(content)
    with pytest.raises(DevmailError) as caught:
        rainloop.apply(patch, tmp_path)
    assert f"{target} is not the file of RainLoop 1.17.0 that it is made for" in str(caught.value)
    assert "start from the unchanged release https://github.com/RainLoop/" in str(caught.value)
    assert target.read_bytes() == content


def test_a_result_that_is_not_the_expected_one_is_refused(
    tmp_path: Path, patch: Patch, target: Path
) -> None:
    other = Patch(patch.name, patch.target, patch.before, checksum(b"something else"))
    with pytest.raises(DevmailError, match="the patched file is not what it should be"):
        rainloop.apply(other, tmp_path)
    assert target.exists()


@pytest.mark.usefixtures("patch")
def test_the_release_is_installed_from_an_archive(tmp_path: Path) -> None:
    archive = tmp_path / "release.zip"
    with zipfile.ZipFile(archive, "w") as release:
        release.writestr("app/file.php", ORIGINAL)
        release.writestr("index.php", "<?php")
    directory = tmp_path / "below" / "rainloop"
    assert not rainloop.is_installed(directory)
    rainloop.install(directory, archive, checksum(archive.read_bytes()))
    assert rainloop.is_installed(directory)
    assert (directory / "app/file.php").read_bytes() == PATCHED
    assert [path.name for path in directory.parent.iterdir()] == ["rainloop"]

    # Once more, over what somebody has changed.
    (directory / "app/file.php").write_bytes(b"changed")
    (directory / "added.php").write_bytes(b"added")
    assert not rainloop.is_installed(directory)
    rainloop.install(directory, archive, checksum(archive.read_bytes()))
    assert rainloop.is_installed(directory)
    assert not (directory / "added.php").exists()


@pytest.mark.usefixtures("patch")
def test_another_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "release.zip"
    archive.write_bytes(b"anything")
    with pytest.raises(DevmailError) as caught:
        rainloop.install(tmp_path / "rainloop", archive)
    text = str(caught.value)
    assert f"its SHA-256 is {checksum(b'anything')}, not {rainloop.SHA256}" in text
    assert "use Debian's webmail: --webmail roundcube" in text
    assert not (tmp_path / "rainloop").exists()

    with pytest.raises(DevmailError, match="cannot be read: No such file or directory"):
        rainloop.install(tmp_path / "rainloop", tmp_path / "absent.zip")


def test_a_release_that_cannot_be_downloaded_names_the_alternative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Port 1 (tcpmux) of this machine, where nobody listens.
    monkeypatch.setattr(rainloop, "URL", "http://127.0.0.1:1/release.zip")
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DevmailError) as caught:
        rainloop.download(tmp_path / "release.zip")
    assert "cannot be downloaded: [Errno 111] Connection refused" in str(caught.value)
    assert "--webmail roundcube" in str(caught.value)


def test_the_patches_hold_nothing_but_our_own_added_lines() -> None:
    assert {patch.name for patch in rainloop.PATCHES} == {
        path.name for path in PATCHES.glob("*.patch")
    }
    for patch in rainloop.PATCHES:
        header, _, body = (PATCHES / patch.name).read_text().partition("\n--- a/")
        assert header.startswith(f"RainLoop {rainloop.VERSION}: ")
        assert "\nWhy: " in header
        assert "\nSee it work: " in header
        names, *lines = body.splitlines()[0], *body.splitlines()[1:]
        assert names == patch.target
        assert lines[0] == f"+++ b/{patch.target}"
        for line in lines[1:]:
            assert re.fullmatch(r"\+.*|@@ -\d+,0 \+\d+,\d+ @@", line), line


def prepared(data: Path) -> str:
    rainloop.prepare(data, b"[webmail]\n")
    return (data / "SALT.php").read_text()


def test_the_first_start_finds_all_that_rainloop_would_ask_for(tmp_path: Path) -> None:
    salt = prepared(tmp_path)
    assert re.fullmatch(r"<\?php //[0-9a-f]{96}", salt)
    assert (tmp_path / "SALT.php").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "INSTALLED").read_text() == (tmp_path / "VERSION").read_text() == "1.17.0"
    own = tmp_path / "_data_/_default_"
    assert (own / "configs/application.ini").read_text() == "[webmail]\n"
    assert (own / "domains/disabled").read_text() == ""
    assert prepared(tmp_path) == salt
    assert prepared(tmp_path / "other") != salt


def test_a_volume_keeps_its_data_and_loses_what_is_stale_or_known_to_everyone(
    tmp_path: Path,
) -> None:
    own = tmp_path / "_data_/_default_"
    (own / "cache").mkdir(parents=True)
    (own / "cache/wildcards").write_text("stale")
    (own / "storage").mkdir()
    (own / "storage/settings").write_text("kept")
    (own / "configs").mkdir()
    (own / "configs/application.ini").write_text("allow_admin_panel = On\n")
    published = "<?php //0569f4085c33" + "0" * 84
    (tmp_path / "SALT.php").write_text(published)
    assert prepared(tmp_path) != published
    assert not (own / "cache/wildcards").exists()
    assert (own / "storage/settings").read_text() == "kept"
    assert (own / "configs/application.ini").read_text() == "[webmail]\n"

    mine = "<?php //" + "ab" * 48
    (tmp_path / "SALT.php").write_text(mine)
    assert prepared(tmp_path) == mine
    for empty in ("", "<?php //", "<?php //\n"):
        (tmp_path / "SALT.php").write_text(empty)
        assert len(prepared(tmp_path)) == 104
