"""The development CA: made once, renewed in time, and of no use to a thief."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from devmail_config.authority import (
    Material,
    ensure,
    fault,
    is_key_of,
    make_faulty,
    not_after,
    not_before,
)
from tests.helpers import ca as helper
from tests.helpers.ca import (
    DAY,
    Issued,
    issue,
    make_ca,
    server_constraints,
    write_earlier_material,
)
from tests.helpers.stolen import (
    FOREIGN,
    NAMELESS,
    OURS,
    USAGES,
    forge,
    forge_all,
    forge_ca,
    stolen,
    wishes,
)

NOW = datetime.now(UTC)
NAMES = ("mail.localhost", "localhost", "127.0.0.1", "::1", "mail.test", "192.0.2.7")


by_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Material that no test changes."""
    return ensure(tmp_path_factory.mktemp("made"), NAMES, NOW)


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


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
def test_the_key_signs_for_no_other_name(
    made: Material, tmp_path: Path, names: Sequence[str]
) -> None:
    signer = stolen(made)
    forged = helper.Material.below(tmp_path)
    forged.write(issue("forged", signer, names=names), signer, signer)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(forged.certificate, forged.key, made.ca, names[-1])


def test_the_key_makes_no_further_ca(made: Material, tmp_path: Path) -> None:
    signer = stolen(made)
    between = issue("between", signer, ca=True)
    forged = helper.Material.below(tmp_path)
    forged.write(issue("forged", between, names=["localhost"]), signer, between, signer)
    with pytest.raises(ssl.SSLCertVerificationError, match="path length constraint exceeded"):
        handshake(forged.certificate, forged.key, made.ca, "localhost")


def test_the_key_of_the_ca_itself_is_nowhere(tmp_path: Path) -> None:
    def private_keys() -> list[str]:
        return sorted(path.name for path in tmp_path.iterdir() if b"PRIVATE" in path.read_bytes())

    made = ensure(tmp_path, NAMES, NOW)
    ca = read(made.ca)
    assert ca.issuer == ca.subject
    assert private_keys() == ["mail.key.pem", "signer.key.pem"]
    for name in private_keys():
        key = serialization.load_pem_private_key((tmp_path / name).read_bytes(), None)
        assert not is_key_of(key, ca)
    make_faulty(made, NAMES, NOW)
    assert private_keys() == sorted(
        f"{name}.key.pem" for name in ("mail", "signer", "expired", "wrong-name", "unknown-ca")
    )


# --- What a thief can do with the key, by OpenSSL ---

ALLOWED_HOSTS = wishes(OURS, "none", "server", "several") | wishes(
    NAMELESS, "none", "server", "several"
)


@pytest.fixture(scope="module")
def forged(made: Material, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate for each wish and each usage."""
    return forge_all(stolen(made), tmp_path_factory.mktemp("forged"))


def openssl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)


def accepted(files: dict[str, Path], *arguments: str | Path) -> set[str]:
    """Name the certificates that OpenSSL takes; it must have judged each of them."""
    done = openssl("verify", *arguments, *files.values())
    good = re.findall(r"^(\S+): OK$", done.stdout, re.MULTILINE)
    bad = re.findall(r"^error (\S+): verification failed$", done.stderr, re.MULTILINE)
    assert sorted([*good, *bad]) == sorted(map(str, files.values()))
    return {name for name, path in files.items() if str(path) in good}


@by_openssl
@pytest.mark.parametrize("strict", [[], ["-x509_strict"]], ids=["", "strict"])
@pytest.mark.parametrize(
    ("purpose", "allowed"),
    [
        ("sslserver", ALLOWED_HOSTS),
        ("nssslserver", ALLOWED_HOSTS),
        ("sslclient", set()),
        ("smimesign", set()),
        ("smimeencrypt", set()),
        ("timestampsign", set()),
        # Who asks for no purpose gets any, as far as the names go.
        ("crlsign", wishes(OURS) | wishes(NAMELESS)),
        ("ocsphelper", wishes(OURS) | wishes(NAMELESS)),
        ("any", wishes(OURS) | wishes(NAMELESS)),
    ],
)
def test_openssl_takes_a_forged_certificate_for_a_tls_server_only(
    made: Material, forged: dict[str, Path], strict: list[str], purpose: str, allowed: set[str]
) -> None:
    assert len(forged) == len({**FOREIGN, **NAMELESS, **OURS}) * len(USAGES)
    found = accepted(
        forged, *strict, "-purpose", purpose, "-CAfile", made.ca, "-untrusted", made.signer
    )
    assert found == allowed


@by_openssl
@pytest.mark.parametrize("host", ["example.com", "www.example.com", "ceo", "localhost.example.com"])
def test_openssl_takes_none_for_another_host(
    made: Material, forged: dict[str, Path], host: str
) -> None:
    trust = ("-CAfile", made.ca, "-untrusted", made.signer)
    assert accepted(forged, *trust, "-verify_hostname", host) == set()


@by_openssl
def test_openssl_takes_one_for_our_hosts(made: Material, forged: dict[str, Path]) -> None:
    trust = ("-purpose", "sslserver", "-CAfile", made.ca, "-untrusted", made.signer)
    found = accepted(forged, *trust, "-verify_hostname", "mail.localhost")
    assert found == {f"our host/{usage}" for usage in ("none", "server", "several")}
    found = accepted(forged, *trust, "-verify_hostname", "x.mail.localhost")
    assert found == {f"host below ours/{usage}" for usage in ("none", "server", "several")}


@by_openssl
@pytest.mark.parametrize("usage", USAGES)
@pytest.mark.parametrize("self_issued", [False, True])
@pytest.mark.parametrize("purpose", ["sslserver", "sslclient", "smimesign", "smimeencrypt", "any"])
def test_a_ca_below_the_signer_signs_for_nobody_else(
    made: Material, tmp_path: Path, usage: str, purpose: str, *, self_issued: bool
) -> None:
    signer = stolen(made)
    between = forge_ca(signer, usage, self_issued=self_issued)
    chain = tmp_path / "chain"
    chain.write_bytes(between.pem + signer.pem)
    files: dict[str, Path] = {}
    for wish in ("host", "mail", "mail in the subject", "person", "our host"):
        files[wish] = tmp_path / f"{len(files)}.pem"
        one = {**FOREIGN, **NAMELESS, **OURS}[wish]
        files[wish].write_bytes(forge(one, usage, signer, below=between).pem)
    trust = ("-purpose", purpose, "-CAfile", made.ca, "-untrusted", chain)
    is_allowed = purpose == "any" or (
        purpose == "sslserver" and usage in {"none", "server", "several"}
    )
    expected = {"person", "our host"} if self_issued and is_allowed else set()
    assert accepted(files, *trust) == expected


@by_openssl
# Mail of a certificate whose only usage is "any" is refused by OpenSSL whoever signs it.
@pytest.mark.parametrize("usage", ["none", "mail", "several"])
@pytest.mark.parametrize(
    "wish", ["mail", "mail in the subject", "mail in the common name", "person", "our host"]
)
def test_openssl_takes_no_signed_mail(
    made: Material, tmp_path: Path, wish: str, usage: str
) -> None:
    def judge(issuer: Issued, ca: Path) -> tuple[bool, str]:
        one = forge({**FOREIGN, **NAMELESS, **OURS}[wish], usage, issuer)
        (tmp_path / "one.pem").write_bytes(one.pem)
        (tmp_path / "key.pem").write_bytes(one.key_pem)
        (tmp_path / "issuer.pem").write_bytes(issuer.pem)
        (tmp_path / "text").write_text("Pay at once.\n")
        signed = tmp_path / "signed"
        openssl(
            *("cms", "-sign", "-in", tmp_path / "text", "-out", signed),
            *("-signer", tmp_path / "one.pem", "-inkey", tmp_path / "key.pem"),
            *("-certfile", tmp_path / "issuer.pem"),
        ).check_returncode()
        done = openssl("cms", "-verify", "-in", signed, "-CAfile", ca)
        return done.returncode == 0, done.stderr

    is_good, complaint = judge(stolen(made), made.ca)
    assert not is_good
    assert re.search("unsuitable certificate purpose|permitted subtree violation", complaint)
    # The mail is in order: another CA's is taken.
    other = make_ca()
    (tmp_path / "other.pem").write_bytes(other.pem)
    assert judge(other, tmp_path / "other.pem")[0]


# --- The files ---


def test_what_the_certificates_say(made: Material) -> None:
    ca, signer, certificate = read(made.ca), read(made.signer), read(made.certificate)
    assert made.certificate.read_bytes().endswith(made.signer.read_bytes())
    assert (certificate.issuer, signer.issuer) == (signer.subject, ca.subject)
    for one in (ca, signer, certificate):
        key = one.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
        assert not_before(one) < NOW
    assert not_after(ca) == not_after(signer) > NOW + 3640 * DAY
    assert not_after(certificate) - not_before(certificate) <= 825 * DAY
    for one in (ca, signer, certificate):
        usage = one.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [helper.general_name(name) for name in NAMES]


def contents(material: Material) -> list[bytes]:
    paths = (material.ca, material.signer_key, material.signer, material.key, material.certificate)
    return [path.read_bytes() for path in paths]


def test_it_is_made_once_and_kept(tmp_path: Path) -> None:
    first = contents(ensure(tmp_path, NAMES, NOW))
    assert contents(ensure(tmp_path, NAMES, NOW + 300 * DAY)) == first


@by_openssl
@pytest.mark.parametrize(
    ("names", "later", "new_ca", "new_certificate"),
    [
        (NAMES, 419, None, False),
        # Fewer than 400 days are left of the certificate.
        (NAMES, 421, None, True),
        (NAMES, 900, None, True),
        # A certificate from this CA could outlive it.
        (NAMES, 2829, None, True),
        (NAMES, 2831, f"it runs out on {NOW - DAY / 24 + 3650 * DAY:%Y-%m-%d}", True),
        # The CA may not sign for a new name, so both are new.
        ((*NAMES, "new.example"), 0, "it may not sign for new.example", True),
        ((*NAMES, "192.0.2.99"), 0, "it may not sign for 192.0.2.99/32", True),
        (
            (*NAMES, "new.example", "2001:db8::1"),
            0,
            "it may not sign for 2001:db8::1/128, new.example",
            True,
        ),
        # It may for a name below one of its own, or for fewer names.
        ((*NAMES, "127.0.0.2"), 0, None, True),
        (NAMES[:-1], 0, None, True),
    ],
)
def test_it_is_renewed_when_it_has_to_be(
    tmp_path: Path, names: Sequence[str], later: int, *, new_ca: str | None, new_certificate: bool
) -> None:
    before = contents(ensure(tmp_path, NAMES, NOW))
    now = NOW + later * DAY
    assert fault(tmp_path, names, now) == new_ca
    material = ensure(tmp_path, names, now)
    assert fault(tmp_path, names, now) is None
    changed = [old != new for old, new in zip(before, contents(material), strict=True)]
    assert changed == [new_ca is not None] * 3 + [new_certificate] * 2
    certificate, ca = read(material.certificate), read(material.ca)
    openssl(
        *("verify", "-x509_strict", "-purpose", "sslserver", "-attime", str(int(now.timestamp()))),
        *("-CAfile", material.ca, "-untrusted", material.certificate, material.certificate),
    ).check_returncode()
    assert now + 390 * DAY < not_after(certificate) <= not_after(ca)
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(found) == [helper.general_name(name) for name in names]


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (["signer.key.pem"], "signer.key.pem is lost"),
        (["signer.cert.pem"], "signer.cert.pem is lost"),
        (["signer.cert.pem", "signer.key.pem"], "signer.cert.pem and signer.key.pem are lost"),
        (["ca.cert.pem"], "ca.cert.pem is lost"),
        (["mail.key.pem"], None),
        (["mail.cert.pem"], None),
    ],
)
@pytest.mark.parametrize("lose", [lambda _: None, Path.touch], ids=["removed", "empty"])
def test_what_is_lost_is_made_again(
    tmp_path: Path, lose: Callable[[Path], None], lost: list[str], told: str | None
) -> None:
    ensure(tmp_path, NAMES, NOW)
    for name in lost:
        # A power cut leaves files empty that were not on the disk yet.
        (tmp_path / name).unlink()
        lose(tmp_path / name)
    assert fault(tmp_path, NAMES, NOW) == told
    material = ensure(tmp_path, NAMES, NOW)
    handshake(material.certificate, material.key, material.ca, "localhost")


def test_a_first_start_replaces_nothing(tmp_path: Path) -> None:
    assert fault(tmp_path / "tls", NAMES, NOW) is None
    assert not (tmp_path / "tls").exists()


SERVERS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
SERVERS_AND_MAIL = x509.ExtendedKeyUsage([*SERVERS, ExtendedKeyUsageOID.EMAIL_PROTECTION])
NOBODYS_MAIL = x509.RFC822Name("devmail.invalid")
NOBODYS_URI = x509.UniformResourceIdentifier("devmail.invalid")


def constraints(*more: x509.GeneralName) -> x509.NameConstraints:
    return x509.NameConstraints([*server_constraints(*NAMES[:2], *NAMES[4:]), *more], None)


@pytest.mark.parametrize(
    "extensions",
    [
        [constraints()],
        [constraints(), SERVERS],
        [constraints(NOBODYS_MAIL, NOBODYS_URI)],
        [constraints(NOBODYS_MAIL), SERVERS],
        [constraints(NOBODYS_URI), SERVERS],
        [constraints(NOBODYS_MAIL, NOBODYS_URI), SERVERS_AND_MAIL],
    ],
)
@pytest.mark.parametrize("lost", [None, "ca.key.pem", "mail.cert.pem"])
def test_a_ca_that_is_good_for_more_is_replaced(
    tmp_path: Path, extensions: list[x509.ExtensionType], lost: str | None
) -> None:
    write_earlier_material(tmp_path, NAMES, extensions)
    if lost:
        (tmp_path / lost).unlink()
    before = (tmp_path / "ca.cert.pem").read_bytes()
    told = "an earlier version of devmail made it, and its key can sign anyone's e-mail"
    assert fault(tmp_path, NAMES, NOW) == told
    material = ensure(tmp_path, NAMES, NOW)
    assert fault(tmp_path, NAMES, NOW) is None
    assert material.ca.read_bytes() != before
    assert not (tmp_path / "ca.key.pem").exists()
    for name in NAMES:
        handshake(material.certificate, material.key, material.ca, name)


@pytest.mark.parametrize("written", [["signer.key.pem"], ["signer.key.pem", "signer.cert.pem"]])
def test_a_replacement_that_was_interrupted_is_made_good(
    tmp_path: Path, written: list[str]
) -> None:
    write_earlier_material(tmp_path, NAMES)
    other = ensure(tmp_path / "other", NAMES, NOW).ca.parent
    for name in written:
        (tmp_path / name).write_bytes((other / name).read_bytes())
    assert fault(tmp_path, NAMES, NOW) is not None
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
        if flags & os.O_DIRECTORY:
            return descriptor
        modes = seen.setdefault(path.name, set())
        modes.add(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    # What an attempt that was cut short left behind must not lend its mode to a key.
    (tmp_path / "signer.key.pem.new").touch(0o666)
    monkeypatch.setattr(os, "open", watch)
    material = ensure(tmp_path, NAMES, NOW)
    monkeypatch.undo()
    assert seen == {
        "ca.cert.pem.new": {0o644},
        "signer.key.pem.new": {0o600},
        "signer.cert.pem.new": {0o644},
        "mail.key.pem.new": {0o600},
        "mail.cert.pem.new": {0o644},
    }
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {
        material.ca.name: 0o644,
        material.signer_key.name: 0o600,
        material.signer.name: 0o644,
        material.key.name: 0o600,
        material.certificate.name: 0o644,
    }


def test_faulty_certificates_have_one_fault_each(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    own = ensure(tmp_path, ("mail.localhost", "127.0.0.1"), now)
    make_faulty(own, ("mail.localhost", "127.0.0.1"), now)
    signer = x509.load_pem_x509_certificate(own.signer.read_bytes())

    def read(name: str) -> tuple[x509.Certificate, list[str]]:
        certificate = x509.load_pem_x509_certificate((tmp_path / f"{name}.cert.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return certificate, names.get_values_for_type(x509.DNSName)

    expired, names = read("expired")
    assert now - timedelta(days=2) < not_after(expired) < now
    assert (expired.issuer, names) == (signer.subject, ["mail.localhost"])
    wrong, names = read("wrong-name")
    assert not_after(wrong) > now
    assert (wrong.issuer, names) == (signer.subject, ["wrong.mail.localhost"])
    unknown, names = read("unknown-ca")
    assert not_after(unknown) > now
    assert names == ["mail.localhost"]
    assert unknown.issuer != signer.subject
    aki = unknown.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    ski = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert aki.key_identifier != ski.digest
    assert sorted(path.name for path in tmp_path.glob("unknown-ca.*")) == [
        "unknown-ca.cert.pem",
        "unknown-ca.key.pem",
    ], "the stranger's keys are gone"
    for name in ("expired", "wrong-name", "unknown-ca"):
        assert (tmp_path / f"{name}.key.pem").stat().st_mode & 0o777 == 0o600
