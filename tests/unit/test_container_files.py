"""The files about containers say what the program says, and the two READMEs the same commands."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from devmail_config import __version__
from devmail_config.services import LISTENERS
from devmail_config.settings import CONFIG_VARIABLE, options, variable
from devmail_config.surroundings import _CAPABILITIES
from tests.helpers.server import ROOT

# Where things are in a container is the image's business, not that of who runs it.
OF_THE_IMAGE = {
    "bind_address",
    "mail_dir",
    "port_offset",
    "rainloop_dir",
    "state_dir",
    "tls_ca_path",
    "tls_cert_path",
    "tls_key_path",
    "webmail_data_dir",
}
PORTS = sorted(listener.port for listener in LISTENERS)
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    service: dict[str, Any] = document["services"]["mail"]
    return service


def test_compose_hands_on_every_setting_that_is_not_the_images(compose: dict[str, Any]) -> None:
    settings = [variable(one.name) for one in options() if one.name not in OF_THE_IMAGE]
    assert compose["environment"] == [CONFIG_VARIABLE, *settings, "TZ"]


def test_compose_and_the_image_have_every_port(compose: dict[str, Any]) -> None:
    assert compose["ports"] == [
        {"target": port, "published": port, "mode": "host"} for port in PORTS
    ]
    exposed = re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    assert exposed
    assert exposed[1].split() == [str(port) for port in PORTS]


def test_every_port_has_its_address_in_what_compose_reads_by_itself() -> None:
    text = (ROOT / "docker-compose.override.yml").read_text()
    # A tag of Compose: without it, these ports would come on top of those of docker-compose.yml.
    assert "\n    ports: !override\n" in text
    document = yaml.safe_load(text.replace("!override", ""))
    address = "${DEVMAIL_BIND_ADDRESS:-127.0.0.1}"
    assert document == {
        "services": {
            "mail": {
                "ports": [{"target": port, "published": port, "host_ip": address} for port in PORTS]
            }
        }
    }


# What is said about the open form, right above it.
_WARNINGS = ("can read every mailbox", "может прочитать любой ящик")


@pytest.mark.parametrize("name", ["README.md", "README.ru.md", "docs/docker.md"])
def test_an_open_docker_run_stands_below_the_sentence_about_it_and_is_not_the_first(
    name: str,
) -> None:
    texts = (ROOT / name).read_text(encoding="utf-8").split("```")
    examples = []
    for above, block in zip(texts[::2], texts[1::2], strict=False):
        published = re.findall(r"--publish (\S+:\S+)", block) if "docker run" in block else []
        if published:
            examples.append(all(one.startswith("127.0.0.1:") for one in published))
            paragraph = " ".join(above.strip().rsplit("\n\n", 1)[-1].split())
            assert examples[-1] or any(warning in paragraph for warning in _WARNINGS)
    assert examples[0]


def test_compose_adds_the_capabilities_that_are_needed(compose: dict[str, Any]) -> None:
    needed = [name for name, _ in _CAPABILITIES.values()]
    # Needed only where ports below 1024 are privileged.
    assert compose["cap_add"] == sorted([*needed, "NET_BIND_SERVICE"])
    assert compose["cap_drop"] == ["ALL"]


def test_the_image_has_the_version_of_the_program() -> None:
    assert f"ARG VERSION={__version__}\n" in DOCKERFILE


def test_both_files_about_tls_put_it_where_the_defaults_are() -> None:
    files, created = (
        yaml.safe_load((ROOT / f"docker-compose.{name}.yml").read_text())
        for name in ("tls", "secrets")
    )
    assert files["services"] == created["services"]
    defaults = {one.name: str(one.default) for one in options()}
    assert [one["target"] for one in files["services"]["mail"]["secrets"]] == [
        defaults["tls_ca_path"],
        defaults["tls_cert_path"],
        defaults["tls_key_path"],
    ]


def commands(name: str) -> list[str]:
    """Give the fenced blocks of a page, which are what can be typed."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"^```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_russian_readme_has_the_commands_of_the_english_one() -> None:
    assert commands("README.ru.md") == commands("README.md")


def names_in_tables(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"^\| (`DEVMAIL_\w+` \| [^|]*)\|", text, re.MULTILINE)


def test_the_russian_readme_has_the_settings_of_the_english_one() -> None:
    assert names_in_tables("README.md")
    assert names_in_tables("README.ru.md") == names_in_tables("README.md")
