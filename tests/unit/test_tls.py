"""Mounted TLS material is judged before anything starts: each fault has its own message."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa

from devmail_config import tls
from devmail_config.errors import DevmailError, Problem
from devmail_config.layout import Layout
from devmail_config.settings import Settings, load
from tests.helpers.ca import DAY, Issued, Material, issue, make_ca, make_material, rsa_key
from tests.helpers.server import HOSTNAME

NOW = datetime.now(UTC)
CA = make_ca()
INTERMEDIATE = make_ca("Test Intermediate CA", CA)
SERVER = issue(HOSTNAME, CA, names=[HOSTNAME])
BEHIND = issue(HOSTNAME, INTERMEDIATE, names=[HOSTNAME])
OTHER_CA = make_ca("Another CA")


def settings_for(material: Material, **environ: str) -> Settings:
    settings, problems = load({**material.environ, **environ})
    assert problems == []
    return settings


@pytest.fixture
def material(tmp_path: Path) -> Material:
    made = Material.below(tmp_path)
    made.write(SERVER, CA)
    return made


# --- What is good ---


def with_intermediate(material: Material) -> None:
    material.write(BEHIND, CA, INTERMEDIATE)


def with_wildcard(material: Material) -> None:
    material.write(issue("any", CA, names=["*.localhost"]), CA)


def with_name_in_capitals(material: Material) -> None:
    material.write(issue("any", CA, names=["other.test", "192.0.2.1", HOSTNAME.upper()]), CA)


def with_rsa(material: Material) -> None:
    material.write(issue("any", CA, names=[HOSTNAME], key=rsa_key(2048)), CA)


def with_text_around(material: Material) -> None:
    material.certificate.write_bytes(b"subject=CN = x\n\n" + SERVER.pem + b"\nthe end\n")


def with_parameters_before_the_key(material: Material) -> None:
    # `openssl ecparam -genkey` writes them.
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    material.write_key(parameters + SERVER.key_pem)


def with_the_ca_in_the_chain(material: Material) -> None:
    material.write(BEHIND, CA, INTERMEDIATE, CA)


def with_two_cas(material: Material) -> None:
    material.ca.write_bytes(OTHER_CA.pem + CA.pem)


def self_signed(material: Material) -> None:
    own = issue(HOSTNAME, ca=True, names=[HOSTNAME])
    material.write(own, own)


@pytest.mark.parametrize(
    "change",
    [
        with_intermediate,
        with_wildcard,
        with_name_in_capitals,
        with_rsa,
        with_text_around,
        with_parameters_before_the_key,
        with_the_ca_in_the_chain,
        with_two_cas,
        self_signed,
    ],
)
def test_good_material_is_served(
    material: Material, tmp_path: Path, change: Callable[[Material], None]
) -> None:
    change(material)
    settings = settings_for(material)
    assert tls.judge(settings, NOW) == []
    files = tls.provide(settings, Layout.of(settings, tmp_path), NOW)
    assert (files.key, files.certificate, files.ca, files.made_here) == (
        material.key,
        material.certificate,
        material.ca,
        False,
    )
    assert not (tmp_path / ".devmail").exists()


def test_relative_paths_start_at_the_working_directory(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_for(Material.below(Path()))
    assert tls.judge(settings, NOW) == []
    assert tls.planned(settings, Layout.of(settings, tmp_path)).key == material.key


# --- What is not ---

KEY, CERT, AUTHORITY = "tls_key_path", "tls_cert_path", "tls_ca_path"
ALL_THREE = (
    "provide all three of key, certificate and CA; "
    "for devmail to make them itself, provide none and set none of the paths"
)
NO_FILE = "there is no such file"
READABLE = "give a file that root can read"
NO_KEY = "not a private key in PEM form"
GIVE_KEY = "give a file that begins with -----BEGIN PRIVATE KEY----- or the like"
NO_CERT = "not a certificate in PEM form"
GIVE_CERT = (
    "give a file that begins with -----BEGIN CERTIFICATE-----; "
    "`openssl x509 -inform DER` converts the binary form"
)
ENCRYPTED = "the key is encrypted, and no one is there to type the passphrase"
MISMATCH = "the key does not belong to the certificate in {cert}"
GIVE_MATCH = (
    "give the key that the certificate was requested with; where the file has several "
    "certificates, the server's comes first"
)
GIVE_CHAIN = (
    "give the CA that issued it, and put intermediate certificates after the server's own "
    "in the certificate file"
)
NO_CA = "is not a CA (basic constraints do not say CA:TRUE)"
GIVE_CA = "give the certificate of the CA itself, not one that it issued"
STRONGER = "issue a certificate with a key of today's strength, such as EC P-256 or RSA 2048"
GIVE_NAME = f"issue one with DNS:{HOSTNAME}, or set DEVMAIL_HOSTNAME to a name that it has"
WAIT = "wait until then, correct this machine's clock, or issue a new certificate"
LONG_AGO, LATER = NOW - 9 * DAY, NOW + 9 * DAY


def leads_not(reason: str) -> str:
    return f"it does not lead to the CA in {{ca}}: {reason}"


def of(*names: str) -> str:
    return (
        f"the certificate is not for {HOSTNAME}: its subject alternative names are "
        f"{', '.join(names) or 'none'}"
    )


def write_pair(server: Issued, ca: Issued = CA) -> Callable[[Material], None]:
    return lambda material: material.write(server, ca)


def remove(*names: str) -> Callable[[Material], None]:
    def change(material: Material) -> None:
        for name in names:
            getattr(material, name).unlink()

    return change


def fill(name: str, content: bytes) -> Callable[[Material], None]:
    def change(material: Material) -> None:
        path: Path = getattr(material, name)
        path.unlink()
        path.write_bytes(content)
        path.chmod(0o600)

    return change


def replace_by_directory(material: Material) -> None:
    material.ca.unlink()
    material.ca.mkdir()


def link_to_itself(material: Material) -> None:
    material.ca.unlink()
    material.ca.symlink_to(material.ca)


def forget_intermediate(material: Material) -> None:
    material.write(BEHIND, CA)


def put_intermediate_first(material: Material) -> None:
    material.write(BEHIND, CA)
    material.certificate.write_bytes(INTERMEDIATE.pem + BEHIND.pem)


def give_intermediate_as_ca(material: Material) -> None:
    material.write(BEHIND, INTERMEDIATE)


def expire_intermediate(material: Material) -> None:
    old = issue("Old CA", CA, ca=True, start=LONG_AGO, end=NOW - DAY)
    material.write(issue(HOSTNAME, old, names=[HOSTNAME]), CA, old)


def break_everything(material: Material) -> None:
    wrong = issue("wrong.test", OTHER_CA, names=["wrong.test"], start=LONG_AGO, end=NOW - DAY)
    material.write(wrong, SERVER)
    material.key.chmod(0o444)


BAD: list[tuple[Callable[[Material], None], list[tuple[str, str, str]]]] = [
    (remove("key"), [(KEY, NO_FILE, ALL_THREE)]),
    (remove("certificate"), [(CERT, NO_FILE, ALL_THREE)]),
    (remove("key", "ca"), [(KEY, NO_FILE, ALL_THREE), (AUTHORITY, NO_FILE, ALL_THREE)]),
    (
        remove("key", "certificate", "ca"),
        [(name, NO_FILE, ALL_THREE) for name in (KEY, CERT, AUTHORITY)],
    ),
    (
        link_to_itself,
        [(AUTHORITY, "cannot be read: Too many levels of symbolic links", ALL_THREE)],
    ),
    (replace_by_directory, [(AUTHORITY, "cannot be read: Is a directory", READABLE)]),
    (fill("key", b""), [(KEY, NO_KEY, GIVE_KEY)]),
    (fill("key", b"secret"), [(KEY, NO_KEY, GIVE_KEY)]),
    (fill("key", SERVER.key_der), [(KEY, NO_KEY, GIVE_KEY)]),
    (fill("key", SERVER.pem), [(KEY, NO_KEY, GIVE_KEY)]),
    (
        fill("key", SERVER.encrypted_key_pem),
        [(KEY, ENCRYPTED, "openssl pkey -in {key} -out key.pem")],
    ),
    (
        lambda material: material.key.chmod(0o444),
        [(KEY, "every user of this machine can read the private key", "chmod 0400 {key}")],
    ),
    (fill("certificate", b""), [(CERT, NO_CERT, GIVE_CERT)]),
    (fill("certificate", SERVER.der), [(CERT, NO_CERT, GIVE_CERT)]),
    (fill("certificate", SERVER.key_pem), [(CERT, NO_CERT, GIVE_CERT)]),
    (fill("certificate", SERVER.pem[:200]), [(CERT, NO_CERT, GIVE_CERT)]),
    (fill("ca", CA.der), [(AUTHORITY, NO_CERT, GIVE_CERT)]),
    (fill("key", BEHIND.key_pem), [(KEY, MISMATCH, GIVE_MATCH)]),
    (
        put_intermediate_first,
        [(CERT, of(), GIVE_NAME), (KEY, MISMATCH, GIVE_MATCH)],
    ),
    (
        fill("ca", OTHER_CA.pem),
        [(CERT, leads_not("unable to get local issuer certificate"), GIVE_CHAIN)],
    ),
    (
        forget_intermediate,
        [(CERT, leads_not("unable to get local issuer certificate"), GIVE_CHAIN)],
    ),
    (
        give_intermediate_as_ca,
        [(CERT, leads_not("unable to get issuer certificate"), GIVE_CHAIN)],
    ),
    (
        fill("ca", SERVER.pem),
        [
            (AUTHORITY, f"the certificate of CN={HOSTNAME} {NO_CA}", GIVE_CA),
            (CERT, leads_not("unable to get local issuer certificate"), GIVE_CHAIN),
        ],
    ),
    (
        write_pair(issue(HOSTNAME, CA, names=[HOSTNAME], start=LONG_AGO, end=NOW - DAY)),
        [
            (
                CERT,
                f"the certificate of CN={HOSTNAME} ran out on {NOW - DAY:%Y-%m-%d %H:%M} UTC",
                "issue a new certificate",
            )
        ],
    ),
    (
        write_pair(issue(HOSTNAME, CA, names=[HOSTNAME], start=LATER)),
        [
            (
                CERT,
                f"the certificate of CN={HOSTNAME} is not valid before {LATER:%Y-%m-%d %H:%M} UTC",
                WAIT,
            )
        ],
    ),
    (
        expire_intermediate,
        [
            (
                CERT,
                f"the certificate of CN=Old CA ran out on {NOW - DAY:%Y-%m-%d %H:%M} UTC",
                "issue a new certificate",
            )
        ],
    ),
    (write_pair(issue(HOSTNAME, CA)), [(CERT, of(), GIVE_NAME)]),
    (
        write_pair(issue(HOSTNAME, CA, names=["a.test", "192.0.2.1"])),
        [(CERT, of("a.test", "192.0.2.1"), GIVE_NAME)],
    ),
    (
        # A wildcard stands for one label, and not for a part of one.
        write_pair(issue("any", CA, names=["*.mail.localhost", "*", "m*.localhost"])),
        [(CERT, of("*.mail.localhost", "*", "m*.localhost"), GIVE_NAME)],
    ),
    (
        write_pair(issue(HOSTNAME, CA, names=[HOSTNAME], key=rsa_key(1024))),
        [(CERT, "OpenSSL refuses the certificate or its key: EE_KEY_TOO_SMALL", STRONGER)],
    ),
    (
        write_pair(issue(HOSTNAME, CA, names=[HOSTNAME], key=dsa.generate_private_key(2048))),
        [(CERT, "OpenSSL refuses the certificate or its key: NO_SHARED_CIPHER", STRONGER)],
    ),
    (
        break_everything,
        [
            (KEY, "every user of this machine can read the private key", "chmod 0400 {key}"),
            (
                CERT,
                f"the certificate of CN=wrong.test ran out on {NOW - DAY:%Y-%m-%d %H:%M} UTC",
                "issue a new certificate",
            ),
            (AUTHORITY, f"the certificate of CN={HOSTNAME} {NO_CA}", GIVE_CA),
            (CERT, of("wrong.test"), GIVE_NAME),
            (CERT, leads_not("unable to get local issuer certificate"), GIVE_CHAIN),
        ],
    ),
]


@pytest.mark.parametrize(("change", "expected"), BAD)
def test_bad_material_is_refused_with_the_reason_and_a_remedy(
    material: Material,
    change: Callable[[Material], None],
    expected: list[tuple[str, str, str]],
) -> None:
    change(material)
    settings = settings_for(material)
    places = {"key": material.key, "cert": material.certificate, "ca": material.ca}
    assert tls.judge(settings, NOW) == [
        Problem(settings.subject(name), fault.format(**places), remedy.format(**places))
        for name, fault, remedy in expected
    ]


def test_a_file_that_only_root_may_read_is_a_problem_for_others(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    faults = [problem.fault for problem in tls.judge(settings_for(material), NOW)]
    assert faults == ["cannot be read: Permission denied"] * 3


def test_a_path_that_daemons_would_misread_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "my material"
    directory.mkdir()
    material = make_material(directory)
    settings = dataclasses.replace(
        settings_for(Material.below(tmp_path)),
        tls_key_path=material.key,
        tls_cert_path=material.certificate,
        tls_ca_path=material.ca,
    )
    assert tls.judge(settings, NOW) == [
        Problem(
            settings.subject(name),
            f"{getattr(settings, name)} has a character that the daemons' configuration gives "
            "a meaning to",
            "choose a path of letters, digits and . _ - + = @ /",
        )
        for name in (KEY, CERT, AUTHORITY)
    ]


# --- Our own ---


@pytest.fixture
def nothing_mounted(tmp_path: Path) -> Settings:
    """Settings as by default, but for the files that this machine happens to have."""
    absent = Material.below(tmp_path / "absent")
    return Settings(
        tls_key_path=absent.key, tls_cert_path=absent.certificate, tls_ca_path=absent.ca
    )


def test_our_own_is_made_when_nothing_is_mounted(nothing_mounted: Settings, tmp_path: Path) -> None:
    layout = Layout.of(nothing_mounted, tmp_path)
    assert tls.judge(nothing_mounted, NOW) == []
    planned = tls.planned(nothing_mounted, layout)
    assert planned.made_here
    assert (planned.ca_pem, planned.ca_fingerprint) == ("", "")
    assert not layout.tls.exists()

    files = tls.provide(nothing_mounted, layout, NOW)
    assert files.ca == layout.tls / "ca.cert.pem"
    assert files.ca_pem == files.ca.read_text()
    assert len(files.ca_fingerprint.split(":")) == 32
    assert tls.planned(nothing_mounted, layout).ca_fingerprint == files.ca_fingerprint


def test_the_default_paths_are_judged_as_soon_as_one_file_is_there(
    nothing_mounted: Settings,
) -> None:
    nothing_mounted.tls_ca_path.parent.mkdir()
    nothing_mounted.tls_ca_path.write_bytes(CA.pem)
    assert [str(problem) for problem in tls.judge(nothing_mounted, NOW)] == [
        f"{nothing_mounted.subject(name)}: {NO_FILE}\n    -> {ALL_THREE}" for name in (KEY, CERT)
    ]


NOT_WHAT_IT_WAS = [b"", b"garbage", CA.pem, CA.key_pem, CA.encrypted_key_pem]


@pytest.mark.parametrize("name", ["mail.key.pem", "mail.cert.pem"])
@pytest.mark.parametrize("content", NOT_WHAT_IT_WAS)
def test_our_own_certificate_is_made_again_when_it_is_not_what_it_was(
    nothing_mounted: Settings, tmp_path: Path, name: str, content: bytes
) -> None:
    layout = Layout.of(nothing_mounted, tmp_path)
    before = tls.provide(nothing_mounted, layout, NOW)
    (layout.tls / name).write_bytes(content)
    assert tls.provide(nothing_mounted, layout, NOW).ca_pem == before.ca_pem
    mounted = settings_for(Material(before.key, before.certificate, before.ca))
    assert tls.judge(mounted, NOW) == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("signer.key.pem", "signer.key.pem is not the key of signer.cert.pem"),
        ("signer.cert.pem", "signer.cert.pem is not the signer of ca.cert.pem"),
        ("ca.cert.pem", "ca.cert.pem is not a CA that devmail made"),
    ],
)
# One that is empty is what a power cut left, see test_authority.
@pytest.mark.parametrize("content", NOT_WHAT_IT_WAS[1:])
def test_our_own_ca_is_not_replaced_without_asking(
    nothing_mounted: Settings, tmp_path: Path, name: str, fault: str, content: bytes
) -> None:
    layout = Layout.of(nothing_mounted, tmp_path)
    certificate = tls.provide(nothing_mounted, layout, NOW).certificate
    certificate.unlink()
    (layout.tls / name).write_bytes(content)
    with pytest.raises(DevmailError) as caught:
        tls.provide(nothing_mounted, layout, NOW)
    remedy = f"remove {layout.tls} to have a new CA made (clients have to trust it anew)"
    assert caught.value.problems == (
        Problem(f"our own CA in {layout.tls}", f"it cannot be read or made: {fault}", remedy),
    )
    assert (layout.tls / name).read_bytes() == content
