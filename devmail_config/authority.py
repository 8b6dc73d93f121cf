"""The development CA that devmail makes when no TLS material is mounted.

It is made once and kept in the state directory, so that it has to be trusted once. Its key signs
one certificate, that of the signer below it, and is never written anywhere. The signer's key is
kept, for the server's certificates. Whoever steals it can pose as this server, but little else:

- The extended key usage of both allows TLS servers only. Clients apply that to the signer; to a CA
  that they trust, NSS for one does not, and would take S/MIME from it.
- The name constraints of both (RFC 5280, section 4.2.1.10) allow this server's names and loopback
  addresses, and e-mail addresses and URIs of a host that nobody has.

Names of the other forms cannot be constrained: where a directory name is, rustls refuses every
certificate, and Go refuses a critical extension with any form but these four.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devmail_config import durable

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

# To permit one name of a form forbids all others of it; nobody has this one (RFC 6761).
_NOBODY = "devmail.invalid"
_NOT_OF_SERVERS = {x509.RFC822Name(_NOBODY), x509.UniformResourceIdentifier(_NOBODY)}
_FOR_SERVERS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])

# Earlier versions kept the key of the CA itself.
_OLD_CA_KEY = "ca.key.pem"


@dataclass(frozen=True)
class Material:
    """The files of the CA, its signer and the server, all PEM.

    The signer's certificate follows the server's own in ``certificate``, for clients that have only
    the CA.
    """

    ca: Path
    signer_key: Path
    signer: Path
    key: Path
    certificate: Path

    @classmethod
    def below(cls, directory: Path) -> Material:
        """Name the files in ``directory``."""
        return cls(
            directory / "ca.cert.pem",
            directory / "signer.key.pem",
            directory / "signer.cert.pem",
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
    if fault(directory, names, now) or not _is_there(material.ca):
        _make_ca(material, names, now)
    (directory / _OLD_CA_KEY).unlink(missing_ok=True)
    signer = _read_signer(material)
    if not _is_good(material, signer, names, now):
        _make_certificate(material, signer, names, now)
    return material


def fault(directory: Path, names: Iterable[str], now: datetime) -> str | None:
    """Say why ``ensure`` replaces the CA in ``directory``; None if it does not, or there is none.

    Raises what ``ensure`` does.
    """
    material = Material.below(directory)
    files = (material.ca, material.signer, material.signer_key)
    if not any(path.exists() for path in (*files, directory / _OLD_CA_KEY)):
        return None
    if not _is_there(material.ca):
        return f"{material.ca.name} is lost"
    ca = _read_ca(material)
    if not _is_for_servers_only(ca):
        return "an earlier version of devmail made it, and its key can sign anyone's e-mail"
    if lost := [path.name for path in files if not _is_there(path)]:
        return f"{' and '.join(lost)} {'is' if len(lost) == 1 else 'are'} lost"
    if lacking := _constraints(names) - _permitted(ca):
        return f"it may not sign for {', '.join(sorted(str(one.value) for one in lacking))}"
    if not_after(ca) < now + _SERVER_LIFE:
        return f"it runs out on {not_after(ca):%Y-%m-%d}"
    return None


def make_faulty(own: Material, names: Iterable[str], now: datetime) -> None:
    """Make certificates that a client has to refuse, next to a CA of ours, each for one reason.

    ``expired`` since yesterday, for the ``wrong-name``, from an ``unknown-ca``.
    """
    names = tuple(names)
    directory = own.ca.parent

    def of(issuer: Material, name: str) -> Material:
        return replace(
            issuer, key=directory / f"{name}.key.pem", certificate=directory / f"{name}.cert.pem"
        )

    signer = _read_signer(own)
    ten_days_ago = now - timedelta(days=10)
    _make_certificate(of(own, "expired"), signer, names, ten_days_ago, timedelta(days=9))
    # Below the server's own name, or the CA's constraints would be what is violated.
    _make_certificate(of(own, "wrong-name"), signer, (f"wrong.{names[0]}",), now)
    stranger = Material(
        directory / "unknown-ca.ca.pem",
        directory / "unknown-ca.signer.key.pem",
        directory / "unknown-ca.signer.pem",
        own.key,
        own.certificate,
    )
    # A day older, because its date is what its name differs in.
    _make_ca(stranger, names, now - timedelta(days=1))
    _make_certificate(of(stranger, "unknown-ca"), _read_signer(stranger), names, now)
    for path in (stranger.ca, stranger.signer_key, stranger.signer):
        path.unlink()


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


def _is_there(path: Path) -> bool:
    """Tell whether there is anything in a file; a power cut may have left it empty."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _make_ca(material: Material, names: Iterable[str], now: datetime) -> None:
    # The date tells two development CAs apart in a browser's list.
    made = f"made {now:%Y-%m-%d %H:%M:%S}"
    ca_name = _name(f"devmail development CA, {made}")
    ca_key, signer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    constraints = x509.NameConstraints(sorted(_constraints(names), key=repr), None)

    def sign(
        name: x509.Name, key: ec.EllipticCurvePrivateKey, below: int
    ) -> x509.CertificateBuilder:
        return (
            _builder(name, ca_name, key, now, _CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=below), critical=True)
            .add_extension(_key_usage(sign_certificates=True), critical=True)
            .add_extension(constraints, critical=True)
            .add_extension(_FOR_SERVERS, critical=False)
        )

    ca = sign(ca_name, ca_key, 1).sign(ca_key, hashes.SHA256())
    signer = (
        sign(_name(f"devmail development signer, {made}"), signer_key, 0)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    durable.write(material.signer_key, _private_pem(signer_key), 0o600)
    durable.write(material.signer, _pem(signer), 0o644)
    # Last, because it is what a start that comes after an interrupted one judges.
    durable.write(material.ca, _pem(ca), 0o644)


def _make_certificate(
    material: Material,
    signer: x509.Certificate,
    names: tuple[str, ...],
    now: datetime,
    life: timedelta = _SERVER_LIFE,
) -> None:
    signer_key = _read_signer_key(material, signer)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name(names[0]), signer.subject, key, now, life)
        .add_extension(x509.SubjectAlternativeName(map(_general_name, names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(_FOR_SERVERS, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()),
            critical=False,
        )
        .sign(signer_key, hashes.SHA256())
    )
    durable.write(material.key, _private_pem(key), 0o600)
    durable.write(material.certificate, _pem(certificate) + _pem(signer), 0o644)


def _read_ca(material: Material) -> x509.Certificate:
    try:
        ca = x509.load_pem_x509_certificate(material.ca.read_bytes())
        _permitted(ca)
    except (ValueError, x509.ExtensionNotFound):
        raise ValueError(f"{material.ca.name} is not a CA that devmail made") from None
    return ca


def _read_signer(material: Material) -> x509.Certificate:
    ca = _read_ca(material)
    try:
        signer = x509.load_pem_x509_certificate(material.signer.read_bytes())
        is_of_ca = _issuer_key_identifier(signer) == _key_identifier(ca)
    except (ValueError, x509.ExtensionNotFound):
        is_of_ca = False
    if not is_of_ca:
        raise ValueError(f"{material.signer.name} is not the signer of {material.ca.name}")
    return signer


def _read_signer_key(material: Material, signer: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(material.signer_key.read_bytes(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_key_of(key, signer):
        raise ValueError(f"{material.signer_key.name} is not the key of {material.signer.name}")
    return key


def _is_good(
    material: Material, signer: x509.Certificate, names: Iterable[str], now: datetime
) -> bool:
    """Tell whether the server certificate is by ``signer``, for ``names``, and lasts."""
    try:
        pem = material.certificate.read_bytes()
        certificate = x509.load_pem_x509_certificate(pem)
        key = serialization.load_pem_private_key(material.key.read_bytes(), password=None)
        covered = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        is_of_signer = _issuer_key_identifier(certificate) == _key_identifier(signer)
    except (FileNotFoundError, ValueError, TypeError, x509.ExtensionNotFound):
        # Missing, damaged or not ours. Nobody has to trust it anew, so it is simply made again.
        return False
    return (
        is_of_signer
        and pem == _pem(certificate) + _pem(signer)
        and is_key_of(key, certificate)
        and set(covered) == set(map(_general_name, names))
        and not_after(certificate) > now + _RENEW_WITHIN
    )


def _key_identifier(certificate: x509.Certificate) -> bytes:
    extensions = certificate.extensions
    return extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def _issuer_key_identifier(certificate: x509.Certificate) -> bytes | None:
    extensions = certificate.extensions
    return extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier


def _is_for_servers_only(ca: x509.Certificate) -> bool:
    try:
        usage = ca.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return usage == _FOR_SERVERS and _permitted(ca) >= _NOT_OF_SERVERS


def _permitted(ca: x509.Certificate) -> set[x509.GeneralName]:
    extension = ca.extensions.get_extension_for_class(x509.NameConstraints)
    return set(extension.value.permitted_subtrees or ())


def _constraints(names: Iterable[str]) -> set[x509.GeneralName]:
    """The name constraints that allow ``names``, and loopback addresses, and nobody's names."""
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
    return {*map(x509.DNSName, domains), *map(x509.IPAddress, networks), *_NOT_OF_SERVERS}


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
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=False,
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


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
