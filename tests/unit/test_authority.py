"""The development CA: made once, renewed in time, and of no use to sign for anyone else."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from devmail_config.authority import Material, ensure, make_faulty, not_after, not_before
from tests.helpers import ca as helper
from tests.helpers.ca import DAY, Issued, issue

NOW = datetime.now(UTC)
NAMES = ("mail.localhost", "localhost", "127.0.0.1", "::1", "mail.test", "192.0.2.7")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Material that no test changes."""
    return ensure(tmp_path_factory.mktemp("made"), NAMES, NOW)


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def signing_ca(material: Material) -> Issued:
    key = serialization.load_pem_private_key(material.ca_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Issued(read(material.ca), key)


def handshake(certificate: Path, key: Path, ca: Path, name: str) -> None:
    """Let a client that trusts ``ca`` connect to a server with ``certificate`` as ``name``."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=str(ca))
    # As strict as newer versions of Python are by default.
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname=name)
    for side in (client_side, server_side, client_side):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert client_side.version() is not None


@pytest.mark.parametrize("name", NAMES)
def test_each_of_our_names_verifies(made: Material, name: str) -> None:
    handshake(made.certificate, made.key, made.ca, name)


@pytest.mark.parametrize(
    "names",
    [
        ["mail.example.com"],
        ["localhost.example.com"],
        ["test"],
        ["8.8.8.8"],
        ["2001:db8::1"],
        ["192.0.2.8"],
        ["localhost", "mail.example.com"],
    ],
)
def test_the_ca_key_signs_for_no_other_name(
    made: Material, tmp_path: Path, names: Sequence[str]
) -> None:
    forged = helper.Material.below(tmp_path)
    forged.write(issue("forged", signing_ca(made), names=names), signing_ca(made))
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(forged.certificate, forged.key, made.ca, names[-1])


def test_the_ca_key_makes_no_further_ca(made: Material, tmp_path: Path) -> None:
    between = issue("between", signing_ca(made), ca=True)
    forged = helper.Material.below(tmp_path)
    forged.write(issue("forged", between, names=["localhost"]), signing_ca(made), between)
    with pytest.raises(ssl.SSLCertVerificationError, match="path length constraint exceeded"):
        handshake(forged.certificate, forged.key, made.ca, "localhost")


def test_what_the_certificates_say(made: Material) -> None:
    ca, certificate = read(made.ca), read(made.certificate)
    for one in (ca, certificate):
        key = one.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
        assert not_before(one) < NOW
    assert not_after(ca) > NOW + 3640 * DAY
    assert not_after(certificate) - not_before(certificate) <= 825 * DAY
    extensions = certificate.extensions
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [helper.general_name(name) for name in NAMES]


def contents(material: Material) -> list[bytes]:
    paths = (material.ca_key, material.ca, material.key, material.certificate)
    return [path.read_bytes() for path in paths]


def test_it_is_made_once_and_kept(tmp_path: Path) -> None:
    first = contents(ensure(tmp_path, NAMES, NOW))
    assert contents(ensure(tmp_path, NAMES, NOW + 300 * DAY)) == first


@pytest.mark.parametrize(
    ("names", "later", "new_ca", "new_certificate"),
    [
        (NAMES, 419, False, False),
        # Fewer than 400 days are left of the certificate.
        (NAMES, 421, False, True),
        (NAMES, 900, False, True),
        # A certificate from this CA could outlive it.
        (NAMES, 2829, False, True),
        (NAMES, 2831, True, True),
        # The CA may not sign for a new name, so both are new.
        ((*NAMES, "new.example"), 0, True, True),
        ((*NAMES, "192.0.2.99"), 0, True, True),
        # It may for a name below one of its own, or for fewer names.
        ((*NAMES, "127.0.0.2"), 0, False, True),
        (NAMES[:-1], 0, False, True),
    ],
)
def test_it_is_renewed_when_it_has_to_be(
    tmp_path: Path, names: Sequence[str], later: int, *, new_ca: bool, new_certificate: bool
) -> None:
    before = contents(ensure(tmp_path, NAMES, NOW))
    now = NOW + later * DAY
    material = ensure(tmp_path, names, now)
    changed = [old != new for old, new in zip(before, contents(material), strict=True)]
    assert changed == [new_ca, new_ca, new_certificate, new_certificate]
    certificate, ca = read(material.certificate), read(material.ca)
    assert certificate.issuer == ca.subject
    assert now + 390 * DAY < not_after(certificate) <= not_after(ca)
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(found) == [helper.general_name(name) for name in names]


@pytest.mark.parametrize("lost", ["ca.key.pem", "ca.cert.pem", "mail.key.pem", "mail.cert.pem"])
def test_what_is_lost_is_made_again(tmp_path: Path, lost: str) -> None:
    ensure(tmp_path, NAMES, NOW)
    (tmp_path / lost).unlink()
    material = ensure(tmp_path, NAMES, NOW)
    handshake(material.certificate, material.key, material.ca, "localhost")


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_no_private_key_is_ever_readable_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[int]] = {}
    open_as_ever = os.open

    def watch(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = open_as_ever(path, flags, mode)
        modes = seen.setdefault(path.name, set())
        modes.add(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    # What an attempt that was cut short left behind must not lend its mode to a key.
    (tmp_path / "ca.key.pem.new").touch(0o666)
    monkeypatch.setattr(os, "open", watch)
    material = ensure(tmp_path, NAMES, NOW)
    monkeypatch.undo()
    assert seen == {
        "ca.key.pem.new": {0o600},
        "ca.cert.pem.new": {0o644},
        "mail.key.pem.new": {0o600},
        "mail.cert.pem.new": {0o644},
    }
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {
        material.ca_key.name: 0o600,
        material.ca.name: 0o644,
        material.key.name: 0o600,
        material.certificate.name: 0o644,
    }


def test_faulty_certificates_have_one_fault_each(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    own = ensure(tmp_path, ("mail.localhost", "127.0.0.1"), now)
    make_faulty(own, ("mail.localhost", "127.0.0.1"), now)
    ca = x509.load_pem_x509_certificate(own.ca.read_bytes())

    def read(name: str) -> tuple[x509.Certificate, list[str]]:
        certificate = x509.load_pem_x509_certificate((tmp_path / f"{name}.cert.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return certificate, names.get_values_for_type(x509.DNSName)

    expired, names = read("expired")
    assert now - timedelta(days=2) < not_after(expired) < now
    assert (expired.issuer, names) == (ca.subject, ["mail.localhost"])
    wrong, names = read("wrong-name")
    assert not_after(wrong) > now
    assert (wrong.issuer, names) == (ca.subject, ["wrong.mail.localhost"])
    unknown, names = read("unknown-ca")
    assert not_after(unknown) > now
    assert names == ["mail.localhost"]
    assert unknown.issuer != ca.subject
    aki = unknown.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    ski = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert aki.key_identifier != ski.digest
    assert not list(tmp_path.glob("unknown-ca.ca*")), "the stranger's key is gone"
    for name in ("expired", "wrong-name", "unknown-ca"):
        assert (tmp_path / f"{name}.key.pem").stat().st_mode & 0o777 == 0o600
