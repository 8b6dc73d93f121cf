"""SIGKILL, natively: of every kind of process, and of all at once, in the start as well."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers.ledger import Row, mail_flows
from tests.helpers.load import Load, mixed
from tests.helpers.server import Server
from tests.helpers.victims import Killer
from tests.helpers.visits import Visits
from tests.helpers.wait import wait_for

SETTINGS = {"webmail": "roundcube", "bounce_after": "30s"}
# All that is known to be there under this load, for a moment at least. The supervisor itself is
# another matter, see tests/daemons/test_native.py.
KINDS = {
    *("devmail checkpassword", "devmail deliver", "devmail fault_policy", "devmail page"),
    *("devmail policy", "dovecot", "dovecot anvil", "dovecot auth", "dovecot config"),
    *("dovecot dovecot-lda", "dovecot imap", "dovecot imap-login", "dovecot lmtp", "dovecot log"),
    *("dovecot pop3", "dovecot pop3-login", "dovecot stats", "mawk", "nginx master"),
    *("nginx worker", "php-fpm master", "php-fpm worker", "postfix bounce", "postfix cleanup"),
    *("postfix error", "postfix lmtp", "postfix master", "postfix pickup", "postfix pipe"),
    *("postfix postlogd", "postfix qmgr", "postfix scache", "postfix smtpd", "postfix spawn"),
    *("postfix tlsmgr", "postfix trivial-rewrite", "s6-ipcserverd", "s6-supervise", "perl"),
}


def works(server: Server) -> bool:
    return mail_flows(server) and server.is_healthy()


def test_a_process_of_any_kind_is_killed(
    own_directory: Path, chance: random.Random, rounds: int, row: Callable[[str], Row]
) -> None:
    killed = row(f"SIGKILL of one process, of {len(KINDS)} kinds")
    for _ in range(rounds):
        with Server(own_directory, **SETTINGS) as server:
            with Load(server, mixed, pause=0.15) as load, Visits(server):
                killer = Killer(server, chance)
                while left := KINDS - killer.struck:
                    what = f"one of {sorted(left)}"
                    kind = str(wait_for(killer.strike, what, timeout=30, interval=0.001))
                    killed.struck(lambda: works(server), kind)
            killed.settle(load, server)


def test_everything_is_killed(
    own_directory: Path, chance: random.Random, rounds: int, row: Callable[[str], Row]
) -> None:
    """Every second time, the start after it as well, at any moment."""
    killed, killed_again = (
        row("SIGKILL of all processes"),
        row("the same, and in the start after it"),
    )
    with Server(own_directory, **SETTINGS) as server:
        for round_ in range(4 * rounds):
            current = killed_again if round_ % 2 else killed
            with Load(server, mixed, pause=0.02) as load:
                load.wait_for(chance.randrange(100, 300))
                load.ease()
                server.kill_all()
                if current is killed_again:
                    server.spawn()
                    # At any moment of a start: no condition to wait for.
                    time.sleep(chance.uniform(0, 1.5))
                    server.kill_all()
                server.spawn()
                current.struck(lambda: works(server))
            current.settle(load, server)
