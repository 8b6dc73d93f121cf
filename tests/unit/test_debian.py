"""What depends on the release of Debian stands in one place, and what cannot be there agrees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from devmail_config import debian
from tests.helpers.server import ROOT

# Names of a release or of a version of PHP, as text or as a quoted number.
NAMES = re.compile(
    r"Debian (?:GNU/Linux )?\d+|\b(?:bookworm|trixie|forky)\b"
    r"|php(?:-fpm)?-?\d|(?<![\d.])8\.[2-5](?![\d.])|(?<=[\"'])1[2-4](?=[\"'])"
)
FILES = sorted(
    path
    for folder in ("devmail_config", "templates")
    for path in (ROOT / folder).rglob("*")
    # Pictures are full of numbers.
    if path.suffix in {".py", ".j2"} and ".svg" not in path.suffixes
)
LISTS = sorted(ROOT.glob("debian-packages*.txt"))


def found(path: Path) -> list[str]:
    return NAMES.findall(path.read_text(encoding="utf-8"))


def test_one_module_alone_names_the_release() -> None:
    assert len(FILES) > 80
    names = {str(path.relative_to(ROOT)): found(path) for path in FILES}
    assert {path for path, some in names.items() if some} == {"devmail_config/debian.py"}
    # It is found there in every form that it has there.
    assert sorted(names["devmail_config/debian.py"]) == ["12", "8.2", "bookworm"]


@pytest.mark.parametrize(
    "text",
    [
        *("on Debian 12", "Debian GNU/Linux 13", "php8.2-fpm", "/usr/sbin/php-fpm8.2", "php-8.4"),
        *("trixie", 'VERSION = "13"', "PHP 8.4 has it"),
    ],
)
def test_a_name_in_another_place_would_be_seen(text: str) -> None:
    assert NAMES.search(text)


@pytest.mark.parametrize(
    "text", ["Dovecot 2.3", "cryptography 38", "127.0.0.1", "12 seconds", "php-fpm.conf", "7.8.2.1"]
)
def test_what_is_no_such_name_is_left_alone(text: str) -> None:
    assert not NAMES.search(text)


def test_the_package_lists_are_of_that_release() -> None:
    text = "".join(path.read_text() for path in LISTS)
    assert set(re.findall(r"Debian (\d+)", text)) == {debian.RELEASE}
    assert set(re.findall(r"^php([\d.]+)-", text, re.MULTILINE)) == {debian.PHP_VERSION}
    for name in ("rainloop", "roundcube"):
        assert f"\n{debian.PHP_FPM_PACKAGE}\n" in (ROOT / f"debian-packages-{name}.txt").read_text(
            encoding="utf-8"
        )


def test_the_image_and_the_engine_for_the_tests_are_of_that_release() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"Debian (\d+)", dockerfile)) == {debian.RELEASE}
    base = f"debian:{debian.CODENAME}-slim"
    assert f"\nFROM {base}\n" in dockerfile
    assert f'image.base.name="docker.io/library/{base}"' in dockerfile
    engine = (ROOT / ".ci" / "engine").read_text(encoding="utf-8")
    assert f"\nreadonly image={base}\nreadonly suite={debian.CODENAME}\n" in engine
