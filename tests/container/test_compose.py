"""`docker compose`, and `make up` where a Docker engine answers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devmail_config.services import LISTENERS
from devmail_config.surroundings import _CAPABILITIES
from tests.helpers.ca import Material, make_material
from tests.helpers.clients import send, wait_for_message
from tests.helpers.container import (
    LOOPBACK,
    Published,
    address_of_the_machine,
    docker,
    greets,
    published_addresses,
)
from tests.helpers.server import ROOT, free_offset
from tests.helpers.wait import wait_for


class Composed(Published):
    """A server that ``make up-docker`` starts, with the settings of the environment."""

    def __init__(self, **settings: str) -> None:
        super().__init__(free_offset())
        self.project = f"devmail-{self.offset}"
        self.settings = {f"DEVMAIL_{name.upper()}": value for name, value in settings.items()}

    def make(self, target: str, *, succeeds: bool = True) -> str:
        others = {key: value for key, value in os.environ.items() if "DEVMAIL_" not in key}
        done = subprocess.run(
            ["make", "--no-print-directory", target],
            cwd=ROOT,
            env={**others, **self.settings, "DEVMAIL_PORT_OFFSET": str(self.offset)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert (done.returncode == 0) is succeeds, done.stdout
        return done.stdout

    def inspect(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(docker("inspect", f"{self.project}-mail-1"))
        return found[0]

    def remove(self) -> None:
        self.make("down")
        volumes = docker("volume", "ls", "--quiet", f"--filter=name={self.project}_").split()
        docker("volume", "rm", *volumes)


@pytest.fixture(scope="module")
def composed() -> Iterator[Composed]:
    one = Composed(bad_domains="down.example", bounce_after="1s")
    try:
        one.make("up")
        yield one
    finally:
        one.remove()


def test_make_up_shows_progress_and_says_where_everything_is(composed: Composed) -> None:
    said = composed.make("up")
    for listener in LISTENERS:
        assert f"  {listener.name} works (" in said
        assert f" {LOOPBACK}:{composed.port(listener.name)} " in said
    assert f"  CA         http://{LOOPBACK}:{composed.port('http')}/ca.crt\n" in said
    assert composed.faults(composed.download_ca()) == []


def test_make_up_publishes_on_the_loopback_address_only(composed: Composed) -> None:
    bound = composed.inspect()["HostConfig"]["PortBindings"]
    assert {tuple(one.items()) for binding in bound.values() for one in binding} == {
        (("HostIp", LOOPBACK), ("HostPort", str(composed.port(listener.name))))
        for listener in LISTENERS
    }


def test_settings_come_from_the_environment(composed: Composed) -> None:
    send(composed, "a@one.example", "b@down.example", "comes back")
    wait_for_message(composed, "a@one.example", "Undelivered Mail", timeout=30)
    given = composed.inspect()["Config"]["Env"]
    assert "DEVMAIL_BOUNCE_AFTER=1s" in given
    # What is not set outside is not set inside: an empty value would be an error.
    assert not [variable for variable in given if variable.startswith("DEVMAIL_HOSTNAME=")]


def test_the_hardening_is_on_and_mail_flows(composed: Composed) -> None:
    host = composed.inspect()["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    needed = {name for name, _ in _CAPABILITIES.values()}
    assert set(host["CapAdd"]) == {*needed, "NET_BIND_SERVICE"}
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    name = composed.inspect()["Name"].removeprefix("/")
    assert "NoNewPrivs:\t1" in docker("exec", name, "cat", "/proc/1/status")

    # An ordinary message, one that starts a program for delivery, and one for which Dovecot
    # needs a temporary file.
    large = "x" * 70 + "\r\n"
    send(composed, "a@one.example", "b@two.example", "hardened")
    send(composed, "a@one.example", '"a b"@two.example', "hardened")
    send(composed, "a@one.example", "c@two.example", "hardened", large * 50000)
    wait_for_message(composed, "b@two.example", "hardened")
    wait_for_message(composed, '"a b"@two.example', "hardened", 15, "a b")
    assert len(wait_for_message(composed, "c@two.example", "hardened")) > 50000 * len(large)
    # Postfix's programs do it as root; the image has none that is set-group-id.
    wait_for(
        lambda: docker("exec", name, "devmail", "queue") == "the queue is empty", "an empty queue"
    )
    assert docker("exec", name, "devmail", "queue", "flush") == ""


def test_a_wrong_setting_is_told_and_does_not_loop() -> None:
    one = Composed(bounce_after="soon")
    try:
        said = one.make("up", succeeds=False)
        assert "DEVMAIL_BOUNCE_AFTER='soon' (environment): not a duration" in said
        assert one.inspect()["State"]["Status"] == "exited"
    finally:
        one.remove()


def test_make_up_takes_tls_files_and_a_file_of_settings_of_this_machine(tmp_path: Path) -> None:
    material: Material = make_material(tmp_path)
    settings = tmp_path / "settings.yaml"
    settings.write_text("bad_domains: [down.example]\nbounce_after: 1\n")
    one = Composed(
        tls_key_path=str(material.key),
        tls_cert_path=str(material.certificate),
        tls_ca_path=str(material.ca),
        config=str(settings),
    )
    try:
        one.make("up-docker")
        assert one.faults(material.ca.read_bytes()) == []
        send(one, "a@one.example", "b@down.example", "comes back")
        wait_for_message(one, "a@one.example", "Undelivered Mail", timeout=30)
    finally:
        one.remove()


class Plain(Published):
    """What ``docker compose`` alone starts in this directory, with the ports as shipped."""

    def __init__(self) -> None:
        super().__init__(0)
        self.project = f"devmail-{free_offset()}"

    def compose(self, *arguments: str, **environment: str) -> None:
        others = {key: value for key, value in os.environ.items() if "DEVMAIL_" not in key}
        done = subprocess.run(
            ["docker", "compose", f"--project-name={self.project}", *arguments],
            cwd=ROOT,
            env={**others, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def plain() -> Iterator[Plain]:
    one = Plain()
    yield one
    one.compose("down", "--volumes")


def test_compose_up_twice_keeps_mail_and_ca(plain: Plain) -> None:
    plain.compose("up", "--detach")
    wait_for(plain.works, "every port to work", timeout=30, interval=0.1)
    send(plain, "a@one.example", "b@two.example", "kept")
    wait_for_message(plain, "b@two.example", "kept")
    ca = plain.download_ca()
    plain.compose("down")
    plain.compose("up", "--detach", "--wait")
    assert plain.download_ca() == ca
    wait_for_message(plain, "b@two.example", "kept")


# The files that `docker compose` is given, DEVMAIL_BIND_ADDRESS, and where the ports are then. In
# this order in one project: what has been open is closed again.
_WITH_CERTIFICATE = ("--file=docker-compose.yml", "--file=docker-compose.tls.yml")
_PUBLISHED = [
    ((), None, LOOPBACK),
    ((), "0.0.0.0", "0.0.0.0"),
    ((), "", LOOPBACK),
    ((), "::1", "::1"),
    (_WITH_CERTIFICATE, None, LOOPBACK),
    (("--file=docker-compose.yml", "--file=docker-compose.override.yml"), "0.0.0.0", "0.0.0.0"),
    (("--file=docker-compose.yml",), None, LOOPBACK),
    # An engine takes each of these for every address, where the network does not say otherwise.
    ((), "127.0.0.1, ::1", LOOPBACK),
    ((), "[::1]", LOOPBACK),
    ((), "localhost", LOOPBACK),
]


@pytest.mark.parametrize(("files", "address", "published"), _PUBLISHED)
def test_compose_publishes_on_the_loopback_address_unless_another_is_named(
    plain: Plain,
    tmp_path: Path,
    files: tuple[str, ...],
    address: str | None,
    published: str,
) -> None:
    material = make_material(tmp_path)
    environment = {
        "CA_FILE": str(material.ca),
        "CERT_FILE": str(material.certificate),
        "KEY_FILE": str(material.key),
    }
    if address is not None:
        environment["DEVMAIL_BIND_ADDRESS"] = address
    plain.compose(*files, "up", "--detach", **environment)
    assert published_addresses(f"{plain.project}-mail-1") == {
        one.port: {published} for one in LISTENERS
    }
    is_open = published == "0.0.0.0"
    near = address_of_the_machine() if is_open else published
    wait_for(lambda: greets(near), f"a greeting at {near}", timeout=30, interval=0.1)
    assert greets(address_of_the_machine()) is is_open


def test_make_up_publishes_on_the_addresses_of_the_setting() -> None:
    """An IPv6 address may be in brackets there, as for the native start."""
    one = Composed(bind_address="127.0.0.1, [::1]")
    try:
        one.make("up-docker")
        bound = one.inspect()["HostConfig"]["PortBindings"]
        assert {
            tuple(sorted(each["HostIp"] for each in binding)) for binding in bound.values()
        } == {(LOOPBACK, "::1")}
    finally:
        one.remove()
