"""Reloads under load: nothing is lost, and nobody who is connected notices."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers.clients import imap, pop3, smtp
from tests.helpers.ledger import Row, mail_flows
from tests.helpers.load import Load, mixed
from tests.helpers.server import Server

RULES = ("x{}@three.example: reject", "login:x{}@three.example: auth-535")


def test_the_configuration_is_read_again(
    own_directory: Path, chance: random.Random, rounds: int, row: Callable[[str], Row]
) -> None:
    reloads = row("reload")
    config = own_directory / "devmail.yaml"
    config.write_text("")
    with Server(own_directory, config=str(config), bounce_after="30s") as server:
        with Load(server, mixed, pause=0.1) as load, contextlib.ExitStack() as held:
            reader = held.enter_context(imap(server, "reader@one.example"))
            reader.select()
            fetcher = held.enter_context(pop3(server, "fetcher@one.example"))
            sender = held.enter_context(smtp(server, "sender@one.example"))
            end = time.monotonic()
            for number in range(10 * rounds):
                load.wait_for(chance.randrange(1, 30))
                # The one tells Postfix alone, the other Dovecot as well.
                config.write_text(f"faults:\n  {RULES[number % 2].format(number)}\n")
                assert server.command("reload").returncode == 0
                reloads.struck(lambda: mail_flows(server))
                end = time.monotonic() + 8
            # Dovecot's processes, by default, end 6 s after they were told to.
            while time.monotonic() < end:
                load.wait_for(5)
                assert reader.noop()[0] == "OK"
                assert fetcher.noop().startswith(b"+OK")
                assert sender.noop()[0] == 250
        reloads.settle(load, server)
