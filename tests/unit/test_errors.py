"""How problems are put into words."""

from __future__ import annotations

import pytest

from devmail_config.errors import DevmailError, Problem

ONE = Problem("DEVMAIL_X='1' (environment)", "too small", "give 2")
OTHER = Problem("the disk", "full", "make room")
ONE_TEXT = "  DEVMAIL_X='1' (environment): too small\n    -> give 2"
OTHER_TEXT = "  the disk: full\n    -> make room"


@pytest.mark.parametrize(
    ("problems", "text"),
    [
        ([ONE], f"1 problem:\n{ONE_TEXT}"),
        ([ONE, OTHER], f"2 problems:\n{ONE_TEXT}\n{OTHER_TEXT}"),
    ],
)
def test_every_problem_is_told_with_its_remedy(problems: list[Problem], text: str) -> None:
    error = DevmailError(problem for problem in problems)
    assert str(error) == text
    assert error.problems == tuple(problems)
