"""Ports whose connections are broken on demand: the number says what is wrong with each.

Each stands in front of an ordinary port: 3993 is 993 with a certificate from an unknown CA. They
exist only where the setting ``fault_ports`` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from devmail_config.services import LISTENERS, Listener
from devmail_config.settings import Settings


@dataclass(frozen=True)
class Breakage:
    """One thing that can be wrong with a connection; ``added`` to a port gives the fault port."""

    name: str
    added: int
    # Whether it is in front of the ports with TLS from the start; else of the mail ports without.
    of_tls: bool
    # Who does it: nginx with one of the faulty certificates or by a directive, or our own program.
    by: str


BREAKAGES = (
    Breakage("expired", 1000, of_tls=True, by="certificate"),
    Breakage("wrong-name", 2000, of_tls=True, by="certificate"),
    Breakage("unknown-ca", 3000, of_tls=True, by="certificate"),
    Breakage("old-tls", 4000, of_tls=True, by="nginx"),
    Breakage("slow", 5000, of_tls=False, by="nginx"),
    Breakage("refuse", 6000, of_tls=False, by="nginx"),
    Breakage("idle", 7000, of_tls=False, by="nginx"),
    Breakage("bare", 8000, of_tls=False, by="program"),
    Breakage("cut", 9000, of_tls=False, by="program"),
)


@dataclass(frozen=True)
class FaultPort:
    """A broken port in front of ``listener``; ``port`` is without the offset, as there."""

    breakage: Breakage
    listener: Listener

    @property
    def name(self) -> str:
        """The listener's name, and what is wrong."""
        return f"{self.listener.name}, {self.breakage.name}"

    @property
    def port(self) -> int:
        """The number, without the offset."""
        return self.listener.port + self.breakage.added


def fault_ports(settings: Settings) -> tuple[FaultPort, ...]:
    """List the broken ports of a server."""
    return tuple(_all()) if settings.fault_ports else ()


def _all() -> Iterator[FaultPort]:
    for breakage in BREAKAGES:
        for listener in LISTENERS:
            is_tls = listener.tls == "implicit"
            if is_tls if breakage.of_tls else listener.tls == "starttls":
                yield FaultPort(breakage, listener)
