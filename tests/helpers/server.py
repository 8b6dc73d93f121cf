"""A real server, started natively on high ports with a private state directory."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from devmail_config import tls
from devmail_config.fault_ports import fault_ports
from devmail_config.health import examine
from devmail_config.layout import Layout
from devmail_config.services import LISTENERS
from devmail_config.settings import Settings, load
from devmail_config.surroundings import available_addresses
from tests.helpers.wait import wait_for

DEVMAIL = (sys.executable, "-m", "devmail_config")
ROOT = Path(__file__).parent.parent.parent
HOSTNAME = "mail.localhost"


def free_offset() -> int:
    """Find a port offset at which every port is free.

    At random, so that test runs side by side do not choose the same, and below the ports that the
    kernel gives to clients (ip(7): ip_local_port_range).
    """
    for offset in random.sample(range(20000, 31000), 100):
        if all(is_free(listener.port + offset) for listener in LISTENERS):
            return offset
    raise AssertionError("no free range of ports")


def free_offset_with_fault_ports() -> int:
    """Find one at which the fault ports are free, too, and below those of clients as well."""
    broken = fault_ports(Settings(fault_ports=True))
    ports = [*(one.port for one in LISTENERS), *(one.port for one in broken)]
    for offset in random.sample(range(10000, 20000), 100):
        if all(is_free(port + offset) for port in ports):
            return offset
    raise AssertionError("no free range of ports")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def state_directory() -> Path:
    """Make a directory that the daemons' users can enter, with a short name for its sockets."""
    path = Path(tempfile.mkdtemp(prefix="dm-", dir="/tmp"))
    path.chmod(0o755)
    return path


class Server:
    """A running server. Use it as a context manager; it removes its state at the end."""

    def __init__(self, state: Path | None = None, **settings: str) -> None:
        self.state = state or state_directory()
        self._owns_state = state is None
        offset = settings.pop("port_offset", None)
        self.offset = free_offset() if offset is None else int(offset)
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            self.stop()
        if self._owns_state:
            shutil.rmtree(self.state, ignore_errors=True)

    @property
    def environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "DEVMAIL_STATE_DIR": str(self.state),
            "DEVMAIL_PORT_OFFSET": str(self.offset),
            **{f"DEVMAIL_{name.upper()}": value for name, value in self.settings.items()},
        }

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the program with this server's settings."""
        return run_devmail(arguments, self.environ)

    def spawn(self) -> None:
        """Start the program, and do not wait for it."""
        with (self.state / "test.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*DEVMAIL, "run"],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> None:
        """Start the server, and wait until every service works."""
        self.spawn()
        wait_for(self.is_healthy, "the server to be healthy", timeout=30)

    def is_healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the server ended:\n{self.log()}"
        settings, problems = load(self.environ)
        assert not problems
        files = tls.planned(settings, Layout.of(settings, self.state))
        addresses = available_addresses(settings)
        return bool(files.ca_pem) and all(
            verdict.fault is None for verdict in examine(settings, files, addresses)
        )

    def queue(self, *arguments: str) -> str:
        return self.command("queue", *arguments).stdout

    def stop(self) -> int:
        """Ask the server to end, and give its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def kill_all(self) -> None:
        """End every process of the server at once, as a power cut would."""
        assert self.process is not None
        kill(self.process.pid)
        self.process.wait()

        def is_gone() -> bool:
            # What a supervisor starts again before it is killed itself has to go, too.
            victims = self.processes()
            for process in victims:
                kill(process)
            return not victims

        wait_for(is_gone, "every process to be gone")

    def processes(self, name: str = "") -> list[int]:
        """List the processes that belong to this server, the supervisor left out."""
        found = []
        supervisor = self.process.pid if self.process else 0
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                fields = (directory / "stat").read_text()
                command = (directory / "comm").read_text().strip()
            except OSError:
                continue
            process = int(directory.name)
            state = fields.rpartition(")")[2].split()[0]
            if process != supervisor and state != "Z" and name in command and self.is_ours(process):
                found.append(process)
        return found

    def is_ours(self, process: int) -> bool:
        """Tell whether the state directory is in a process's command line or working directory."""
        directory = Path("/proc") / str(process)
        try:
            words = (directory / "cmdline").read_bytes() + os.fsencode(
                (directory / "cwd").readlink()
            )
        except OSError:
            return False
        if bytes(self.state) in words:
            return True
        try:
            parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
        return parent > 1 and self.is_ours(parent)

    def port(self, listener: str) -> int:
        return next(one.port for one in LISTENERS if one.name == listener) + self.offset

    def log(self) -> str:
        return (self.state / "test.log").read_text(errors="replace")

    @property
    def ca(self) -> Path:
        return Path(self.settings.get("tls_ca_path", self.state / "tls" / "ca.cert.pem"))

    @property
    def mail(self) -> Path:
        return self.state / "mail"

    def tls_context(self) -> ssl.SSLContext:
        """A client's context that trusts this server's CA and nothing else."""
        return ssl.create_default_context(cafile=str(self.ca))


def kill(process: int) -> None:
    """Kill a process that may already be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def run_devmail(
    arguments: Sequence[str], environ: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [*DEVMAIL, *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
