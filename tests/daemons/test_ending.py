"""A server that is told to end before it has begun."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from devmail_config import ending
from tests.helpers.server import Server
from tests.helpers.wait import wait_for

# Seconds; a start takes about one.
MOMENTS = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5)


def listens(server: Server) -> bool:
    """Tell whether it has handlers for what ends it, or has blocked that for now (proc(5))."""
    assert server.process
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    masks = re.findall(r"^Sig(?:Cgt|Blk):\s+(\w+)", status, re.MULTILINE)
    # Python itself handles INT, by an exception; TERM it does not.
    handled = int(masks[0], 16) | int(masks[1], 16)
    return all(handled >> (one - 1) & 1 for one in ending.SIGNALS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_server_that_is_told_to_end_in_its_start_does_so(
    own_directory: Path, number: signal.Signals
) -> None:
    server = Server(own_directory)
    statuses = set()
    for moment in MOMENTS:
        server.spawn()
        wait_for(lambda: listens(server), "the first line", interval=0.001)
        # At any moment of a start: no condition to wait for.
        time.sleep(moment)
        assert server.process
        server.process.send_signal(number)
        statuses.add(server.process.wait(timeout=8))
        wait_for(lambda: not server.processes(), "every process to be gone")
    # The status says which signal it was, unless the supervisor has begun, and ended, the daemons.
    assert 128 + number in statuses
    assert statuses <= {128 + number, 0}
    assert "Traceback" not in server.log()
    server.start()
    assert server.stop() == 0
