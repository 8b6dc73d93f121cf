"""The development CA that devmail makes when no TLS material is mounted.

It is made once and kept in the state directory, so that it has to be trusted once. Its name
constraints (RFC 5280, section 4.2.1.10) allow only this server's names and loopback addresses: a
stolen key cannot sign for the Internet.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    # cryptography 38 does not have this name yet.
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

_CA_LIFE = timedelta(days=3650)
# Apple's systems refuse server certificates that are valid for more than 825 days.
_SERVER_LIFE = timedelta(days=820)
# A certificate is only renewed at a start, so a start must leave plenty for a long run.
_RENEW_WITHIN = timedelta(days=400)
# A clock that is a little behind, as in a virtual machine that slept, must not see the future.
_BACKDATE = timedelta(hours=1)

_LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True)
class Material:
    """The files of the CA and the server certificate, all PEM."""

    ca_key: Path
    ca: Path
    key: Path
    certificate: Path

    @classmethod
    def below(cls, directory: Path) -> Material:
        """Name the files in ``directory``."""
        return cls(
            directory / "ca.key.pem",
            directory / "ca.cert.pem",
            directory / "mail.key.pem",
            directory / "mail.cert.pem",
        )


def ensure(directory: Path, names: Iterable[str], now: datetime) -> Material:
    """Make what is missing in ``directory``, and renew what runs out or lacks one of ``names``.

    Raises ``OSError`` when a file cannot be read or written, and ``ValueError`` when one of the
    CA's does not hold what it should.
    """
    names = tuple(names)
    material = Material.below(directory)
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not (material.ca.exists() and material.ca_key.exists()):
        _make_ca(material, names, now)
    ca = _read_ca(material)
    if not _constraints(names) <= _permitted(ca) or not_after(ca) < now + _SERVER_LIFE:
        _make_ca(material, names, now)
        ca = _read_ca(material)
    if not _is_good(material, ca, names, now):
        _make_certificate(material, ca, names, now)
    return material


def make_faulty(own: Material, names: Iterable[str], now: datetime) -> None:
    """Make certificates that a client has to refuse, next to a CA of ours, each for one reason.

    ``expired`` since yesterday, for the ``wrong-name``, from an ``unknown-ca`` whose key is gone.
    """
    names = tuple(names)
    directory = own.ca.parent

    def signed_by(ca_key: Path, ca: Path, name: str) -> Material:
        return Material(ca_key, ca, directory / f"{name}.key.pem", directory / f"{name}.cert.pem")

    ca = _read_ca(own)
    expired = signed_by(own.ca_key, own.ca, "expired")
    _make_certificate(expired, ca, names, now - timedelta(days=10), timedelta(days=9))
    # Below the server's own name, or the CA's constraints would be what is violated.
    wrong_name = signed_by(own.ca_key, own.ca, "wrong-name")
    _make_certificate(wrong_name, ca, (f"wrong.{names[0]}",), now)
    stranger = signed_by(
        directory / "unknown-ca.ca.key.pem", directory / "unknown-ca.ca.pem", "unknown-ca"
    )
    # A day older, because its date is what its name differs in.
    _make_ca(stranger, names, now - timedelta(days=1))
    _make_certificate(stranger, _read_ca(stranger), names, now)
    stranger.ca_key.unlink()
    stranger.ca.unlink()


def not_before(certificate: x509.Certificate) -> datetime:
    """When the certificate becomes valid, with its time zone."""
    # cryptography 38 knows only the naive form, which newer ones deprecate.
    if hasattr(certificate, "not_valid_before_utc"):
        return certificate.not_valid_before_utc
    return certificate.not_valid_before.replace(tzinfo=UTC)


def not_after(certificate: x509.Certificate) -> datetime:
    """When the certificate runs out, with its time zone."""
    if hasattr(certificate, "not_valid_after_utc"):
        return certificate.not_valid_after_utc
    return certificate.not_valid_after.replace(tzinfo=UTC)


def is_key_of(key: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    """Tell whether the certificate is for this private key."""
    # cryptography 38 compares public keys only by what they are written as.
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*form) == certificate.public_key().public_bytes(*form)


def _make_ca(material: Material, names: Iterable[str], now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    # The date tells two development CAs apart in a browser's list.
    subject = _name(f"devmail development CA, made {now:%Y-%m-%d %H:%M:%S}")
    certificate = (
        _builder(subject, subject, key, now, _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(
            x509.NameConstraints(sorted(_constraints(names), key=repr), None), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(material.ca_key, _private_pem(key), 0o600)
    _write(material.ca, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _make_certificate(
    material: Material,
    ca: x509.Certificate,
    names: tuple[str, ...],
    now: datetime,
    life: timedelta = _SERVER_LIFE,
) -> None:
    ca_key = _read_ca_key(material, ca)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name(names[0]), ca.subject, key, now, life)
        .add_extension(x509.SubjectAlternativeName(map(_general_name, names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write(material.key, _private_pem(key), 0o600)
    _write(material.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _read_ca(material: Material) -> x509.Certificate:
    try:
        ca = x509.load_pem_x509_certificate(material.ca.read_bytes())
        _permitted(ca)
    except (ValueError, x509.ExtensionNotFound):
        raise ValueError(f"{material.ca.name} is not a CA that devmail made") from None
    return ca


def _read_ca_key(material: Material, ca: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(material.ca_key.read_bytes(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_key_of(key, ca):
        raise ValueError(f"{material.ca_key.name} is not the key of {material.ca.name}")
    return key


def _is_good(material: Material, ca: x509.Certificate, names: Iterable[str], now: datetime) -> bool:
    """Tell whether the server certificate is from ``ca``, for ``names``, and lasts long enough."""
    ca_key_identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    try:
        certificate = x509.load_pem_x509_certificate(material.certificate.read_bytes())
        key = serialization.load_pem_private_key(material.key.read_bytes(), password=None)
        extensions = certificate.extensions
        covered = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        signer = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except (FileNotFoundError, ValueError, TypeError, x509.ExtensionNotFound):
        # Missing, damaged or not ours. Nobody has to trust it anew, so it is simply made again.
        return False
    return (
        signer == x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_key_identifier)
        and is_key_of(key, certificate)
        and set(covered) == set(map(_general_name, names))
        and not_after(certificate) > now + _RENEW_WITHIN
    )


def _permitted(ca: x509.Certificate) -> set[x509.GeneralName]:
    extension = ca.extensions.get_extension_for_class(x509.NameConstraints)
    return set(extension.value.permitted_subtrees or ())


def _constraints(names: Iterable[str]) -> set[x509.GeneralName]:
    """The name constraints that allow ``names``, and loopback addresses, and nothing else."""
    networks = {ipaddress.ip_network(network) for network in _LOOPBACK}
    domains = set()
    for name in names:
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            domains.add(name)
        else:
            if not any(address in network for network in networks):
                networks.add(ipaddress.ip_network(address))
    return {*map(x509.DNSName, domains), *map(x509.IPAddress, networks)}


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now - _BACKDATE + life)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    # RFC 5280 allows a common name 64 characters; names that count are in the extension.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write so that no reader ever sees half a file, nor a private key with a wider mode."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
    temporary.replace(path)
