"""What NSS and Chromium take from whoever steals the key of our CA, and what they take from us.

Firefox and Thunderbird judge certificates by NSS; Chromium reads its store.
"""

from __future__ import annotations

import re
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, sync_playwright

from devmail_config.authority import Material, ensure
from tests.helpers.ca import Issued, make_ca
from tests.helpers.clients import LOOPBACK
from tests.helpers.server import HOSTNAME, Server
from tests.helpers.stolen import FOREIGN, NAMELESS, OURS, forge, forge_all, forge_ca, stolen, wishes
from tests.helpers.webmail import CHROMIUM

NAMES = (HOSTNAME, "localhost", "127.0.0.1", "::1", "mail.test", "192.0.2.7")
# Trust for servers and clients, mail, and code; and as docs/docker.md has it.
FOR_EVERYTHING = "CT,C,C"
AS_DOCUMENTED = "C,,"


class Store:
    """A certificate store of NSS."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        self.certutil("-N", "--empty-password").check_returncode()

    def certutil(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["certutil", "-d", f"sql:{self.directory}", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    def add(self, name: str, trust: str, certificate: Path) -> None:
        self.certutil("-A", "-n", name, "-t", trust, "-i", certificate).check_returncode()

    def add_all(self, files: dict[str, Path]) -> None:
        """Add certificates by the names of their files, in one go."""
        commands = self.directory.parent / "commands"
        commands.write_text(
            "".join(
                f"-A -d sql:{self.directory} -n {path.stem} -t ,, -i {path}\n"
                for path in files.values()
            )
        )
        self.certutil("-B", "-i", commands).check_returncode()

    def accepted(self, files: dict[str, Path], usage: str) -> set[str]:
        """Name those of the certificates, which have to be in the store, that are good for it."""

        def judge(path: Path) -> bool:
            done = self.certutil("-V", "-e", "-n", path.stem, "-u", usage)
            words = re.fullmatch(
                r"certutil: certificate is (valid|invalid: .*)\n", done.stdout + done.stderr
            )
            assert words, done
            assert (words[1] == "valid") == (done.returncode == 0)
            return words[1] == "valid"

        with ThreadPoolExecutor(4) as pool:
            verdicts = pool.map(judge, files.values())
        return {name for name, is_good in zip(files, verdicts, strict=True) if is_good}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Our own material."""
    return ensure(tmp_path_factory.mktemp("made"), NAMES, datetime.now(UTC))


@pytest.fixture(scope="module")
def forged(made: Material, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate for each wish and each usage."""
    return forge_all(stolen(made), tmp_path_factory.mktemp("forged"))


def filled(directory: Path, trust: str, made: Material, forged: dict[str, Path]) -> Store:
    store = Store(directory)
    store.add("ca", trust, made.ca)
    store.add("signer", ",,", made.signer)
    store.add("own", ",,", made.certificate)
    store.add_all(forged)
    return store


@pytest.fixture(scope="module")
def trusting(
    made: Material, forged: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Store:
    """A store whose owner trusts our CA for everything."""
    return filled(tmp_path_factory.mktemp("nss") / "store", FOR_EVERYTHING, made, forged)


@pytest.fixture(scope="module")
def documented(
    made: Material, forged: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Store:
    """A store in which our CA is trusted as the documentation says."""
    return filled(tmp_path_factory.mktemp("nss") / "store", AS_DOCUMENTED, made, forged)


# Of usages, NSS knows: V server, C client, S and R signed and encrypted mail, J code, O OCSP.


def test_nss_takes_the_servers_own_certificate_for_a_server_only(
    trusting: Store, documented: Store, made: Material
) -> None:
    own = {"own": made.certificate.parent / "own"}
    for store in (trusting, documented):
        assert [usage for usage in "VCSRJO" if store.accepted(own, usage)] == ["V"]


def test_nss_takes_a_forged_certificate_for_our_hosts(
    trusting: Store, documented: Store, forged: dict[str, Path]
) -> None:
    nameless = dict(NAMELESS)
    # Without a name of a host, it takes the common name for one.
    for name in ("person", "mail in the common name", "Windows login"):
        del nameless[name]
    allowed = wishes({**OURS, **nameless}, "none", "server", "several")
    assert trusting.accepted(forged, "V") == allowed
    assert documented.accepted(forged, "V") == allowed


@pytest.mark.parametrize("usage", ["S", "R", "J", "O"])
def test_nss_takes_none_for_mail_or_code(
    trusting: Store, documented: Store, forged: dict[str, Path], usage: str
) -> None:
    assert trusting.accepted(forged, usage) == set()
    assert documented.accepted(forged, usage) == set()


def test_nss_takes_none_for_a_client_unless_the_ca_is_trusted_for_clients(
    trusting: Store, documented: Store, forged: dict[str, Path]
) -> None:
    assert documented.accepted(forged, "C") == set()
    # Which nobody needs to do. Then, the names alone are what keeps a thief from it.
    found = trusting.accepted(forged, "C")
    names = {name.partition("/")[0] for name in found} & set(FOREIGN)
    assert names == {"host in the common name", "internationalised mail"}
    assert found >= wishes(OURS, "client")


def test_nss_takes_none_for_a_tunnel_to_another_host(
    trusting: Store, documented: Store, forged: dict[str, Path]
) -> None:
    # NSS lets a certificate for TLS servers do for IPsec.
    for store in (trusting, documented):
        assert {name.partition("/")[0] for name in store.accepted(forged, "I")} == {
            *OURS,
            *("mail in the common name, our host", "service", "registered number"),
        }


@pytest.mark.parametrize("self_issued", [False, True])
def test_nss_takes_nothing_from_a_ca_below_the_signer(
    made: Material, tmp_path: Path, *, self_issued: bool
) -> None:
    signer = stolen(made)
    between = forge_ca(signer, self_issued=self_issued)
    files: dict[str, Path] = {}
    for name, wish in {**FOREIGN, **NAMELESS, **OURS}.items():
        for usage in ("none", "several"):
            files[f"{name}/{usage}"] = tmp_path / f"{len(files)}.pem"
            one = forge(wish, usage, signer, below=between)
            files[f"{name}/{usage}"].write_bytes(one.pem)
    (tmp_path / "between").write_bytes(between.pem)
    store = filled(tmp_path / "nss", FOR_EVERYTHING, made, files)
    store.add("between", ",,", tmp_path / "between")
    for usage in "SRJO":
        assert store.accepted(files, usage) == set()
    assert store.accepted(files, "V") & wishes(FOREIGN) == set()


def test_nss_takes_such_certificates_from_another_ca(tmp_path: Path) -> None:
    """The verdicts above are about our CA, not about how its certificates are forged."""
    ca = make_ca()
    (tmp_path / "ca").write_bytes(ca.pem)
    files = forge_all(ca, tmp_path)
    store = Store(tmp_path / "nss")
    store.add("ca", FOR_EVERYTHING, tmp_path / "ca")
    store.add_all(files)
    for usage in "SR":
        assert store.accepted(files, usage) >= wishes(FOREIGN, "mail", "several")
    assert store.accepted(files, "C") >= wishes({**FOREIGN, **NAMELESS}, "client", "several")
    assert store.accepted(files, "V") >= wishes(FOREIGN, "server", "several")
    assert store.accepted(files, "J") >= wishes(FOREIGN, "code", "several")


# --- Chromium ---


@pytest.fixture(scope="module")
def believer(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that trusts the server's CA, to which every name is this machine."""
    home = tmp_path_factory.mktemp("home")
    Store(home / ".pki" / "nssdb").add("devmail", AS_DOCUMENTED, server.ca)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", f"--host-resolver-rules=MAP * {LOOPBACK}"],
            env={"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "HOME": str(home)},
        )
        yield browser
        browser.close()


class _Listening(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing: that a browser breaks off is what these tests expect."""


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def https_server(directory: Path, certificate: Issued, *chain: Issued) -> Iterator[int]:
    """Serve with a certificate; give the port."""
    pem, key = directory / "pem", directory / "key"
    pem.write_bytes(b"".join(one.pem for one in (certificate, *chain)))
    key.write_bytes(certificate.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    with _Listening((LOOPBACK, 0), _Answer) as listening:
        listening.socket = context.wrap_socket(
            listening.socket, server_side=True, do_handshake_on_connect=False
        )
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening.server_port
        listening.shutdown()
        thread.join()


def visit(browser: Browser, url: str) -> str:
    """Open a page; give who issued the certificate, or the browser's error."""
    page = browser.new_page()
    try:
        response = page.goto(url)
        assert response is not None
        details = response.security_details()
        assert details is not None
        return details["issuer"] or ""
    except Error as error:
        # The message begins: Page.goto, net, two colons, the code.
        return error.message.partition("net::")[2].partition(" ")[0]
    finally:
        page.close()


@pytest.mark.parametrize("host", [HOSTNAME, "localhost", LOOPBACK, "[::1]"])
def test_chromium_opens_our_pages(believer: Browser, server: Server, host: str) -> None:
    issuer = visit(believer, f"https://{host}:{server.port('https')}/")
    assert issuer.startswith("devmail development signer, made ")


def test_chromium_opens_what_is_forged_for_our_host(
    believer: Browser, server: Server, tmp_path: Path
) -> None:
    signer = stolen(Material.below(server.state / "tls"))
    one = forge(OURS["our host"], "server", signer)
    with https_server(tmp_path, one, signer) as port:
        issuer = visit(believer, f"https://{HOSTNAME}:{port}/")
        assert issuer.startswith("devmail development signer, made ")


@pytest.mark.parametrize("usage", ["none", "server"])
@pytest.mark.parametrize(
    ("wish", "host"),
    [
        ("host", "example.com"),
        ("host in the common name", "example.com"),
        ("host beside ours", "example.com"),
        ("host beside ours", "localhost"),
        ("host that ends like ours", "notlocalhost"),
        ("host that begins like ours", "mail.localhost.example.com"),
        ("host above ours", "test"),
        ("wildcard", "www.example.com"),
        ("wildcard above ours", "mail.test"),
        ("internationalised host", "xn--mnchen-3ya.de"),
        ("IPv4 address", "93.184.216.34"),
        ("mail beside our host", "localhost"),
    ],
)
def test_chromium_opens_nothing_that_is_forged_for_others(
    believer: Browser, server: Server, tmp_path: Path, wish: str, host: str, usage: str
) -> None:
    signer = stolen(Material.below(server.state / "tls"))
    one = forge({**FOREIGN, **NAMELESS}[wish], usage, signer)
    with https_server(tmp_path, one, signer) as port:
        # In a common name, this browser looks for no host at all.
        fault = "COMMON_NAME_INVALID" if wish == "host in the common name" else "INVALID"
        assert visit(believer, f"https://{host}:{port}/") == f"ERR_CERT_{fault}"
