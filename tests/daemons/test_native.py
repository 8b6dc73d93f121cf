"""The server as it is used without a container: `up`, `logs`, `down`, and what the README says."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devmail_config.services import LISTENERS
from tests.helpers.clients import send, wait_for_message
from tests.helpers.namespace import Outside, in_own_network
from tests.helpers.server import DEVMAIL, ROOT, Server, kill, run_devmail
from tests.helpers.wait import wait_for


@pytest.fixture
def background(own_directory: Path) -> Iterator[Server]:
    """A server for `up` to start, which is stopped at the end in any case."""
    server = Server(own_directory / "state")
    yield server
    server.command("down")
    wait_for(lambda: not server.processes(), "every process to be gone")


def test_up_logs_and_down(background: Server) -> None:
    server = background
    up = server.command("up")
    assert (up.returncode, up.stderr) == (0, "")
    progress, table, facts = up.stdout.strip().split("\n\n")
    assert sorted(line.split()[0] for line in progress.splitlines()) == sorted(
        one.name for one in LISTENERS
    )
    assert [line.split()[:2] for line in table.splitlines()] == [
        [one.name, f"127.0.0.1:{one.port + server.offset}"] for one in LISTENERS
    ]
    assert f"http://127.0.0.1:{server.port('http')}/ and https://mail.localhost:" in facts
    assert f"CA         http://127.0.0.1:{server.port('http')}/ca.crt\n" in facts
    assert f"state      {server.state}" in facts

    send(server, "a@one.example", "b@two.example", "in the background")
    wait_for_message(server, "b@two.example", "in the background")
    assert server.command("health").returncode == 0

    again = server.command("up")
    assert again.returncode == 0
    assert again.stdout.startswith("the server is already running\n")
    assert again.stdout.strip().endswith(f"{table}\n\n{facts}")

    assert "status=sent" in follow_log_until("status=sent", server)

    down = server.command("down")
    assert down.returncode == 0
    assert down.stdout.startswith("stopped (")
    assert not server.processes()
    assert "status=sent" in follow_log_until("status=sent", server)

    down = server.command("down")
    assert (down.returncode, down.stdout) == (0, f"no server is running on {server.state}\n")


def follow_log_until(text: str, server: Server) -> str:
    """Give what `logs` shows up to a line with ``text``."""
    shown = []
    with subprocess.Popen(
        [*DEVMAIL, "logs"], env=server.environ, stdout=subprocess.PIPE, text=True
    ) as logs:
        assert logs.stdout is not None
        for line in logs.stdout:
            shown.append(line)
            if text in line:
                break
        logs.terminate()
    return "".join(shown)


def supervisor(server: Server) -> int:
    (found,) = server.processes("s6-svscan")
    return found


def test_a_server_whose_supervisor_was_killed_is_ended_by_down(background: Server) -> None:
    server = background
    assert server.command("up").returncode == 0
    kill(supervisor(server))
    # Somebody who looks at it is none of its processes.
    with subprocess.Popen(["sleep", "60"], cwd=server.state / "run" / "supervisor") as visitor:
        down = server.command("down")
        assert visitor.poll() is None
        visitor.kill()
    assert (down.returncode, down.stderr) == (0, "")
    said, stopped = down.stdout.splitlines()
    assert said.startswith("ended what a supervisor that is gone has left: ")
    assert {"dovecot", "master", "nginx", "s6-supervise"} <= set(
        said.partition(": ")[2].split(", ")
    )
    assert stopped.startswith("stopped (")
    assert not server.processes()
    down = server.command("down")
    assert (down.returncode, down.stdout) == (0, f"no server is running on {server.state}\n")


def test_a_server_whose_supervisor_was_killed_is_replaced_by_up(background: Server) -> None:
    server = background
    assert server.command("up").returncode == 0
    before = {one: server.processes(one) for one in ("s6-svscan", "master", "dovecot", "nginx")}
    kill(supervisor(server))
    up = server.command("up")
    assert (up.returncode, up.stderr) == (0, "")
    assert up.stdout.startswith("ended what a supervisor that is gone has left: ")
    for name, processes in before.items():
        now = server.processes(name)
        assert now
        assert not set(now) & set(processes)
    assert server.command("health").returncode == 0


def test_several_up_at_the_same_moment_all_come_to_the_same_server(background: Server) -> None:
    server = background
    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            done = list(pool.map(lambda _: server.command("up"), range(3)))
        assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * 3
        assert len(server.processes("s6-svscan")) == 1
        assert server.command("down").returncode == 0


def test_up_waits_for_a_server_that_is_on_its_way_down(background: Server) -> None:
    server = background
    assert server.command("up").returncode == 0
    before = supervisor(server)
    stopping = server.state / "run" / "supervisor" / "stopping"
    os.kill(before, signal.SIGTERM)
    wait_for(stopping.exists, "the stop to begin", interval=0.001)
    up = server.command("up")
    assert (up.returncode, up.stderr) == (0, "")
    assert supervisor(server) != before
    assert server.command("health").returncode == 0


def test_up_with_a_taken_port_says_so_itself(background: Server) -> None:
    port = background.port("imap")
    with socket.create_server(("127.0.0.1", port)):
        up = background.command("up")
    assert (up.returncode, up.stdout) == (1, "")
    assert up.stderr == (
        "devmail: 1 problem:\n"
        f"  DEVMAIL_PORT_OFFSET='{background.offset}' (environment): port {port} (imap) "
        f"on 127.0.0.1 is taken by {Path('/proc/self/comm').read_text().strip()} "
        f"(process {os.getpid()})\n"
        "    -> stop the other program, or move all ports, for example "
        "DEVMAIL_PORT_OFFSET=20000\n"
    )
    assert not background.state.exists()


def test_an_ordinary_user_renders_but_does_not_start(background: Server) -> None:
    target = background.state.parent / "rendered"
    done = as_nobody(["render", "--output", str(target)], background)
    assert (done.returncode, done.stderr) == (0, "")
    assert (target / "postfix" / "main.cf").exists()
    for command in ("run", "check", "up"):
        done = as_nobody([command], background)
        assert (done.returncode, done.stdout) == (1, "")
        assert "  user id 65534: the daemons need root to start" in done.stderr
        assert "Traceback" not in done.stderr


def as_nobody(arguments: list[str], server: Server) -> subprocess.CompletedProcess[str]:
    """Run the program in a user namespace in which no user is mapped, so with no right of root's.

    The files of the interpreter and of the checkout stay readable, wherever they are.
    """
    return subprocess.run(
        ["unshare", "--user", *DEVMAIL, *arguments],
        env=server.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_checkout_that_daemons_cannot_enter_keeps_its_state_elsewhere(
    own_directory: Path,
) -> None:
    checkout = own_directory / "closed" / "checkout"
    checkout.mkdir(parents=True)
    checkout.parent.chmod(0o700)
    link = checkout / ".devmail"
    environ = {"DEVMAIL_PORT_OFFSET": str(Server(own_directory).offset)}
    try:
        up = run_devmail(["up"], environ, checkout)
        assert up.returncode == 0, up.stderr
        assert up.stdout.startswith(
            f".devmail is a link to {link.readlink()}: "
            f"the daemons' users cannot enter {checkout.parent}\n"
        )
        assert run_devmail(["health"], environ, checkout).returncode == 0
        assert (link / "tls" / "ca.cert.pem").exists()
        assert run_devmail(["down"], environ, checkout).stdout.startswith("stopped (")
    finally:
        run_devmail(["down"], environ, checkout)
        if link.is_symlink():
            shutil.rmtree(link.resolve())


# --- The README ---


def test_the_examples_of_the_readme_work_as_they_are_written(own_directory: Path) -> None:
    """In a copy of the checkout, and in a network of its own, so that every port is free."""
    checkout = own_directory / "devmail"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name)
    (checkout / ".venv").symlink_to(ROOT / ".venv")

    def body(_: Outside) -> None:
        # This thread's own working directory, since it has left the file system of the others.
        os.chdir(checkout)
        try:
            follow_the_readme(Server(checkout / ".devmail", port_offset="0"))
        finally:
            shell("make down")

    in_own_network(own_directory, body)


def follow_the_readme(server: Server) -> None:
    """Do what the README says, block by block."""
    blocks = readme_blocks()
    # This is what runs here.
    assert blocks.pop() == ("sh", "make test\n")

    assert "imaps      127.0.0.1:993" in shell(next_block(blocks, "sh"))
    # The same with Docker, which tests/container does.
    assert next_block(blocks, "sh").startswith("docker build")
    assert next_block(blocks, "sh").startswith("docker run")

    shell(next_block(blocks, "sh"))
    wait_for_message(server, "mail2@company2.com", "First")
    read = shell(next_block(blocks, "sh"))
    assert read.count("Subject: First") == 2
    assert read.count("It works.") == 2

    names: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(next_block(blocks, "python"), names)  # noqa: S102 - the README is ours
        wait_for_message(server, "joe@example.org", "Second")
        exec(next_block(blocks, "python"), names)  # noqa: S102
    assert "Hello, Joe" in printed.getvalue()
    assert blocks == []


def next_block(blocks: list[tuple[str, str]], language: str) -> str:
    found, text = blocks.pop(0)
    assert found == language
    return text


def readme_blocks() -> list[tuple[str, str]]:
    """Take the fenced blocks out of the README, each with its language."""
    blocks = []
    for part in (ROOT / "README.md").read_text(encoding="utf-8").split("```")[1::2]:
        language, _, text = part.partition("\n")
        blocks.append((language, text))
    return blocks


def shell(script: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        # Without an engine to use, `make up` starts the server natively.
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DOCKER_HOST": "unix:///nowhere",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
