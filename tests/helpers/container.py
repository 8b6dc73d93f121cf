"""Containers of the image under test, published on the loopback address."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import urllib.request
import uuid
from pathlib import Path
from typing import Any, Self

from devmail_config.health import examine
from devmail_config.services import LISTENERS
from devmail_config.settings import load
from devmail_config.tls import TlsFiles
from tests.helpers.server import ROOT, free_offset
from tests.helpers.wait import wait_for

IMAGE = "devmail"
LOOPBACK = "127.0.0.1"


def build_image() -> str:
    """Build the image by the command that users build it with; give what it prints at its end."""
    done = subprocess.run(
        [ROOT / "tools" / "docker", "image"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def docker(*arguments: str, stdin: str | None = None) -> str:
    """Run a docker command that has to work, and give what it prints."""
    done = subprocess.run(
        ["docker", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def unique(name: str) -> str:
    return f"dm-{name}-{uuid.uuid4().hex[:8]}"


def listener_ports() -> dict[str, int]:
    return {listener.name: listener.port for listener in LISTENERS}


def published_addresses(container: str) -> dict[int, set[str]]:
    """Give the addresses of this machine at which the engine has each port of a container."""
    inspected = docker("inspect", "--format={{json .NetworkSettings.Ports}}", container)
    return {
        int(port.removesuffix("/tcp")): {one["HostIp"] for one in bindings or ()}
        for port, bindings in json.loads(inspected).items()
    }


def address_of_the_machine() -> str:
    """Give one that is not of the loopback network: others have such addresses to reach it at."""
    return docker("network", "inspect", "--format={{(index .IPAM.Config 0).Gateway}}", "bridge")


def greets(address: str) -> bool:
    """Tell whether the server's SMTP is behind port 25 of an address."""
    try:
        with socket.create_connection((address, 25), timeout=5) as connection:
            return connection.recv(4) == b"220 "
    except (ConnectionRefusedError, ConnectionResetError):
        return False


class Published:
    """A server whose ports are on the loopback address, each with the same number added."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def port(self, listener: str) -> int:
        return listener_ports()[listener] + self.offset

    def download_ca(self) -> bytes:
        url = f"http://{LOOPBACK}:{self.port('http')}/ca.crt"
        with urllib.request.urlopen(url, timeout=5) as response:
            content: bytes = response.read()
        return content

    def faults(self, ca: bytes) -> list[str]:
        """Log in to every port from here, all TLS verified with ``ca``; say what does not work."""
        settings, _ = load({"DEVMAIL_PORT_OFFSET": str(self.offset)})
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(ca)
            file.flush()
            files = TlsFiles(Path(), Path(), Path(file.name), made_here=False)
            verdicts = list(examine(settings, files, (LOOPBACK,)))
        assert len(verdicts) == len(LISTENERS)
        return [str(verdict) for verdict in verdicts if verdict.fault]

    def works(self) -> bool:
        try:
            return self.faults(self.download_ca()) == []
        except OSError:
            return False


class Container(Published):
    """A container started with ``docker run``. As a context manager it is removed at the end."""

    def __init__(self, *options: str) -> None:
        super().__init__(free_offset())
        self.options = options
        self.name = unique("run")

    def __enter__(self) -> Self:
        ports = [
            f"--publish={LOOPBACK}:{port + self.offset}:{port}"
            for port in listener_ports().values()
        ]
        docker("run", "--detach", "--name", self.name, *ports, *self.options, IMAGE)
        try:
            self.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        docker("rm", "--force", "--volumes", self.name)

    def wait(self) -> None:
        """Wait until every port works as seen from here."""

        def works() -> bool:
            assert self.state["Running"], f"the container ended:\n{self.log()}"
            return self.works()

        wait_for(works, "the container to work", timeout=30, interval=0.1)

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(docker("inspect", "--format={{json .State}}", self.name))
        return state

    def queue(self, *arguments: str) -> str:
        return self.execute("devmail", "queue", *arguments)

    def execute(self, *command: str) -> str:
        return docker("exec", self.name, *command)

    def attempt(self, *command: str) -> bool:
        """Run a command in the container that may fail, for example because there is none."""
        command = ("docker", "exec", self.name, *command)
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0

    def log(self) -> str:
        done = subprocess.run(
            ["docker", "logs", self.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=60,
            check=True,
        )
        return done.stdout


def failed_run(*arguments: str) -> tuple[int, str]:
    """Run a container that is expected to end by itself; give its status and what it says."""
    done = subprocess.run(
        ["docker", "run", "--rm", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def engine_answers() -> bool:
    """Tell whether there is a Docker engine; some clients exit with 0 although there is none."""
    try:
        done = subprocess.run(
            ["docker", "version", "--format={{.Server.Version}}"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0 and bool(done.stdout.strip())
