"""What is compared: how each server is prepared, started, reached and stopped."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench import processes
from bench.clients import BrokenMeasureError, Dialogue, Endpoint, anything, line, silence
from devmail_config import authority, debian, native, surroundings, webmail
from devmail_config.errors import DevmailError
from devmail_config.services import LISTENERS
from devmail_config.surroundings import Machine

ROOT = Path(__file__).parent.parent
_TEMPLATES = Path(__file__).parent / "templates"
_START_PATIENCE = 60.0
_STOP_PATIENCE = 6.0
_POLL_SECONDS = 0.003
_QUEUE_PATIENCE = 120.0
_QUEUE_POLL_SECONDS = 0.1
# The daemons' own programs; a development machine's PATH may put another python3 in front.
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_SYSTEM_ENVIRONMENT = {"PATH": _PATH, "LANG": "C.UTF-8"}
_STANDARD_PORTS = {listener.name: listener.port for listener in LISTENERS}
_TLS_PORTS = {listener.name for listener in LISTENERS if listener.tls == "implicit"}
_ALL = ("smtp", "smtps", "imap", "imaps", "pop3", "pop3s", "http", "https")


class MissingError(Exception):
    """A contender cannot be had on this machine; the message says why, in one line."""


def cache_directory() -> Path:
    """Where contenders from package registries are installed, outside of any checkout."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = base / "devmail-bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def free_offset(ports: Sequence[int]) -> int:
    """Find a number to add to all of ``ports`` so that each is free."""
    for offset in random.sample(range(10000, 31000), 100):
        if all(_is_free(port + offset) for port in ports):
            return offset
    raise MissingError("no free range of ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Contender:
    """One server. A state directory is made by ``renew``, and outlives ``stop`` and ``start``.

    It is kept until the end of the bench: ext4 makes new files many times slower for a minute or
    more after many were removed (``recently_deleted`` in its ialloc.c), which would be measured.
    """

    key = ""
    title = ""
    # What it can be measured by; measures.py has a measure for each.
    can: frozenset[str] = frozenset()
    listeners: tuple[str, ...] = _ALL
    # Whose password the bench's senders log in with; a few contenders know only one login.
    sender = ""
    # The port of each listener before an offset is added.
    ports: Mapping[str, int] = _STANDARD_PORTS

    def __init__(self) -> None:
        self.state = Path()
        self._states: list[Path] = []
        self.offset = 0
        self._running: list[subprocess.Popen[bytes]] = []

    def prepare(self) -> None:
        """Install what is needed; raises ``MissingError`` when that cannot be done."""

    def renew(self) -> None:
        """Make a new and empty state."""
        self.state = Path(tempfile.mkdtemp(prefix="dmb-", dir="/tmp"))
        self._states.append(self.state)
        self.state.chmod(0o755)
        self.offset = free_offset([self.ports[name] for name in self.listeners])
        self.configure()

    def configure(self) -> None:
        """Write the configuration into the state directory."""

    def discard(self) -> None:
        """Remove all that was made."""
        for state in self._states:
            shutil.rmtree(state, ignore_errors=True)

    def commands(self) -> list[list[str]]:
        """Give the commands that together are the server."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Give the environment of these commands."""
        return _SYSTEM_ENVIRONMENT

    def launch(self) -> None:
        """Start the server, and do not wait."""
        with (self.state / "log").open("ab") as log:
            self._running = [
                subprocess.Popen(
                    command,
                    env=self.environment(),
                    cwd=self.state,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                for command in self.commands()
            ]

    def start(self) -> float:
        """Start the server, and give the seconds until every port answers."""
        began = time.perf_counter()
        self.launch()
        waiting = list(self.listeners)
        while waiting:
            waiting = [name for name in waiting if not self._answers(name)]
            if any(process.poll() is not None for process in self._running):
                raise MissingError(f"{self.title} ended at its start: {self.log_end()}")
            if time.perf_counter() - began > _START_PATIENCE:
                raise MissingError(f"{self.title}: no answer from {', '.join(waiting)}")
            if waiting:
                time.sleep(_POLL_SECONDS)
        return time.perf_counter() - began

    def stop(self) -> None:
        """End the server."""
        processes.end([process.pid for process in self._running], _STOP_PATIENCE)
        for process in self._running:
            process.wait()
        self._running = []

    def settle(self) -> None:
        """Wait until all mail that was accepted is delivered."""
        queues = [self.state / "spool" / name for name in ("incoming", "active", "maildrop")]
        until = time.monotonic() + _QUEUE_PATIENCE
        while any(queue.is_dir() and any(queue.iterdir()) for queue in queues):
            if time.monotonic() > until:
                raise BrokenMeasureError(f"{self.title}: mail is left in the queue")
            time.sleep(_QUEUE_POLL_SECONDS)

    def log_end(self) -> str:
        """Give the last lines of the log."""
        with contextlib.suppress(OSError):
            return " / ".join((self.state / "log").read_text(errors="replace").splitlines()[-4:])
        return "no log"

    def processes(self) -> list[int]:
        """List the server's processes."""
        return processes.descendants(os.getpid())

    def endpoint(self, listener: str) -> Endpoint:
        """Say where a listener is."""
        port = self.ports[listener] + self.offset
        return Endpoint(port, self.client_tls() if listener in _TLS_PORTS else None)

    @cache  # noqa: B019 - there are few contenders, and each lives as long as the bench
    def _context(self, authority_file: str) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=authority_file)

    def client_tls(self) -> ssl.SSLContext:
        """Give the context of a client that verifies this server's certificate."""
        return self._context(str(self.authority_file()))

    def authority_file(self) -> Path:
        """Give the CA that the server's certificate is from."""
        return material().ca

    def mailbox(self, address: str) -> Path:
        """Give the Maildir of an ordinary address."""
        local, _, domain = address.partition("@")
        return self.mail() / domain / local

    def mail(self) -> Path:
        """Give the directory of all mailboxes."""
        return self.state / "mail"

    def mail_owner(self) -> str | int:
        """Give the user who owns the mailboxes."""
        return "mail"

    def _answers(self, listener: str) -> bool:
        try:
            endpoint = self.endpoint(listener)
            if listener.startswith("http"):
                client = Dialogue(endpoint, silence)
                client.say(b"GET / HTTP/1.0\r\nHost: mail.localhost\r\n\r\n", anything)
            else:
                client = Dialogue(endpoint, line)
            client.close()
        except (OSError, BrokenMeasureError):
            return False
        return True


class Devmail(Contender):
    """This checkout, as `make up` starts it, with Roundcube as the webmail."""

    key = "devmail"
    title = "devmail"
    can = frozenset(("login", "smtp", "delivery", "idle", "big", "growth"))
    listeners = tuple(listener.name for listener in LISTENERS)
    webmail = "roundcube"

    def prepare(self) -> None:
        install(surroundings.packages(ROOT / "debian-packages.txt"))
        install(webmail.packages("roundcube"))

    def commands(self) -> list[list[str]]:
        return [[sys.executable, "-m", "devmail_config", "run"]]

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "DEVMAIL_STATE_DIR": str(self.state),
            "DEVMAIL_PORT_OFFSET": str(self.offset),
            "DEVMAIL_BIND_ADDRESS": "127.0.0.1",
            "DEVMAIL_WEBMAIL": self.webmail,
        }

    def authority_file(self) -> Path:
        return self.state / "tls" / "ca.cert.pem"


class DevmailWithoutWebmail(Devmail):
    """The same without a webmail, and so without PHP."""

    key = "devmail-plain"
    title = "devmail, no webmail"
    can = frozenset()
    webmail = "none"


class Rendered(Contender):
    """Daemons of this machine with a configuration from ``bench/templates/<key>``."""

    packages: tuple[str, ...] = ()
    uid: str | int = "mail"

    def prepare(self) -> None:
        install(self.packages)

    def configure(self) -> None:
        render(self.key, self.state, self.context(self.state))
        for directory, owner in (
            (self.mail(), self.uid),
            (self.state / "postfix-data", "postfix"),
            (self.state / "spool", "root"),
        ):
            directory.mkdir(mode=0o755)
            shutil.chown(directory, owner, owner)
        # The daemons' own first steps, which for the seed were taken when its image was built.
        subprocess.run(
            ["/usr/sbin/postfix", "-c", self.state / "postfix", "check"],
            check=True,
            capture_output=True,
        )

    def context(self, root: Path) -> dict[str, object]:
        """Give the values that the templates ask for."""
        return {
            "root": root,
            "mail": root / "mail",
            "address": "127.0.0.1",
            "interfaces": "127.0.0.1",
            "tls": material(),
            "uid": self.uid,
            "port": lambda name: self.ports[name] + self.offset,
            "listen": lambda name: f"127.0.0.1:{self.ports[name] + self.offset}",
            "programs": {
                "postfix": f"/usr/sbin/postfix -c {root}/postfix start-fg",
                "dovecot": f"/usr/sbin/dovecot -F -c {root}/dovecot/dovecot.conf",
                "nginx": f"/usr/sbin/nginx -c {root}/nginx/nginx.conf",
                "php-fpm": f"{debian.PHP_FPM} -F -y {root}/php/php-fpm.conf",
            },
        }

    def mail_owner(self) -> str | int:
        return self.uid


class Seed(Rendered):
    """The configuration that devmail goes back to, on the daemons of this machine."""

    key = "seed"
    title = "seed"
    can = Devmail.can
    packages = (
        *("dovecot-imapd", "dovecot-lmtpd", "dovecot-pop3d"),
        *("nginx", debian.PHP_FPM_PACKAGE, "postfix", "python3", "supervisor"),
    )
    uid = 500

    def configure(self) -> None:
        super().configure()
        (self.state / "dovecot" / "checkpassword").chmod(0o755)

    def commands(self) -> list[list[str]]:
        return [["/usr/bin/supervisord", "-n", "-c", f"{self.state}/supervisord.conf"]]


class Limit(Rendered):
    """The daemons with next to nothing to do: what no configuration of them can exceed."""

    key = "limit"
    title = "the daemons' limit"
    can = frozenset(("login", "smtp", "accept", "lmtp"))
    listeners = ("smtp", "smtps", "imap", "imaps", "pop3", "pop3s")
    packages = ("dovecot-imapd", "dovecot-lmtpd", "dovecot-pop3d", "postfix")

    def commands(self) -> list[list[str]]:
        # An smtpd that finds no one to ask about logins dies, and master waits a minute.
        is_up = f"until [ -S {self.state}/dovecot/base/postfix-auth ]; do sleep 0.01; done"
        master = f"/usr/lib/postfix/sbin/master -s -c {self.state}/postfix"
        return [
            ["/usr/sbin/dovecot", "-F", "-c", f"{self.state}/dovecot/dovecot.conf"],
            ["/bin/sh", "-c", f"{is_up}; exec {master}"],
        ]

    def lmtp(self) -> Endpoint:
        """Say where Dovecot takes mail in."""
        return Endpoint(0, path=f"{self.state}/dovecot/base/lmtp")


class Registered(Contender):
    """A server from a package registry, installed into the cache directory."""

    can = frozenset(("smtp", "accept"))
    sender = "bench@bench.example"
    ports: Mapping[str, int] = {"smtp": 1025, "http": 1080}

    def home(self) -> Path:
        """Where it is installed."""
        return cache_directory() / self.key

    def _install(self, program: str, commands: Sequence[Sequence[str]]) -> None:
        if (self.home() / program).exists():
            return
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                lines = (done.stderr or done.stdout).strip().splitlines()
                raise MissingError(
                    f"{self.title} cannot be installed: {lines[-1] if lines else command[0]}"
                )


class FromPyPI(Registered):
    """A server that is a Python package."""

    package = ""

    def _from_pypi(self, *packages: str) -> None:
        python = self.home() / "bin" / "python"
        self._install(
            f".{packages[0]}",
            (
                (sys.executable, "-m", "venv", "--clear", str(self.home())),
                (str(python), "-m", "pip", "install", "--quiet", *packages),
                ("touch", str(self.home() / f".{packages[0]}")),
            ),
        )


class Aiosmtpd(FromPyPI):
    """aiosmtpd with a handler that keeps each message in a Maildir."""

    key = "aiosmtpd"
    title = "aiosmtpd"
    listeners = ("smtp",)

    def prepare(self) -> None:
        self._from_pypi("aiosmtpd==1.4.6")

    def commands(self) -> list[list[str]]:
        program = Path(__file__).parent / "templates" / "aiosmtpd_server.py"
        port = str(self.ports["smtp"] + self.offset)
        return [[f"{self.home()}/bin/python", str(program), port, str(self.state / "maildir")]]


class Sendria(FromPyPI):
    """Sendria, which keeps messages in SQLite."""

    key = "sendria"
    title = "Sendria"
    listeners = ("smtp", "http")

    def prepare(self) -> None:
        # The releases of its time; newer ones of these have dropped what it calls.
        self._from_pypi("sendria==2.2.2", "aiohttp<3.9", "setuptools<81")

    def configure(self) -> None:
        done = subprocess.run(
            ["openssl", "passwd", "-apr1", self.sender.partition("@")[0]],
            capture_output=True,
            text=True,
            check=True,
        )
        (self.state / "htpasswd").write_text(f"{self.sender}:{done.stdout}", encoding="ascii")

    def commands(self) -> list[list[str]]:
        return [
            [
                *(f"{self.home()}/bin/sendria", "--foreground", "--db", f"{self.state}/db"),
                *("--smtp-auth", f"{self.state}/htpasswd"),
                *("--smtp-ip", "127.0.0.1", "--http-ip", "127.0.0.1"),
                *("--smtp-port", str(self.ports["smtp"] + self.offset)),
                *("--http-port", str(self.ports["http"] + self.offset)),
            ]
        ]


class MailDev(Registered):
    """MailDev, which keeps messages in memory and in a directory."""

    key = "maildev"
    title = "MailDev"
    listeners = ("smtp", "http")

    def prepare(self) -> None:
        if not shutil.which("npm"):
            raise MissingError("MailDev is left out: there is no npm")
        self._install(
            "node_modules/.bin/maildev",
            (("npm", "install", "--silent", "--prefix", str(self.home()), "maildev@3.0.0"),),
        )

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "MAILDEV_MAIL_DIRECTORY": f"{self.state}/maildir",
            "MAILDEV_INCOMING_USER": self.sender,
            "MAILDEV_INCOMING_PASS": self.sender.partition("@")[0],
        }

    def commands(self) -> list[list[str]]:
        return [
            [
                f"{self.home()}/node_modules/.bin/maildev",
                *("--ip", "127.0.0.1", "--web-ip", "127.0.0.1", "--silent"),
                *("--smtp", str(self.ports["smtp"] + self.offset)),
                *("--web", str(self.ports["http"] + self.offset)),
            ]
        ]


class Container(Contender):
    """An image, run by Docker with its ports published on this machine."""

    can = frozenset(("image", "login"))
    image = ""
    # Where the mailboxes are, inside.
    mail_volume = "/var/mail"

    def __init__(self) -> None:
        super().__init__()
        self._names: list[str] = []
        self._called = 0.0

    @property
    def _name(self) -> str:
        """The container of the present state."""
        return self._names[-1]

    def docker(self, *arguments: str) -> str:
        """Run the Docker client, and give what it says."""
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise MissingError(f"{self.title}: docker {arguments[0]}: {lines[-1] if lines else ''}")
        return done.stdout.strip()

    def prepare(self) -> None:
        if not shutil.which("docker"):
            raise MissingError(f"{self.title} is left out: there is no docker")
        self.docker("version")
        self.build()

    def build(self) -> None:
        """Build the image."""
        raise NotImplementedError

    def configure(self) -> None:
        published = [
            word
            for name in self.listeners
            for word in ("-p", f"127.0.0.1:{self.ports[name] + self.offset}:{self.ports[name]}")
        ]
        self._names.append(f"devmail-bench-{self.key}-{os.getpid()}-{len(self._names)}")
        self.docker("create", "--name", self._name, *published, *self.mounts(), self.image)

    def mounts(self) -> list[str]:
        """Give the options that mount what the server needs."""
        own = material()
        return [
            *("-v", f"{own.ca}:/etc/ssl/certs/ca.cert.pem:ro"),
            *("-v", f"{own.certificate}:/etc/ssl/certs/mail.cert.pem:ro"),
            *("-v", f"{own.key}:/etc/ssl/private/mail.key.pem:ro"),
        ]

    def launch(self) -> None:
        self._called = time.time()
        self.docker("start", self._name)

    def engine_seconds(self) -> float:
        """Say after which part of the last start the engine had the container running."""
        started = self.docker("inspect", "--format", "{{.State.StartedAt}}", self._name)
        # Docker writes nanoseconds, of which Python reads six digits.
        moment = datetime.fromisoformat(started[:26].rstrip("Z")).replace(tzinfo=UTC)
        return moment.timestamp() - self._called

    def stop(self) -> None:
        self.docker("stop", "--time", str(int(_STOP_PATIENCE)), self._name)

    def discard(self) -> None:
        for name in self._names:
            with contextlib.suppress(MissingError):
                self.docker("rm", "--force", "--volumes", name)
        super().discard()

    def processes(self) -> list[int]:
        first = int(self.docker("inspect", "--format", "{{.State.Pid}}", self._name))
        return [first, *processes.descendants(first)]

    def image_bytes(self) -> int:
        """Give the size of the image, its base included."""
        return int(self.docker("image", "inspect", "--format", "{{.Size}}", self.image))

    def log_end(self) -> str:
        return self.docker("logs", "--tail", "4", self._name)


class DevmailContainer(Container):
    """devmail's image, built from this checkout with Roundcube."""

    key = "devmail-container"
    title = "devmail, container"
    image = "devmail-bench"
    listeners = Devmail.listeners

    def build(self) -> None:
        if not (ROOT / "Dockerfile").exists():
            raise MissingError(f"{self.title} is left out: there is no Dockerfile")
        webmail_argument = ("--build-arg", "WEBMAIL=roundcube")
        self.docker("build", "--quiet", "--tag", self.image, *webmail_argument, str(ROOT))


class SeedContainer(Container):
    """The seed's configuration in an image of its own, on Debian 12."""

    key = "seed-container"
    title = "seed, container"
    image = "devmail-bench-seed"
    uid = 500

    def build(self) -> None:
        root = Path("/srv/seed")
        with tempfile.TemporaryDirectory() as directory:
            context = {
                **Seed().context(root),
                "mail": Path("/var/mail"),
                "address": "0.0.0.0",  # noqa: S104 - inside a container
                "interfaces": "all",
                "listen": lambda name: f"0.0.0.0:{self.ports[name]}",
                "tls": authority.Material(
                    Path("/etc/ssl/certs/ca.cert.pem"),
                    Path(),
                    Path(),
                    Path("/etc/ssl/private/mail.key.pem"),
                    Path("/etc/ssl/certs/mail.cert.pem"),
                ),
            }
            render("seed", Path(directory), context)
            self.docker("build", "--quiet", "--tag", self.image, directory)


def render(key: str, directory: Path, context: Mapping[str, object]) -> None:
    """Render the templates of a contender, dated so that Postfix trusts them at once."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES / key),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - daemons' configuration, not pages
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    an_hour_ago = time.time() - 3600
    for name in environment.list_templates():
        target = directory / name.removesuffix(".j2")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(environment.get_template(name).render(context), encoding="utf-8")
        os.utime(target, (an_hour_ago, an_hour_ago))


@cache
def material() -> authority.Material:
    """Make the CA and the certificate of all contenders but devmail, which makes its own."""
    return authority.ensure(
        cache_directory() / "tls", ("mail.localhost", "localhost", "127.0.0.1"), datetime.now(UTC)
    )


def install(packages: Sequence[str]) -> None:
    """Install Debian packages, starting none of their services."""
    try:
        native.install(packages, Machine())
    except DevmailError as error:
        raise MissingError(str(error)) from None
    if missing := surroundings.missing_packages(packages, Machine()):
        raise MissingError(f"Debian packages are missing: {' '.join(missing)}")


CONTENDERS: tuple[type[Contender], ...] = (
    Devmail,
    Seed,
    DevmailWithoutWebmail,
    Limit,
    DevmailContainer,
    SeedContainer,
    MailDev,
    Sendria,
    Aiosmtpd,
)
