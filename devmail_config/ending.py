"""An end on request, from the first moment of a process on; import it before anything else.

Process 1 of a container gets no signal that it has no handler for, so that ``docker stop`` would
wait for ten seconds, and then kill. Later on, the supervisor has handlers.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

# What ends a start before the supervisor has begun: from outside, or by Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def listen() -> None:
    """End with the status that a shell gives to a process that the signal has ended."""
    for number in SIGNALS:
        signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
