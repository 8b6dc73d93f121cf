"""From settings to files: a pure function, whose every option ends up where it should."""

from __future__ import annotations

import functools
import grp
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from jinja2 import FileSystemLoader, UndefinedError

from devmail_config import render
from devmail_config.layout import Layout
from devmail_config.render import RenderedFile, Tree
from devmail_config.services import LISTENERS, SERVICES, TLS_CIPHERS, TLS_VERSIONS
from devmail_config.settings import Settings
from devmail_config.tls import TlsFiles
from devmail_config.webmail import Webmail

LAYOUT = Layout.of(Settings(state_dir=Path("/state")), Path("/"))
TLS = TlsFiles(
    Path("/tls/key.pem"),
    Path("/tls/cert.pem"),
    Path("/tls/ca.pem"),
    made_here=True,
    ca_pem="the CA\n",
    ca_der=b"the CA in binary",
    ca_p12=b"the CA in PKCS #12",
    ca_fingerprint="AB:CD",
)
BOTH = ("127.0.0.1", "::1")
# Together, these take every branch of every template.
VARIANTS = [
    (Settings(), BOTH, None),
    (
        Settings(require_auth=False, plus_addresses="fold", log_level="debug", bad_domains=()),
        ("0.0.0.0",),
        Webmail("roundcube", "Roundcube", Path("/srv/roundcube/public_html"), ("pdo",)),
    ),
    (
        Settings(webmail_one_click=False, webmail_pictures=("https://cdn.example",)),
        ("::1",),
        Webmail("rainloop", "RainLoop", Path("/srv/rainloop"), ("xml",)),
    ),
]


@functools.cache
def rendered(
    settings: Settings, addresses: tuple[str, ...] = BOTH, webmail: Webmail | None = None
) -> Tree:
    return render.render(settings, LAYOUT, TLS, addresses, webmail)


def texts(tree: Tree) -> dict[PurePosixPath, str]:
    return {path: file.content for path, file in tree.items() if isinstance(file.content, str)}


# --- A pure function ---

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_seen: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event == "open":
        path, _, flags = arguments
        # Python keeps byte code there, and Jinja's is kept next to it.
        if flags & _WRITING and "__pycache__" not in str(path):
            _seen.append(f"open {path}")
    elif "__pycache__" in str(arguments[:1]):
        return
    elif event.startswith(("os.", "shutil.", "subprocess.", "socket.")) and event not in {
        "os.listdir",
        "os.scandir",
        "os.walk",
    }:
        _seen.append(event)


sys.addaudithook(_watch)


@contextmanager
def deeds() -> Iterator[list[str]]:
    """Note what Python's audit hooks tell of files written, processes and connections."""
    global _seen  # noqa: PLW0603 - a hook cannot be taken away, only told to rest
    _seen = []
    try:
        yield _seen
    finally:
        _seen = None


@pytest.mark.parametrize(("settings", "addresses", "webmail"), VARIANTS)
def test_rendering_changes_nothing_and_asks_nobody(
    settings: Settings,
    addresses: tuple[str, ...],
    webmail: Webmail | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def refuse(name: str) -> None:
        raise KeyError(name)

    # The daemons' users may not exist where a configuration is rendered.
    monkeypatch.setattr(pwd, "getpwnam", refuse)
    monkeypatch.setattr(grp, "getgrnam", refuse)
    with deeds() as seen:
        first = render.render(settings, LAYOUT, TLS, addresses, webmail)
    assert seen == []
    assert render.render(settings, LAYOUT, TLS, addresses, webmail) == first

    with deeds() as seen:
        (tmp_path / "x").touch()
    assert seen != []


def test_every_template_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    used = set()
    get_source = FileSystemLoader.get_source

    def note(loader: FileSystemLoader, environment: Any, template: str) -> Any:
        used.add(template)
        return get_source(loader, environment, template)

    monkeypatch.setattr(FileSystemLoader, "get_source", note)
    for settings, addresses, webmail in VARIANTS:
        render.render(settings, LAYOUT, TLS, addresses, webmail)
    there = {path.relative_to(render.TEMPLATES).as_posix() for path in files(render.TEMPLATES)}
    assert used == there


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_a_name_that_is_not_defined_is_an_error_and_not_an_empty_text() -> None:
    template = render._environment().from_string("{{ nothing }}")
    with pytest.raises(UndefinedError, match="'nothing' is undefined"):
        template.render()


@pytest.mark.parametrize(("settings", "addresses", "webmail"), VARIANTS)
def test_nothing_of_the_template_language_is_left(
    settings: Settings, addresses: tuple[str, ...], webmail: Webmail | None
) -> None:
    for path, text in texts(rendered(settings, addresses, webmail)).items():
        if path.suffix != ".py":
            assert not {"{{", "{%", "None", "Undefined"} & set(text.split()), path
            assert text.endswith("\n"), path


# --- Options ---


def lines(settings: Settings, path: str, addresses: tuple[str, ...] = BOTH) -> list[str]:
    content = texts(rendered(settings, addresses))[PurePosixPath(path)]
    return [" ".join(line.split()) for line in content.splitlines()]


@pytest.mark.parametrize(
    ("change", "path", "line"),
    [
        ({"hostname": "a.test"}, "postfix/main.cf", "myhostname = a.test"),
        ({"hostname": "a.test"}, "dovecot/dovecot.conf", "hostname = a.test"),
        ({"hostname": "a.test"}, "nginx/www/index.en.html", "<h1>a.test</h1>"),
        (
            {"bad_domains": ("a.test",)},
            "postfix/bad_domains",
            "a.test retry:4.4.1 connect to a.test[192.0.2.1]:25: Connection timed out",
        ),
        ({"bounce_after": 30}, "postfix/main.cf", "maximal_queue_lifetime = 30s"),
        ({"bounce_after": 30}, "postfix/main.cf", "queue_run_delay = 1s"),
        ({"bounce_after": 30}, "postfix/main.cf", "maximal_backoff_time = 3s"),
        (
            {"bounce_after": 30},
            "postfix/master.cf",
            "qmgr unix n - n 3 1 qmgr",
        ),
        ({"message_size_limit": 4321}, "postfix/main.cf", "message_size_limit = 4321"),
        ({"require_auth": True}, "postfix/main.cf", "mynetworks ="),
        ({"require_auth": False}, "postfix/main.cf", "mynetworks = 0.0.0.0/0, [::]/0"),
        (
            {"require_auth": False},
            "postfix/main.cf",
            "smtpd_relay_restrictions = permit_mynetworks, reject",
        ),
        ({"log_level": "debug"}, "postfix/main.cf", "debug_peer_level = 1"),
        ({"log_level": "debug"}, "dovecot/dovecot.conf", "auth_debug = yes"),
        ({"log_level": "debug"}, "nginx/nginx.conf", "error_log stderr info;"),
        ({"plus_addresses": "fold"}, "postfix/transport", "/[+].*@/ mailbox:"),
        ({"plus_addresses": "fold"}, "dovecot/dovecot.conf", "username_filter = !*+*"),
        ({"port_offset": 20000}, "postfix/master.cf", "127.0.0.1:20025 inet n - n - - smtpd"),
        ({"port_offset": 20000}, "postfix/master.cf", "[::1]:20465 inet n - n - - smtpd"),
        ({"port_offset": 20000}, "dovecot/dovecot.conf", "port = 20993"),
        ({"port_offset": 20000}, "nginx/nginx.conf", "listen [::1]:20443 ssl;"),
        ({}, "postfix/main.cf", "smtpd_tls_chain_files = /tls/key.pem, /tls/cert.pem"),
        ({}, "dovecot/dovecot.conf", "ssl_cert = </tls/cert.pem"),
        ({}, "dovecot/dovecot.conf", "ssl_key = </tls/key.pem"),
        ({}, "nginx/nginx.conf", "ssl_certificate /tls/cert.pem;"),
        ({}, "nginx/nginx.conf", "ssl_certificate_key /tls/key.pem;"),
        ({}, "nginx/www/ca.crt", "the CA"),
        ({}, "nginx/www/config-v1.1.xml", "<port>993</port>"),
        ({}, "supervisor/nginx/down-signal", "SIGQUIT"),
    ],
)
def test_an_option_ends_up_where_it_should(change: dict[str, Any], path: str, line: str) -> None:
    assert line in lines(replace(Settings(), **change), path)
    if change and change != {"require_auth": True}:
        assert line not in lines(Settings(), path)


def test_tls_has_one_floor_for_every_daemon() -> None:
    settings = Settings(fault_ports=True)
    oldest, versions = TLS_VERSIONS[0], " ".join(TLS_VERSIONS)
    assert {f"smtpd_tls_protocols = >={oldest}", f"tls_high_cipherlist = {TLS_CIPHERS}"} <= (
        set(lines(settings, "postfix/main.cf"))
    )
    assert {f"ssl_min_protocol = {oldest}", f"ssl_cipher_list = {TLS_CIPHERS}"} <= (
        set(lines(settings, "dovecot/dovecot.conf"))
    )
    for path, servers in (("nginx/nginx.conf", 1), ("nginx/fault-ports.conf", 12)):
        assert lines(settings, path).count(f"ssl_protocols {versions};") == servers
        assert lines(settings, path).count(f"ssl_ciphers {TLS_CIPHERS};") == servers
    named = [
        line.strip()
        for path in files(render.TEMPLATES)
        for line in path.read_text().splitlines()
        if "TLSv1" in line
    ]
    assert named == ["ssl_protocols TLSv1 TLSv1.1;"], "only the ports for old TLS name a version"


@pytest.mark.parametrize(
    ("addresses", "postfix", "dovecot"),
    [
        (("127.0.0.1",), ["inet_protocols = ipv4", "inet_interfaces = 127.0.0.1"], "127.0.0.1"),
        (BOTH, ["inet_protocols = all", "inet_interfaces = 127.0.0.1, ::1"], "127.0.0.1, ::1"),
        (("0.0.0.0", "::"), ["inet_protocols = all", "inet_interfaces = all"], "0.0.0.0, ::"),
    ],
)
def test_the_server_listens_where_it_is_told(
    addresses: tuple[str, ...], postfix: list[str], dovecot: str
) -> None:
    assert set(postfix) <= set(lines(Settings(), "postfix/main.cf", addresses))
    assert f"listen = {dovecot}" in lines(Settings(), "dovecot/dovecot.conf", addresses)
    for address in addresses:
        endpoint = render.endpoint(address, 80)
        assert f"listen {endpoint};" in lines(Settings(), "nginx/nginx.conf", addresses)


def test_every_listener_is_on_the_page() -> None:
    page = "\n".join(lines(Settings(port_offset=20000), "nginx/www/index.en.html"))
    for listener in LISTENERS:
        assert str(listener.port + 20000) in page


def test_every_service_is_supervised() -> None:
    for service in SERVICES:
        run = PurePosixPath("supervisor", service.name, "run")
        assert rendered(Settings())[run].executable
        assert f"exec {service.command[0]}" in texts(rendered(Settings()))[run]


def test_the_scripts_are_good_shell() -> None:
    for path, text in texts(rendered(Settings())).items():
        if text.startswith("#!/bin/sh"):
            done = subprocess.run(["sh", "-n"], input=text, text=True, check=False)
            assert done.returncode == 0, path


# --- Writing ---


def test_a_tree_is_written_with_its_modes_and_dates_into_an_emptied_directory(
    tmp_path: Path,
) -> None:
    target = tmp_path / "new" / "run"
    tree = {
        PurePosixPath("a/plain"): RenderedFile("ä\n"),
        PurePosixPath("a/binary"): RenderedFile(b"\xff"),
        PurePosixPath("a/b/program"): RenderedFile("#!/bin/sh\n", executable=True),
        PurePosixPath("c/module.py"): RenderedFile("X = 1\n"),
    }
    for _ in range(2):
        render.write(tree, target, created_at=1_000_000)
        (target / "a" / "left-over").touch()
    render.write(tree, target, created_at=1_000_000)

    written = {path.relative_to(target).as_posix(): path for path in files(target)}
    compiled = written.pop(next(name for name in written if name.endswith(".pyc")))
    assert compiled.name.startswith("module.")
    assert sorted(written) == ["a/b/program", "a/binary", "a/plain", "c/module.py"]
    assert written["a/binary"].read_bytes() == b"\xff"
    assert written["a/plain"].read_bytes() == "ä\n".encode()
    modes = {name: stat.S_IMODE(path.stat().st_mode) for name, path in written.items()}
    assert modes == {name: 0o755 if name == "a/b/program" else 0o644 for name in written}
    # Postfix distrusts what is younger than two seconds.
    assert {path.stat().st_mtime for path in written.values()} == {999_990}


# --- A reload ---


def test_an_update_replaces_what_has_changed_and_removes_nothing(tmp_path: Path) -> None:
    one, two, new, salted = map(PurePosixPath, ("a/one", "a/two", "b/new", "a/salted"))
    before: render.Tree = {
        one: RenderedFile("1"),
        two: RenderedFile("2"),
        salted: RenderedFile("salt", follows=one),
    }
    render.write(before, tmp_path, 1000.0)
    (tmp_path / "a" / "socket").touch()
    untouched = (tmp_path / one).stat().st_ino
    tree = {
        one: RenderedFile("1"),
        two: RenderedFile("zwei"),
        new: RenderedFile("3"),
        salted: RenderedFile("other salt", follows=one),
    }
    update = render.update(tree, tmp_path, 2000.0)
    assert update.changed == {two, new}
    assert update.before == {two: RenderedFile(b"2")}
    assert (tmp_path / one).stat().st_ino == untouched
    assert (tmp_path / two).read_text() == "zwei"
    assert (tmp_path / two).stat().st_mtime == 1990.0
    assert (tmp_path / new).read_text() == "3"
    assert (tmp_path / "a" / "socket").exists()
    assert not list(tmp_path.rglob("*.new"))
    # What follows another one is new when that is.
    other = {one: RenderedFile("eins"), salted: RenderedFile("other salt", follows=one)}
    assert render.update(other, tmp_path, 2500.0).changed == {one, salted}
    # And back again.
    render.update(update.before, tmp_path, 3000.0)
    assert (tmp_path / two).read_text() == "2"
