"""Tiers: a test that lacks what its tier needs is skipped with one line that says what.

Where nothing may be missing, ``REQUIRE_EVERY_TIER=1`` turns such a skip into a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from devmail_config import surroundings, webmail
from devmail_config.surroundings import Machine
from tests.helpers.container import engine_answers
from tests.helpers.server import ROOT, Server, state_directory

_TIERS = ("unit", "daemons", "container", "browser", "torture")


def _missing_for(tier: str) -> str | None:
    """Say in one line what the tests of a tier lack on this machine, or None."""
    if tier in {"daemons", "browser", "torture"}:
        needed = surroundings.packages(ROOT / "debian-packages.txt")
        if tier != "daemons":
            needed += webmail.packages("roundcube")
        if tier == "browser":
            needed += ["chromium", "libnss3-tools"]
        if missing := surroundings.missing_packages(needed, Machine()):
            return f"Debian packages are missing: {' '.join(missing)}"
        if os.geteuid() != 0:
            return "the real daemons need root"
    if tier == "container" and not engine_answers():
        return "no Docker engine answers"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its tier, which is the folder that it is in."""
    reasons = {tier: _missing_for(tier) for tier in _TIERS}
    for item in items:
        tier = Path(item.path).relative_to(ROOT / "tests").parts[0]
        if tier != "unit":
            item.add_marker(tier)
        if reason := reasons[tier]:
            item.add_marker(pytest.mark.skip(reason=f"{tier} tests: {reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a skip as a failure where every tier has to run."""
    report = yield
    if report.skipped and os.environ.get("REQUIRE_EVERY_TIER") == "1":
        report.outcome = "failed"
    return report


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server with the default settings, for all tests that do not harm it."""
    with Server() as running:
        yield running


@pytest.fixture
def own_directory() -> Iterator[Path]:
    """A directory that the daemons' users can enter, unlike pytest's."""
    path = state_directory()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def mounted(own_directory: Path) -> Iterator[Callable[[str], Path]]:
    """Mount file systems with options of tmpfs, each elsewhere."""
    places: list[Path] = []

    def mount(options: str) -> Path:
        place = own_directory / f"mounted{len(places)}"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=True)
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", place], check=True)
