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
from tests.helpers.container import LOOPBACK, Published, docker
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


def test_compose_up_twice_keeps_mail_and_ca() -> None:
    """With the ports as shipped, and nothing but ``docker compose``."""
    project = f"devmail-{free_offset()}"
    compose = ("compose", f"--project-name={project}", f"--file={ROOT / 'docker-compose.yml'}")
    server = Published(0)
    try:
        docker(*compose, "up", "--detach")
        wait_for(server.works, "every port to work", timeout=30, interval=0.1)
        send(server, "a@one.example", "b@two.example", "kept")
        wait_for_message(server, "b@two.example", "kept")
        ca = server.download_ca()
        docker(*compose, "down")
        docker(*compose, "up", "--detach", "--wait")
        assert server.download_ca() == ca
        wait_for_message(server, "b@two.example", "kept")
    finally:
        docker(*compose, "down", "--volumes")
