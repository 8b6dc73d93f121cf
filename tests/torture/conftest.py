"""Faults injected under load; what became of the mail is printed as a table at the end.

``TORTURE_ROUNDS`` says how often each fault is injected, ``TORTURE_SEED`` which moments and which
order chance chooses.
"""

from __future__ import annotations

import os
import platform
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.container import build_image, engine_answers
from tests.helpers.disk import Disk, lacks_disks
from tests.helpers.ledger import Row, table

_ROUNDS = int(os.environ.get("TORTURE_ROUNDS", "1"))
_SEED = os.environ.get("TORTURE_SEED", "1")
_TABLE = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session")
def rounds() -> int:
    return _ROUNDS


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Give the same numbers in every run with this seed, whichever tests are run."""
    return random.Random(f"{_SEED} {request.node.name}")  # noqa: S311 (no secrets)


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Row]]:
    """Make a row of the table, which has to have lost nothing in the end."""
    table = request.config.stash.setdefault(_TABLE, [])
    made: list[Row] = []

    def make(fault: str) -> Row:
        made.append(Row(fault))
        return made[-1]

    yield make
    table += made


@pytest.fixture
def disk(own_directory: Path) -> Iterator[Disk]:
    """A disk that can lose its power."""
    if reason := lacks_disks():
        pytest.skip(f"torture tests: {reason}")
    with Disk(own_directory) as one:
        yield one


@pytest.fixture(scope="session")
def image() -> None:
    """The image as it is now."""
    if not engine_answers():
        pytest.skip("torture tests: no Docker engine answers")
    build_image()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table."""
    rows = config.stash.get(_TABLE, [])
    if not rows:
        return
    terminalreporter.section("torture")
    terminalreporter.line(
        f"seed {_SEED}, rounds {_ROUNDS}, Linux {platform.release()}, "
        f"{os.cpu_count()} processors, load {os.getloadavg()[1]:.1f}"
    )
    for line in table(rows):
        terminalreporter.line(line)
