#!/usr/bin/env python3
"""How long a container takes from its start until every port has answered.

    bench/container_start.py [--runs N]

A port has answered when the first bytes of its protocol are there: a greeting, or after a TLS
handshake the greeting inside of it, or the page. The clock starts when the engine says that it
started the container (State.StartedAt), as in the measurement of hidiv/dev-email-server.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from devmail_config.services import LISTENERS, Listener

IMAGE = "devmail"
# Seconds, of the seed's image on 2 cores.
SEED = 2.4
LOOPBACK = "127.0.0.1"
GIVE_UP = 60.0
# The certificate is not what is measured, and at this point nobody knows its CA yet.
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TLS.check_hostname = False
TLS.verify_mode = ssl.CERT_NONE


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def has_answered(listener: Listener, port: int) -> bool:
    try:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection((LOOPBACK, port), 5))
            if listener.tls == "implicit":
                connection = stack.enter_context(TLS.wrap_socket(connection))
            if listener.protocol == "HTTP":
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            # The engine takes connections before the server does, and closes them again.
            return bool(connection.recv(1))
    except OSError:
        return False


def start(volumes: Sequence[str]) -> tuple[float, float]:
    """Start a container; give the seconds since its start, and since the command, until ready."""
    called = time.time()
    ports = [f"--publish={LOOPBACK}::{listener.port}" for listener in LISTENERS]
    name = docker("run", "--detach", *ports, *volumes, IMAGE)
    try:
        published = {
            listener: int(docker("port", name, str(listener.port)).rpartition(":")[2])
            for listener in LISTENERS
        }
        waiting = set(LISTENERS)
        while waiting and time.time() < called + GIVE_UP:
            waiting -= {one for one in waiting if has_answered(one, published[one])}
            time.sleep(0.005)
        ready = time.time()
        if waiting:
            sys.exit(f"these did not answer: {', '.join(one.name for one in waiting)}")
        started = docker("inspect", "--format={{.State.StartedAt}}", name)
    finally:
        docker("rm", "--force", "--volumes", name)
    # Docker writes nanoseconds, of which Python reads six digits.
    moment = datetime.fromisoformat(started[:26].rstrip("Z")).replace(tzinfo=UTC)
    return ready - moment.timestamp(), ready - called


def report(title: str, runs: list[tuple[float, float]]) -> None:
    since_start, since_command = zip(*runs, strict=True)
    print(
        f"{title:<28}{statistics.median(since_start):.2f} s "
        f"({min(since_start):.2f}-{max(since_start):.2f}), "
        f"from the call of docker run {statistics.median(since_command):.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="how often (default: 5)")
    runs = parser.parse_args().runs
    print(f"container start to all {len(LISTENERS)} ports answering, median of {runs} (range)")
    report("first start, makes its CA", [start([]) for _ in range(runs)])
    volume = docker("volume", "create")
    try:
        mount = [f"--volume={volume}:/var/lib/devmail"]
        start(mount)
        report("start with its volume", [start(mount) for _ in range(runs)])
    finally:
        docker("volume", "rm", volume)
    print(f"{'hidiv/dev-email-server':<28}{SEED:.2f} s, as measured before on 2 cores")


if __name__ == "__main__":
    main()
