"""Waiting for conditions. Nothing in the tests sleeps for a fixed time and hopes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    condition: Callable[[], T], what: str, timeout: float = 15.0, interval: float = 0.02
) -> T:
    """Call ``condition`` until its result is true, and give it; fail after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout:g} s (last result: {result!r})")
        time.sleep(interval)
