"""CAs, certificates and keys made for one test, good by default, with a knob for every fault."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.x509.oid import NameOID

from tests.helpers.server import HOSTNAME

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | dsa.DSAPrivateKey

DAY = timedelta(days=1)

_SIGNS_CERTIFICATES = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=True,
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def ec_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def rsa_key(bits: int) -> Key:
    return rsa.generate_private_key(65537, bits)


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key; one that is a CA can issue others."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        return self._key(serialization.Encoding.PEM, serialization.NoEncryption())

    @property
    def key_der(self) -> bytes:
        return self._key(serialization.Encoding.DER, serialization.NoEncryption())

    @property
    def encrypted_key_pem(self) -> bytes:
        encryption = serialization.BestAvailableEncryption(b"passphrase")
        return self._key(serialization.Encoding.PEM, encryption)

    def _key(
        self,
        encoding: serialization.Encoding,
        encryption: serialization.KeySerializationEncryption,
    ) -> bytes:
        return self.key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, encryption)


def issue(
    name: str,
    issuer: Issued | None = None,
    *,
    ca: bool = False,
    names: Sequence[str] = (),
    key: Key | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    more: Sequence[x509.ExtensionType] = (),
) -> Issued:
    """Issue a certificate for the common name ``name``, self-signed without an ``issuer``."""
    key = key or ec_key()
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start or now - DAY)
        .not_valid_after(end or now + 30 * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if ca:
        builder = builder.add_extension(_SIGNS_CERTIFICATES, critical=True)
    if issuer:
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
        builder = builder.add_extension(signer, critical=False)
    if names:
        alternatives = x509.SubjectAlternativeName(map(general_name, names))
        builder = builder.add_extension(alternatives, critical=False)
    for extension in more:
        builder = builder.add_extension(extension, isinstance(extension, x509.NameConstraints))
    return Issued(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def make_ca(name: str = "Test CA", issuer: Issued | None = None) -> Issued:
    return issue(name, issuer, ca=True)


@dataclass(frozen=True)
class Material:
    """The three files that a user mounts, and the settings that name them."""

    key: Path
    certificate: Path
    ca: Path

    @classmethod
    def below(cls, directory: Path) -> Material:
        return cls(directory / "key.pem", directory / "cert.pem", directory / "ca.pem")

    @property
    def environ(self) -> dict[str, str]:
        return {
            "DEVMAIL_TLS_KEY_PATH": str(self.key),
            "DEVMAIL_TLS_CERT_PATH": str(self.certificate),
            "DEVMAIL_TLS_CA_PATH": str(self.ca),
        }

    def write(self, server: Issued, ca: Issued, *intermediates: Issued) -> None:
        """Write the files; the certificate file has the intermediates after the server's own."""
        self.write_key(server.key_pem)
        self.certificate.write_bytes(b"".join(one.pem for one in (server, *intermediates)))
        self.ca.write_bytes(ca.pem)

    def write_key(self, content: bytes, mode: int = 0o400) -> None:
        self.key.unlink(missing_ok=True)
        self.key.write_bytes(content)
        self.key.chmod(mode)


def make_material(directory: Path, *names: str) -> Material:
    """Make good material for ``names`` (by default that of the server), through an intermediate."""
    ca = make_ca()
    intermediate = make_ca("Test Intermediate CA", ca)
    server = issue(HOSTNAME, intermediate, names=names or (HOSTNAME,))
    material = Material.below(directory)
    material.write(server, ca, intermediate)
    return material


def server_constraints(*names: str) -> list[x509.GeneralName]:
    """List what a CA of our own may sign for: ``names``, and loopback addresses."""
    permitted: list[x509.GeneralName] = []
    for name in (*names, "127.0.0.0/8", "::1/128"):
        try:
            permitted.append(x509.IPAddress(ipaddress.ip_network(name)))
        except ValueError:
            permitted.append(x509.DNSName(name))
    return permitted


def write_earlier_material(
    directory: Path, names: Sequence[str], more: Sequence[x509.ExtensionType] = ()
) -> None:
    """Write our own material as devmail did at first: the CA's key is kept, and signs anything.

    With ``more``, the CA has these extensions in place of the constraints that it had.
    """
    more = more or [x509.NameConstraints(server_constraints(*names), None)]
    end = datetime.now(UTC) + 3640 * DAY
    ca = issue("devmail development CA, made 2026-01-02 03:04:05", ca=True, end=end, more=more)
    server = issue(names[0], ca, names=names, end=datetime.now(UTC) + 800 * DAY)
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    for name, content in {
        "ca.key.pem": ca.key_pem,
        "ca.cert.pem": ca.pem,
        "mail.key.pem": server.key_pem,
        "mail.cert.pem": server.pem,
    }.items():
        path = directory / name
        path.touch(0o600 if "key" in name else 0o644)
        path.write_bytes(content)
