"""The server's TLS material: judge what was mounted, or make and keep our own.

Either all three files are there (key, certificate, CA), and then they are judged by the same rules
that a client applies, before any daemon starts. Or none of them is, nor was any asked for by a
setting, and a development CA and a certificate are made once and kept. Anything in between is an
error, never a fallback.
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from devmail_config import authority
from devmail_config.authority import is_key_of, not_after, not_before
from devmail_config.errors import DevmailError, Problem
from devmail_config.kinds import is_plain_path
from devmail_config.layout import Layout
from devmail_config.settings import Settings

if TYPE_CHECKING:
    # cryptography 38 does not have this name yet.
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

_WORLD_READABLE = 0o004
# X509_V_FLAG_NO_CHECK_TIME: the dates are judged one by one, with the file that each is in.
_NO_CHECK_TIME = 0x200000


@dataclass(frozen=True)
class TlsFiles:
    """The material that the daemons serve with, found to be good."""

    key: Path
    certificate: Path
    ca: Path
    made_here: bool
    # The CA in the forms in which it can be downloaded; empty as long as there is none.
    ca_pem: str = ""
    ca_der: bytes = b""
    ca_p12: bytes = b""
    ca_fingerprint: str = ""
    # The SHA-256 of the file of the server's certificate, by which a reload knows another one.
    certificate_checksum: str = ""
    # For the log, when the CA of an earlier start was replaced.
    news: str = ""

    @property
    def ca_base64(self) -> str:
        """The CA as Apple's profiles hold it: the PEM form without its first and last line."""
        return "".join(self.ca_pem.splitlines()[1:-1])


def judge(settings: Settings, now: datetime) -> list[Problem]:
    """Judge the material that was mounted; where none is there is nothing wrong."""
    if not _is_mounted(settings):
        return []
    faults = {name: fault for name, path in _paths(settings).items() if (fault := _missing(path))}
    if faults:
        return [
            Problem(
                settings.subject(name),
                fault,
                "provide all three of key, certificate and CA; for devmail to make them itself, "
                "provide none and set none of the paths",
            )
            for name, fault in faults.items()
        ]
    return _judge_files(settings, now)


def provide(settings: Settings, layout: Layout, now: datetime) -> TlsFiles:
    """Give the material to serve with, after ``judge`` found it good; make ours if there is none.

    Raises ``DevmailError`` when our own cannot be read or made.
    """
    files = planned(settings, layout)
    if not makes_material(settings):
        return files
    told = news(settings, layout, now)
    with _faults_of_our_own(layout):
        own = authority.ensure(layout.tls, names(settings), now)
        if settings.fault_ports:
            authority.make_faulty(own, names(settings), now)
    return replace(planned(settings, layout), news=told)


def news(settings: Settings, layout: Layout, now: datetime) -> str:
    """Say that ``provide`` replaces a CA that may be trusted, and why; empty if it does not.

    Raises ``DevmailError`` when that CA cannot be read.
    """
    if not makes_material(settings):
        return ""
    with _faults_of_our_own(layout):
        fault = authority.fault(layout.tls, names(settings), now)
    if fault is None:
        return ""
    return (
        f"a new CA replaces our own: {fault}. Clients have to trust it again; "
        "remove the old one wherever it is trusted"
    )


@contextlib.contextmanager
def _faults_of_our_own(layout: Layout) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        fault = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise DevmailError(
            [
                Problem(
                    f"our own CA in {layout.tls}",
                    f"it cannot be read or made: {fault}",
                    f"remove {layout.tls} to have a new CA made (clients have to trust it anew)",
                )
            ]
        ) from None


def makes_material(settings: Settings) -> bool:
    """Tell whether a start makes a CA: the faulty certificates need ours beside a mounted one."""
    return settings.fault_ports or not _is_mounted(settings)


def planned(settings: Settings, layout: Layout) -> TlsFiles:
    """Say where the material is or would be, judging and making nothing; enough for ``render``."""
    if _is_mounted(settings):
        return _files(*_paths(settings).values(), made_here=False)
    own = authority.Material.below(layout.tls)
    return _files(own.key, own.certificate, own.ca, made_here=True)


def names(settings: Settings) -> tuple[str, ...]:
    """List the names and IP addresses that our own certificate is good for."""
    return tuple(
        dict.fromkeys((settings.hostname, "localhost", "127.0.0.1", "::1", *settings.tls_names))
    )


def _paths(settings: Settings) -> dict[str, Path]:
    """Give where mounted files are, as absolute paths: the daemons run in other directories."""
    return {
        name: getattr(settings, name).absolute()
        for name in ("tls_key_path", "tls_cert_path", "tls_ca_path")
    }


def _is_mounted(settings: Settings) -> bool:
    """Tell whether the material is the user's: a file is there, or a path was set on purpose."""
    return any(
        settings.is_set(name) or not _missing(path) for name, path in _paths(settings).items()
    )


def _missing(path: Path) -> str | None:
    """Say why there seems to be nothing at ``path``; None if there is something."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "there is no such file"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _files(key: Path, certificate: Path, ca: Path, *, made_here: bool) -> TlsFiles:
    files = TlsFiles(key, certificate, ca, made_here)
    with contextlib.suppress(OSError):
        checksum = hashlib.sha256(certificate.read_bytes()).hexdigest()
        files = replace(files, certificate_checksum=checksum)
    try:
        ca_certificate = x509.load_pem_x509_certificate(ca.read_bytes())
    except (OSError, ValueError):
        return files
    return replace(
        files,
        ca_pem=ca_certificate.public_bytes(serialization.Encoding.PEM).decode(),
        ca_der=ca_certificate.public_bytes(serialization.Encoding.DER),
        ca_p12=pkcs12.serialize_key_and_certificates(
            None, None, None, [ca_certificate], serialization.NoEncryption()
        ),
        ca_fingerprint=ca_certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
    )


def _judge_files(settings: Settings, now: datetime) -> list[Problem]:
    """Judge three files that are there; every fault that can be seen is reported."""
    problems: list[Problem] = []
    for name, path in _paths(settings).items():
        if not is_plain_path(str(path)):
            problems.append(
                Problem(
                    settings.subject(name),
                    f"{path} has a character that the daemons' configuration gives a meaning to",
                    "choose a path of letters, digits and . _ - + = @ /",
                )
            )
    key = _read_key(settings, problems)
    chain = _read_certificates(settings, "tls_cert_path", problems)
    authorities = _read_certificates(settings, "tls_ca_path", problems)
    for name, certificates in (("tls_cert_path", chain), ("tls_ca_path", authorities)):
        for certificate in certificates:
            problems += _judge_dates(settings.subject(name), certificate, now)
    if authorities and not _is_ca(authorities[0]):
        problems.append(
            Problem(
                settings.subject("tls_ca_path"),
                f"{_name(authorities[0])} is not a CA (basic constraints do not say CA:TRUE)",
                "give the certificate of the CA itself, not one that it issued",
            )
        )
    if chain and not _covers(chain[0], settings.hostname):
        problems.append(
            Problem(
                settings.subject("tls_cert_path"),
                f"the certificate is not for {settings.hostname}: its subject alternative names "
                f"are {', '.join(_alternative_names(chain[0])) or 'none'}",
                f"issue one with DNS:{settings.hostname}, "
                f"or set DEVMAIL_HOSTNAME to a name that it has",
            )
        )
    if key and chain:
        if not is_key_of(key, chain[0]):
            problems.append(
                Problem(
                    settings.subject("tls_key_path"),
                    f"the key does not belong to the certificate in {settings.tls_cert_path}",
                    "give the key that the certificate was requested with; where the file has "
                    "several certificates, the server's comes first",
                )
            )
        elif authorities:
            problems += _judge_chain(settings)
    return problems


def _read(settings: Settings, name: str, problems: list[Problem]) -> bytes | None:
    try:
        return _paths(settings)[name].read_bytes()
    except OSError as error:
        problems.append(
            Problem(
                settings.subject(name),
                f"cannot be read: {error.strerror}",
                "give a file that root can read",
            )
        )
        return None


def _read_key(settings: Settings, problems: list[Problem]) -> PrivateKeyTypes | None:
    subject = settings.subject("tls_key_path")
    pem = _read(settings, "tls_key_path", problems)
    if pem is None:
        return None
    if settings.tls_key_path.stat().st_mode & _WORLD_READABLE:
        problems.append(
            Problem(
                subject,
                "every user of this machine can read the private key",
                f"chmod 0400 {settings.tls_key_path}",
            )
        )
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        fault = "the key is encrypted, and no one is there to type the passphrase"
        remedy = f"openssl pkey -in {settings.tls_key_path} -out key.pem"
    except (ValueError, UnsupportedAlgorithm):
        fault = "not a private key in PEM form"
        remedy = "give a file that begins with -----BEGIN PRIVATE KEY----- or the like"
    problems.append(Problem(subject, fault, remedy))
    return None


def _read_certificates(
    settings: Settings, name: str, problems: list[Problem]
) -> list[x509.Certificate]:
    pem = _read(settings, name, problems)
    if pem is None:
        return []
    begin = b"-----BEGIN CERTIFICATE-----"
    try:
        certificates = [
            x509.load_pem_x509_certificate(begin + block) for block in pem.split(begin)[1:]
        ]
        for certificate in certificates:
            # These are read only when they are asked for.
            _ = certificate.extensions, certificate.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension):
        certificates = []
    if not certificates:
        problems.append(
            Problem(
                settings.subject(name),
                "not a certificate in PEM form",
                "give a file that begins with -----BEGIN CERTIFICATE-----; "
                "`openssl x509 -inform DER` converts the binary form",
            )
        )
    return certificates


def _judge_dates(subject: str, certificate: x509.Certificate, now: datetime) -> Iterable[Problem]:
    if now < not_before(certificate):
        yield Problem(
            subject,
            f"{_name(certificate)} is not valid before {_shown(not_before(certificate))}",
            "wait until then, correct this machine's clock, or issue a new certificate",
        )
    if now > not_after(certificate):
        yield Problem(
            subject,
            f"{_name(certificate)} ran out on {_shown(not_after(certificate))}",
            "issue a new certificate",
        )


def _judge_chain(settings: Settings) -> Iterable[Problem]:
    """Let OpenSSL verify the chain in a handshake with itself, exactly as a client will."""
    subject = settings.subject("tls_cert_path")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(settings.tls_cert_path, settings.tls_key_path)
    except ssl.SSLError as error:
        yield _refused_by_openssl(subject, error)
        return
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= _NO_CHECK_TIME
    client.load_verify_locations(settings.tls_ca_path)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server)
    done = False
    while not done:
        try:
            client_side.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as error:
            yield Problem(
                subject,
                f"it does not lead to the CA in {settings.tls_ca_path}: {error.verify_message}",
                "give the CA that issued it, and put intermediate certificates after the "
                "server's own in the certificate file",
            )
            return
        try:
            server_side.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            yield _refused_by_openssl(subject, error)
            return


def _refused_by_openssl(subject: str, error: ssl.SSLError) -> Problem:
    return Problem(
        subject,
        f"OpenSSL refuses the certificate or its key: {error.reason}",
        "issue a certificate with a key of today's strength, such as EC P-256 or RSA 2048",
    )


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca


def _alternative_names(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [
        *extension.value.get_values_for_type(x509.DNSName),
        *map(str, extension.value.get_values_for_type(x509.IPAddress)),
    ]


def _covers(certificate: x509.Certificate, hostname: str) -> bool:
    """Tell whether the certificate is for ``hostname`` (RFC 6125: SANs only, ``*.`` one label)."""
    wildcard = "*." + hostname.partition(".")[2]
    return any(name.lower() in (hostname, wildcard) for name in _alternative_names(certificate))


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _name(certificate: x509.Certificate) -> str:
    return f"the certificate of {certificate.subject.rfc4514_string() or '(no subject)'}"
