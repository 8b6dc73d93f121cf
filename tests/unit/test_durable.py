"""Files that a power cut leaves whole, or as they were."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from devmail_config import durable


def test_a_file_is_made_and_replaced_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "key"
    before = os.umask(0o077)
    try:
        for content, mode in ((b"one", 0o600), (b"two", 0o644)):
            durable.write(path, content, mode)
            assert path.read_bytes() == content
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["write", "sync", "replace"])
def test_whatever_step_fails_the_file_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "key"
    durable.write(path, b"one", 0o600)

    def fail(*_: object) -> None:
        raise OSError("cut")

    with monkeypatch.context() as cut:
        names = {"write": (os, "fchmod"), "sync": (os, "fsync"), "replace": (Path, "replace")}
        cut.setattr(*names[step], fail)
        with pytest.raises(OSError, match="cut"):
            durable.write(path, b"two", 0o600)
    assert path.read_bytes() == b"one"
    # What is left over is in nobody's way.
    durable.write(path, b"three", 0o600)
    assert path.read_bytes() == b"three"


def test_the_content_is_on_the_disk_before_the_name_and_then_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    replace = Path.replace

    def sync(descriptor: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        size = os.fstat(descriptor).st_size
        steps.append("directory" if is_directory else f"{size} octets")

    def note(path: Path, target: Path) -> Path:
        steps.append("name")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", note)
    durable.write(tmp_path / "key", b"content", 0o600)
    assert steps == ["7 octets", "name", "directory"]


def test_a_link_in_the_place_of_the_new_file_leads_nowhere(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("theirs")
    (tmp_path / "key.new").symlink_to(other)
    durable.write(tmp_path / "key", b"ours", 0o600)
    assert other.read_text() == "theirs"
    assert not (tmp_path / "key").is_symlink()
