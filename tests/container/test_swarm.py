"""Swarm services and stacks, with the commands that the users of the seed's image know."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from devmail_config.services import LISTENERS
from tests.helpers.ca import DAY, Issued, Material, issue, make_ca, rsa_key
from tests.helpers.clients import send, wait_for_message
from tests.helpers.container import IMAGE, Published, address_of_the_machine, docker, greets, unique
from tests.helpers.server import HOSTNAME, ROOT
from tests.helpers.wait import wait_for

CA_PATH = "/etc/ssl/certs/ca.cert.pem"
CERT_PATH = "/etc/ssl/certs/mail.cert.pem"
KEY_PATH = "/etc/ssl/private/mail.key.pem"
NOW = datetime.now(UTC)

CA = make_ca()
SERVER = issue(HOSTNAME, CA, names=[HOSTNAME])


@pytest.fixture(scope="module", autouse=True)
def _swarm() -> Iterator[None]:
    """A swarm of this one machine, left again if it was not there before."""
    if docker("info", "--format={{.Swarm.LocalNodeState}}") == "active":
        yield
        return
    docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    yield
    docker("swarm", "leave", "--force")


@pytest.fixture
def material(tmp_path: Path) -> Material:
    made = Material.below(tmp_path)
    made.write(SERVER, CA)
    return made


def remove(kind: str, *names: str) -> None:
    """Remove what may be there, and may still be in use for a moment."""

    def gone() -> bool:
        subprocess.run(["docker", kind, "rm", *names], capture_output=True, check=False)
        left = docker(kind, "ls", "--format={{.Name}}").splitlines()
        return not set(names) & set(left)

    wait_for(gone, f"{kind} {names} to be gone", timeout=30, interval=0.2)


@pytest.fixture
def secrets(material: Material) -> Iterator[None]:
    files = {"ca": material.ca, "cert": material.certificate, "key": material.key}
    for name, path in files.items():
        docker("secret", "create", f"dev-email-server-{name}", str(path))
    yield
    remove("secret", *(f"dev-email-server-{name}" for name in files))


@contextlib.contextmanager
def stack(*files: str) -> Iterator[str]:
    name = unique("stack")
    paths = [f"--compose-file={ROOT / file}" for file in files]
    try:
        docker("stack", "deploy", *paths, name)
        yield name
    finally:
        docker("stack", "rm", name)
        remove("volume", f"{name}_mail", f"{name}_webmail", f"{name}_state")


def use(server: Published, ca: bytes) -> None:
    """Send and read mail, and log in to every port with TLS verified by ``ca``."""
    wait_for(lambda: server.faults(ca) == [], "every port to work", timeout=30, interval=0.2)
    send(server, "mail1@company1.com", "mail2@company2.com", "by swarm")
    wait_for_message(server, "mail2@company2.com", "by swarm")


@pytest.mark.usefixtures("secrets")
def test_the_service_of_the_seed_with_only_the_image_changed() -> None:
    """Its README's command; ``mode=host``, since not every kernel carries the other one's traffic.

    Its ``993:93`` is a slip of the pen there: nothing listens on 93.
    """
    ports = [f"--publish=published={one.port},target={one.port},mode=host" for one in LISTENERS]
    name, mail, data = unique("seed"), unique("seed-mail"), unique("seed-data")
    try:
        docker(
            *("service", "create", "--quiet", "--replicas", "1", "--name", name),
            *ports,
            f"--secret=source=dev-email-server-ca,target={CA_PATH},mode=0444",
            f"--secret=source=dev-email-server-cert,target={CERT_PATH},mode=0444",
            f"--secret=source=dev-email-server-key,target={KEY_PATH},mode=0400",
            "--secret=source=dev-email-server-ca,target=/var/www/html/ca.crt,mode=0444",
            f"--mount=type=volume,source={mail},target=/var/mail",
            f"--mount=type=volume,source={data},target=/var/www/rainloop/data",
            IMAGE,
        )
        server = Published(0)
        use(server, CA.pem)
        assert server.download_ca() == CA.pem
        log = docker("service", "logs", "--raw", name)
        assert "the CA of your certificate has the SHA-256 fingerprint" in log
    finally:
        remove("service", name)
        remove("volume", mail, data)


@pytest.mark.usefixtures("secrets")
def test_a_stack_with_the_seeds_secrets() -> None:
    with stack("docker-compose.yml", "docker-compose.secrets.yml") as name:
        use(Published(0), CA.pem)
        assert '"ReadOnly": true' in docker("service", "inspect", f"{name}_mail")


def test_a_stack_with_nothing_given() -> None:
    with stack("docker-compose.yml"):
        server = Published(0)
        wait_for(server.works, "every port to work", timeout=60, interval=0.2)
        use(server, server.download_ca())
        # Swarm can publish in no other way, and those who use it count on it.
        assert greets(address_of_the_machine())


# --- Secrets that are broken ---


def pair(server: Issued, ca: Issued = CA) -> Callable[[Material], None]:
    return lambda material: material.write(server, ca)


def fill(name: str, content: bytes) -> Callable[[Material], None]:
    def change(material: Material) -> None:
        path: Path = getattr(material, name)
        path.unlink(missing_ok=True)
        if content:
            path.write_bytes(content)

    return change


# What is done to good material, and what the log has to say about it; a file that is emptied is
# a secret that is left out.
BROKEN: dict[str, tuple[Callable[[Material], None], str]] = {
    "without-key": (fill("key", b""), "there is no such file"),
    "without-ca": (fill("ca", b""), "there is no such file"),
    "no-key": (fill("key", b"secret"), "not a private key in PEM form"),
    "encrypted-key": (fill("key", SERVER.encrypted_key_pem), "the key is encrypted"),
    "readable-key": (
        lambda material: material.key.chmod(0o444),
        "every user of this machine can read the private key",
    ),
    "other-key": (fill("key", CA.key_pem), "the key does not belong to the certificate"),
    "no-certificate": (fill("certificate", SERVER.der), "not a certificate in PEM form"),
    "no-certificate-of-a-ca": (fill("ca", CA.der), "not a certificate in PEM form"),
    "not-a-ca": (fill("ca", SERVER.pem), "is not a CA"),
    "other-ca": (fill("ca", make_ca("Another CA").pem), "it does not lead to the CA"),
    "expired": (
        pair(issue(HOSTNAME, CA, names=[HOSTNAME], start=NOW - 9 * DAY, end=NOW - DAY)),
        "ran out on",
    ),
    "from-the-future": (
        pair(issue(HOSTNAME, CA, names=[HOSTNAME], start=NOW + DAY)),
        "is not valid before",
    ),
    "other-name": (
        pair(issue("a.test", CA, names=["a.test"])),
        f"the certificate is not for {HOSTNAME}",
    ),
    "weak-key": (
        pair(issue(HOSTNAME, CA, names=[HOSTNAME], key=rsa_key(1024))),
        "OpenSSL refuses the certificate or its key",
    ),
}


class Service:
    """A service that nothing is published of, with secrets that have to be refused."""

    def __init__(self, material: Material, *options: str) -> None:
        self.name = unique("broken")
        self._secrets: list[str] = []
        mounts = []
        for path, target in (
            (material.ca, CA_PATH),
            (material.certificate, CERT_PATH),
            (material.key, KEY_PATH),
        ):
            if path.exists():
                secret = unique("secret")
                docker("secret", "create", secret, str(path))
                self._secrets.append(secret)
                mode = f"{path.stat().st_mode & 0o777:04o}"
                mounts.append(f"--secret=source={secret},target={target},mode={mode}")
        docker("service", "create", "--detach", "--name", self.name, *mounts, *options, IMAGE)

    def failures(self) -> int:
        """Count the tasks that ended as failed."""
        states = docker(
            "service", "ps", "--no-trunc", "--format={{.CurrentState}} {{.Error}}", self.name
        )
        return sum(
            state.startswith("Failed") and "task: non-zero exit (1)" in state
            for state in states.splitlines()
        )

    def log(self) -> str:
        done = subprocess.run(
            ["docker", "service", "logs", "--raw", self.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def remove(self) -> None:
        remove("service", self.name)
        remove("secret", *self._secrets)


@pytest.fixture(scope="module")
def broken_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    """A service for each fault, all at the same time."""
    services = {}
    try:
        for name, (change, _) in BROKEN.items():
            material = Material.below(tmp_path_factory.mktemp("material"))
            material.write(SERVER, CA)
            change(material)
            services[name] = Service(material, "--restart-condition=none")
        yield services
    finally:
        for service in services.values():
            service.remove()


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_secret_fails_the_task_with_the_reason(
    broken_services: dict[str, Service], fault: str
) -> None:
    service = broken_services[fault]
    wait_for(service.failures, "the task to fail", timeout=60, interval=0.3)
    wait_for(lambda: BROKEN[fault][1] in service.log(), "the reason in the log", timeout=15)
    assert "Traceback" not in service.log()


def test_a_service_that_is_started_again_says_the_reason_each_time(material: Material) -> None:
    """As Swarm does every five seconds unless it is told otherwise: it loops, but not silently."""
    material.write_key(b"secret")
    service = Service(material, "--restart-delay=100ms")
    try:
        wait_for(lambda: service.failures() >= 2, "two failures", timeout=60, interval=0.3)
        reason = "not a private key in PEM form"
        wait_for(lambda: service.log().count(reason) >= 2, "the reason, twice", timeout=15)
    finally:
        service.remove()
