"""`docker run`, with nothing mounted and with volumes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from devmail_config import __version__
from devmail_config.ownership import MARK
from devmail_config.services import LISTENERS
from devmail_config.surroundings import _CAPABILITIES
from tests.helpers.clients import messages, send, wait_for_message
from tests.helpers.container import (
    IMAGE,
    LOOPBACK,
    Container,
    Published,
    address_of_the_machine,
    docker,
    failed_run,
    greets,
    published_addresses,
    unique,
)
from tests.helpers.server import ROOT
from tests.helpers.wait import wait_for

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    """A container with nothing mounted and nothing set, for tests that do not harm it."""
    with Container() as running:
        yield running


@pytest.fixture
def volume() -> Iterator[str]:
    name = docker("volume", "create", unique("volume"))
    yield name
    docker("volume", "rm", "--force", name)


@pytest.fixture
def other_volume() -> Iterator[str]:
    name = docker("volume", "create", unique("volume"))
    yield name
    docker("volume", "rm", "--force", name)


def test_the_ca_from_port_80_verifies_every_port(container: Container) -> None:
    assert container.faults(container.download_ca()) == []


def test_mail_flows(container: Container) -> None:
    for recipient in ("mail2@company2.com", '"john@home"@company2.com'):
        send(container, "mail1@company1.com", recipient, "through a container")
    wait_for_message(container, "mail2@company2.com", "through a container")
    wait_for_message(container, '"john@home"@company2.com', "through a container", 15, "john@home")


def test_docker_finds_it_healthy(container: Container) -> None:
    wait_for(
        lambda: container.state["Health"]["Status"] == "healthy", "health", timeout=30, interval=0.2
    )
    # The ports, and the two that are behind them: mailboxes and queue.
    assert container.execute("devmail", "health").count(" ok") == len(LISTENERS) + 2


def test_docker_finds_it_unhealthy_when_a_daemon_hangs() -> None:
    with Container("--health-interval=1s", "--health-retries=1") as one:
        wait_for(lambda: one.state["Health"]["Status"] == "healthy", "health", timeout=20)
        script = """
            for process in /proc/[0-9]*; do
                [ "$(cat $process/comm)" != nginx ] || kill -STOP ${process#/proc/}
            done
        """
        one.execute("sh", "-c", script)
        wait_for(lambda: one.state["Health"]["Status"] == "unhealthy", "sickness", timeout=30)
        said = one.state["Health"]["Log"][-1]["Output"]
        assert "http       no answer within 5 s" in said
        # All others, and what is behind them.
        assert said.count(" ok") == len(LISTENERS)


def test_the_first_line_of_the_log_says_what_runs_where(container: Container) -> None:
    first = container.log().splitlines()[0]
    ports = ", ".join(f"{one.name} {one.port}" for one in LISTENERS)
    assert first.startswith(f"devmail: version {__version__}, mail.localhost, on 0.0.0.0 ")
    assert ports in first
    assert re.search(
        r"our own CA has the SHA-256 fingerprint ([0-9A-F]{2}:){31}[0-9A-F]{2}$", first
    )


def test_process_1_is_the_supervisor_and_leaves_no_zombies(container: Container) -> None:
    assert container.execute("cat", "/proc/1/comm") == "s6-svscan"
    # Processes whose parents are gone: process 1 has to see to their end.
    container.execute("sh", "-c", "for n in 1 2 3 4 5; do (sleep 0.01 &) ; done")
    wait_for(lambda: " Z" not in docker("top", container.name, "-eo", "pid,stat"), "no zombies")


def test_the_checks_that_docker_makes_are_not_in_the_log(container: Container) -> None:
    container.execute("devmail", "health")
    send(container, "a@one.example", "log@two.example", "after the check")
    wait_for(lambda: "to=<log@two.example>" in container.log(), "the message in the log")
    assert "devmail-health" not in container.log()
    assert "127.0.0.25]" not in container.log()


def test_a_terminal_is_as_good_as_a_pipe_for_the_log() -> None:
    with Container("--tty") as one:
        send(one, "a@one.example", "b@two.example", "on a terminal")
        wait_for(lambda: "to=<b@two.example>" in one.log(), "the message in the log")
        assert one.log().startswith("devmail: version")


def test_two_containers_side_by_side_share_nothing(container: Container) -> None:
    with Container() as other:
        send(other, "a@one.example", "side@two.example", "on the other side")
        wait_for_message(other, "side@two.example", "on the other side")
        assert messages(container, "side@two.example") == []
        assert other.download_ca() != container.download_ca()


def test_a_new_container_keeps_mail_queue_and_ca(volume: str, other_volume: str) -> None:
    volumes = (f"--volume={volume}:/var/mail", f"--volume={other_volume}:/var/lib/devmail")
    with Container(*volumes, "--env=DEVMAIL_BOUNCE_AFTER=1h") as first:
        send(first, "a@one.example", "b@two.example", "kept")
        wait_for_message(first, "b@two.example", "kept")
        send(first, "a@one.example", "nobody@bad-domain.com", "waits in the queue")
        wait_for(lambda: "status=deferred" in first.log(), "the message to be deferred")
        ca = first.download_ca()
        docker("stop", first.name)
    with Container(*volumes, "--env=DEVMAIL_BOUNCE_AFTER=1s") as second:
        wait_for_message(second, "b@two.example", "kept")
        assert second.download_ca() == ca
        bounce = wait_for_message(second, "a@one.example", "Undelivered Mail", timeout=30)
        assert b"waits in the queue" in bounce


def test_a_second_container_on_the_same_state_is_refused(volume: str) -> None:
    with Container(f"--volume={volume}:/var/lib/devmail"):
        status, said = failed_run(f"--volume={volume}:/var/lib/devmail", IMAGE)
    assert status == 1
    assert "a server is already running on /var/lib/devmail" in said


def test_mailboxes_of_the_seed_image_are_taken_over_once(volume: str) -> None:
    # As in a volume of that image: everything belongs to its user 500, and to nobody else.
    script = """
        cd /var/mail && mkdir -p old.example/joe/.Sent/cur &&
        for part in cur new tmp; do mkdir -p old.example/joe/$part; done
        printf 'Subject: from before\\r\\n\\r\\nx\\r\\n' > old.example/joe/new/1.M1.old
        echo mbox > postmaster && chown 0:0 postmaster
        chmod -R go-rwx old.example && chown -R 500:500 . && chown 0:0 postmaster
    """
    mail = f"--volume={volume}:/var/mail"
    docker("run", "--rm", "--entrypoint=sh", mail, IMAGE, "-ec", script)
    with Container(mail) as first:
        assert (
            "mailboxes in /var/mail belong to another user (number 500): giving 1 to mail"
            in first.log()
        )
        wait_for_message(first, "joe@old.example", "from before")
        for recipient in ("joe@old.example", "ann@old.example"):
            send(first, "a@one.example", recipient, "from today")
            wait_for_message(first, recipient, "from today")
        owners = first.execute("find", "/var/mail", "-printf", "%u %P\\n").splitlines()
        others = {line for line in owners if not line.startswith("mail ")}
        assert others == {"root postmaster", f"root {MARK}"}
    with Container(mail) as second:
        assert "belong to another user" not in second.log()
        assert len(messages(second, "joe@old.example")) == 2


def test_it_runs_without_ipv6() -> None:
    with Container("--sysctl=net.ipv6.conf.all.disable_ipv6=1") as one:
        send(one, "a@one.example", "b@two.example", "over IPv4")
        wait_for_message(one, "b@two.example", "over IPv4")


def test_the_commands_of_the_program_are_there() -> None:
    assert docker("run", "--rm", IMAGE, "--version").endswith(__version__)
    assert "DEVMAIL_BOUNCE_AFTER" in docker("run", "--rm", IMAGE, "settings")
    assert "nothing is wrong" in docker("run", "--rm", IMAGE, "check")
    # Also where there is no /tmp to rehearse a start in.
    volumes = ("--volume=/var/mail", "--volume=/var/lib/devmail")
    assert "nothing is wrong" in docker("run", "--rm", "--read-only", *volumes, IMAGE, "check")


def test_a_wrong_setting_ends_the_container_with_the_reason() -> None:
    status, said = failed_run("--env=DEVMAIL_BOUNCE_AFTER=soon", IMAGE)
    assert status == 1
    assert "DEVMAIL_BOUNCE_AFTER='soon' (environment): not a duration" in said


def test_another_user_than_root_is_refused_with_the_reason() -> None:
    status, said = failed_run("--user=1000", IMAGE)
    assert status == 1
    assert "user id 1000: the daemons need root to start" in said


@pytest.mark.parametrize("name", [name for name, _ in _CAPABILITIES.values()])
def test_a_capability_that_is_missing_is_named(name: str) -> None:
    status, said = failed_run(f"--cap-drop={name}", IMAGE)
    assert status == 1
    assert f"capability {name}: missing: " in said
    assert f"-> add --cap-add {name}" in said


def test_low_ports_take_a_capability_where_they_are_privileged() -> None:
    """As they are with host networking, and for engines before 20.10."""
    privileged = "--sysctl=net.ipv4.ip_unprivileged_port_start=1024"
    status, said = failed_run(privileged, "--cap-drop=NET_BIND_SERVICE", IMAGE)
    assert status == 1
    assert "port 25 (smtp) on 0.0.0.0 and ::: Permission denied" in said
    with Container(privileged):
        pass


# README has them in this order; an engine without IPv6 has no "::".
_README_RUNS = [{LOOPBACK}, {"0.0.0.0", "::"}]


@pytest.mark.parametrize("number", range(len(_README_RUNS)))
def test_the_readmes_docker_run_works(number: int) -> None:
    """As it is written, but for the names, which a person may have in use."""
    blocks = re.findall(
        r"^```sh\n(?:docker build --tag devmail \.\n)?(docker run .*?)^```",
        README,
        re.MULTILINE | re.DOTALL,
    )
    assert len(blocks) == len(_README_RUNS)
    # The image is there, as `make image` builds it: that tells it its revision as well.
    block = blocks[number]
    name, volumes = unique("readme"), (unique("mail"), unique("state"))
    for written, own in (
        ("--name mail ", f"--name {name} "),
        ("--volume mail:", f"--volume {volumes[0]}:"),
        ("--volume mail-state:", f"--volume {volumes[1]}:"),
    ):
        assert written in block
        block = block.replace(written, own)
    server = Published(0)
    try:
        subprocess.run(["sh", "-ec", block], cwd=ROOT, capture_output=True, check=True)
        published = published_addresses(name)
        assert sorted(published) == sorted(one.port for one in LISTENERS)
        for addresses in published.values():
            assert addresses in (_README_RUNS[number], _README_RUNS[number] - {"::"})
        wait_for(server.works, "every port to work", timeout=30, interval=0.1)
        assert greets(address_of_the_machine()) is (number > 0)
    finally:
        docker("rm", "--force", "--volumes", name)
        docker("volume", "rm", *volumes)
