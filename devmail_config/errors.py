"""How devmail tells a person that something is wrong.

A check never raises at the first fault. It returns every ``Problem`` it found, the command line
adds them up, and one ``DevmailError`` ends the program before any daemon has started.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass

from devmail_config.printable import printable


@dataclass(frozen=True)
class Problem:
    """One thing that keeps the server from starting.

    ``subject`` names what is wrong and where it was set, ``fault`` says why, ``remedy`` says what
    to do about it, if possible as something that can be typed.
    """

    subject: str
    fault: str
    remedy: str

    def with_text_replaced(self, old: str, new: str) -> Problem:
        """Give the same problem with ``new`` wherever it says ``old``."""
        return Problem(*(part.replace(old, new) for part in astuple(self)))

    def __str__(self) -> str:
        # What is wrong is repeated here, whatever it contains.
        subject, fault, remedy = map(printable, (self.subject, self.fault, self.remedy))
        return f"{subject}: {fault}\n    -> {remedy}"


class DevmailError(Exception):
    """Ends the program with status 1 and a message for a person, never with a traceback."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Keep ``problems``, of which there is at least one."""
        self.problems = tuple(problems)
        super().__init__(str(self))

    def __str__(self) -> str:
        count = len(self.problems)
        title = "1 problem" if count == 1 else f"{count} problems"
        listing = "\n".join(f"  {problem}" for problem in self.problems)
        return f"{title}:\n{listing}"
