"""What a thief signs with the one key of our CA that is kept, for every use that could pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devmail_config.authority import Material
from tests.helpers.ca import DAY, Issued, ec_key, general_name


def _other_name(oid: str, value: str, tag: int = 0x0C) -> x509.OtherName:
    encoded = bytes([tag, len(value)]) + value.encode()
    return x509.OtherName(x509.ObjectIdentifier(oid), encoded)


@dataclass(frozen=True)
class Wish:
    """Who a certificate is to be for."""

    common_name: str = ""
    names: tuple[x509.GeneralName, ...] = ()
    mail: str = ""
    organisation: str = ""

    @property
    def subject(self) -> x509.Name:
        parts = {
            NameOID.ORGANIZATION_NAME: self.organisation,
            NameOID.COMMON_NAME: self.common_name,
            NameOID.EMAIL_ADDRESS: self.mail,
        }
        return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts.items() if text])


def _hosts(*names: str) -> tuple[x509.GeneralName, ...]:
    return tuple(map(general_name, names))


_MAIL = x509.RFC822Name("ceo@example.com")
_URI = x509.UniformResourceIdentifier("https://mail.localhost/joe")

# Names that are not the server's: no client may take them for anything.
FOREIGN: Mapping[str, Wish] = {
    "host": Wish("example.com", _hosts("example.com")),
    "host in the common name": Wish("example.com"),
    "host beside ours": Wish("localhost", _hosts("localhost", "example.com")),
    "host that ends like ours": Wish("", _hosts("notlocalhost")),
    "host that begins like ours": Wish("", _hosts("mail.localhost.example.com")),
    "host above ours": Wish("", _hosts("test")),
    "host with a final dot": Wish("", _hosts("example.com.")),
    "wildcard": Wish("", _hosts("*.example.com")),
    "wildcard above ours": Wish("", _hosts("*.test")),
    "wildcard of everything": Wish("", _hosts("*")),
    "internationalised host": Wish("", _hosts("xn--mnchen-3ya.de")),
    "IPv4 address": Wish("", _hosts("93.184.216.34")),
    "IPv4 address beside ours": Wish("", _hosts("192.0.2.8")),
    "IPv6 address": Wish("", _hosts("2001:db8::1")),
    "mail": Wish("ceo", (_MAIL,)),
    "mail at our host": Wish("joe", (x509.RFC822Name("joe@mail.localhost"),)),
    "mail beside our host": Wish("localhost", (*_hosts("localhost"), _MAIL)),
    "mail in the subject": Wish("ceo", mail="ceo@example.com"),
    "internationalised mail": Wish("ceo", (_other_name("1.3.6.1.5.5.7.8.9", "ceo@example.com"),)),
    "URI": Wish("", (x509.UniformResourceIdentifier("spiffe://prod.example/admin"),)),
    "URI at our host": Wish("", (_URI,)),
}
# Names that no constraint is about; they must not be good for a person, a program or a client.
NAMELESS: Mapping[str, Wish] = {
    "person": Wish("The CEO", organisation="Example"),
    "mail in the common name": Wish("ceo@example.com"),
    "mail in the common name, our host": Wish("ceo@example.com", _hosts("localhost")),
    "Windows login": Wish("admin", (_other_name("1.3.6.1.4.1.311.20.2.3", "admin@corp.example"),)),
    "service": Wish("", (_other_name("1.3.6.1.5.5.7.8.7", "_imaps.example.com", 0x16),)),
    "registered number": Wish("", (x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4")),)),
}
# The server's names, and those below them; good for a TLS server, and for that alone.
OURS: Mapping[str, Wish] = {
    "our host": Wish("mail.localhost", _hosts("mail.localhost", "127.0.0.1", "::1")),
    "our host, no subject": Wish("", _hosts("localhost")),
    "host below ours": Wish("", _hosts("x.mail.localhost")),
}

USAGES: Mapping[str, Sequence[x509.ObjectIdentifier]] = {
    "none": (),
    "any": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,),
    "server": (ExtendedKeyUsageOID.SERVER_AUTH,),
    "client": (ExtendedKeyUsageOID.CLIENT_AUTH,),
    "mail": (ExtendedKeyUsageOID.EMAIL_PROTECTION,),
    "code": (ExtendedKeyUsageOID.CODE_SIGNING,),
    "time": (ExtendedKeyUsageOID.TIME_STAMPING,),
    "several": (
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.EMAIL_PROTECTION,
        ExtendedKeyUsageOID.CODE_SIGNING,
    ),
}


def stolen(material: Material) -> Issued:
    """The signer's certificate and key, as they are in the state directory."""
    key = serialization.load_pem_private_key(material.signer_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Issued(x509.load_pem_x509_certificate(material.signer.read_bytes()), key)


def forge(
    wish: Wish, usage: str, signer: Issued, *, below: Issued | None = None, ca: bool = False
) -> Issued:
    """Sign what is wished for; without a key usage, so that only the CA's own limits count."""
    issuer = below or signer
    key, now = ec_key(), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(wish.subject)
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY / 48)
        .not_valid_after(now + 30 * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
    )
    if wish.names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(wish.names), critical=not wish.subject.rdns
        )
    if USAGES[usage]:
        builder = builder.add_extension(x509.ExtendedKeyUsage(USAGES[usage]), critical=False)
    return Issued(builder.sign(issuer.key, hashes.SHA256()), key)


def forge_ca(signer: Issued, usage: str = "none", *, self_issued: bool = False) -> Issued:
    """Sign a CA below the signer.

    One of the signer's own name is not counted by what limits the length of a path.
    """
    common = signer.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0]
    name = str(common.value) if self_issued else "between"
    return forge(Wish(name), usage, signer, ca=True)


def forge_all(signer: Issued, directory: Path) -> dict[str, Path]:
    """Write one certificate for each wish and usage; give the files by ``<wish>/<usage>``."""
    files: dict[str, Path] = {}
    for name, wish in {**FOREIGN, **NAMELESS, **OURS}.items():
        for usage in USAGES:
            path = directory / f"{len(files)}.pem"
            path.write_bytes(forge(wish, usage, signer).pem)
            files[f"{name}/{usage}"] = path
    return files


def wishes(kind: Mapping[str, Wish], *usages: str) -> set[str]:
    """Name the certificates of ``forge_all`` for one kind of wishes, with one of ``usages``."""
    return {f"{name}/{usage}" for name in kind for usage in usages or USAGES}
