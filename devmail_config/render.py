"""Turn settings into the tree of files that the daemons run from.

``render`` is a pure function of its arguments and of the templates; all that it may leave on the
disk is their byte code, next to Python's own. Only ``write`` changes anything else, and only below
the directory that it is given.

A template's place is its file's place: ``templates/<service>/<path>.j2`` becomes
``<service>/<path>``. There are two exceptions: the supervisor's templates are rendered once for
each service, and a template whose name begins with ``_`` is only there for others to build on.
"""

from __future__ import annotations

import contextlib
import json
import os
import py_compile
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import (
    Environment,
    FileSystemBytecodeCache,
    FileSystemLoader,
    StrictUndefined,
    select_autoescape,
)
from jinja2.bccache import Bucket

from devmail_config import __version__, addresses, fault_tables, users
from devmail_config.fault_ports import BREAKAGES, fault_ports
from devmail_config.faults import CHEAT_SHEET
from devmail_config.layout import Layout
from devmail_config.ownership import MARK
from devmail_config.printable import hidden_octets
from devmail_config.services import (
    HEALTH_CHECK,
    PYTHON,
    REST_SECONDS,
    TLS_CIPHERS,
    TLS_VERSIONS,
    Service,
    listeners,
    running,
)
from devmail_config.settings import Settings, fixed_values
from devmail_config.tls import TlsFiles
from devmail_config.webmail import Webmail

_PACKAGE = Path(__file__).parent
TEMPLATES = _PACKAGE.parent / "templates"
# The part of this package that daemons start, below libexec/.
_LIBEXEC_SOURCES = ("__init__.py", "addresses.py", "durable.py", "faults.py", "programs/*.py")
# Postfix distrusts a configuration that is younger than two seconds, and its tools wait.
_AGE_SECONDS = 10
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_WELL_KNOWN = {"http": 80, "https": 443}


@dataclass(frozen=True)
class RenderedFile:
    """The content of one file, and whether it is a program."""

    content: str | bytes
    executable: bool = False
    # It comes out differently each time, as with a random salt: new only if this one, which stands
    # before it in the tree, is.
    follows: PurePosixPath | None = None


Tree = Mapping[PurePosixPath, RenderedFile]


def render(
    settings: Settings,
    layout: Layout,
    tls: TlsFiles,
    listen_addresses: tuple[str, ...],
    webmail: Webmail | None = None,
) -> Tree:
    """Render every file, by its path below the run directory."""
    environment = _environment()
    tables = fault_tables.tables(settings.all_faults)
    context = {
        "settings": settings,
        "layout": layout,
        "tls": tls,
        "tls_versions": TLS_VERSIONS,
        "tls_ciphers": TLS_CIPHERS,
        "addresses": listen_addresses,
        "has_ipv6": any(":" in address for address in listen_addresses),
        "interfaces": ", ".join(_interfaces(listen_addresses)),
        "listeners": listeners(with_webmail=webmail is not None),
        "port": settings.port,
        "endpoint": endpoint,
        # Where the webmail finds the daemons.
        "local": reachable(listen_addresses),
        "webmail": webmail,
        "health_check": HEALTH_CHECK,
        "hidden_octets": hidden_octets(),
        # By which names a browser may know this server, and how it writes where a page is from.
        "own_names": dict.fromkeys((settings.hostname, *settings.tls_names, *_LOOPBACK_NAMES)),
        "origin": lambda scheme, name: origin(scheme, name, settings.port(scheme)),
        "ordinary": addresses.ORDINARY,
        "exception": addresses.EXCEPTION,
        "number": addresses.NUMBER,
        # As it is written inside of a condition of Dovecot's.
        "mailbox_name": addresses.MAILBOX.replace("%", "%%").replace(":", r"\:"),
        "mailbox_local": addresses.MAILBOX_LOCAL,
        "mailbox_domain": addresses.MAILBOX_DOMAIN,
        "short_local": addresses.SURELY_SHORT_LOCAL,
        "short_domain": addresses.SURELY_SHORT_DOMAIN,
        "written": addresses.WRITTEN,
        "faults": settings.all_faults,
        "fault_tables": tables,
        "fault_ports": fault_ports(settings),
        "breakages": BREAKAGES,
        "cheat_sheet": CHEAT_SHEET,
        "reachable": reachable(listen_addresses),
        "gate_is_needed": any(table.is_for_single_recipients for table in tables),
        "quotas": fault_tables.Quotas.of(settings.all_faults),
        "python": f"{PYTHON} -ISE",
        "libexec": layout.libexec,
        "version": __version__,
        "users": users,
        "rest": REST_SECONDS,
    }
    tree = {**_downloads(tls), **dict(_render_libexec(environment, context))}
    tree[PurePosixPath(layout.fixed_settings.name)] = RenderedFile(
        json.dumps(fixed_values(settings), indent=1) + "\n"
    )
    for service in running(with_webmail=webmail is not None):
        config = layout.config(service.name)
        of_service = {**context, "service": service, "config": config}
        of_service["command"] = filled(service.command, layout, service)
        tree |= _render_service(environment, of_service, service.name)
        tree |= _render_supervision(environment, of_service, service.name)
    if webmail:
        of_webmail = {**context, "config": layout.config(webmail.name)}
        tree |= _render_service(environment, of_webmail, webmail.name)
    tree |= _render_fault_tables(environment, context)
    supervisor = PurePosixPath("supervisor/.s6-svscan")
    for name, template in (("SIGTERM", "SIGTERM"), ("finish", "svscan-finish")):
        content = environment.get_template(f"supervisor/{template}.j2").render(context)
        tree[supervisor / name] = RenderedFile(content, executable=True)
    return tree


def write(tree: Tree, directory: Path, created_at: float) -> None:
    """Write ``tree`` into ``directory``, which is emptied first: nothing old survives a start.

    Only the mark stays that says that the directory may be emptied. ``created_at`` is the time, in
    seconds since the epoch, before which the files are dated.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for entry in directory.iterdir():
        if entry.name == MARK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    for path, file in tree.items():
        _write_file(directory / path, file, created_at)


@dataclass(frozen=True)
class Update:
    """The files that an update wrote."""

    changed: frozenset[PurePosixPath]
    # As they were before, for a way back; a file that is new is not among them.
    before: Tree


def update(tree: Tree, directory: Path, created_at: float) -> Update:
    """Write what has changed of ``tree`` into the directory of a running server.

    Each file is replaced whole, and nothing is removed: the daemons' sockets are there too.
    """
    changed, before = set(), {}
    for path, file in tree.items():
        target = directory / path
        content = target.read_bytes() if target.exists() else None
        is_as_before = file.follows is not None and file.follows not in changed
        if content == _octets(file) or (content is not None and is_as_before):
            continue
        changed.add(path)
        if content is not None:
            before[path] = RenderedFile(content, file.executable)
        _write_file(target, file, created_at)
    return Update(frozenset(changed), before)


def _write_file(target: Path, file: RenderedFile, created_at: float) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f"{target.name}.new")
    new.write_bytes(_octets(file))
    new.chmod(0o755 if file.executable else 0o644)
    os.utime(new, (created_at - _AGE_SECONDS, created_at - _AGE_SECONDS))
    new.replace(target)
    if target.suffix == ".py":
        py_compile.compile(str(target), doraise=True)


def _octets(file: RenderedFile) -> bytes:
    return file.content if isinstance(file.content, bytes) else file.content.encode()


def endpoint(address: str, port: int) -> str:
    """Write an address and a port as one word, an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def reachable(addresses: tuple[str, ...]) -> str:
    """Give an address to connect to: loopback where the server listens on every interface."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(addresses[0], addresses[0])


def origin(scheme: str, name: str, port: int) -> str:
    """Write the origin of a page as browsers do (RFC 6454, section 6.1): no well-known port."""
    host = f"[{name}]" if ":" in name else name
    return f"{scheme}://{host}" + ("" if port == _WELL_KNOWN[scheme] else f":{port}")


def _interfaces(listen_addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Say which addresses are the server's own; Postfix takes no wildcard address for that."""
    return ("all",) if {"0.0.0.0", "::"} & set(listen_addresses) else listen_addresses


def filled(command: tuple[str, ...], layout: Layout, service: Service) -> tuple[str, ...]:
    """Put the directories of one server into a command of a service."""
    places = {"config": layout.config(service.name), "libexec": layout.libexec}
    return tuple(word.format(**places) for word in command)


class _ByteCode(FileSystemBytecodeCache):
    """Keeps compiled templates where Python keeps compiled modules, if that can be written to."""

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep one template for the next start."""
        with contextlib.suppress(OSError):
            super().dump_bytecode(bucket)


def _environment() -> Environment:
    byte_code = _PACKAGE / "__pycache__"
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        # To compile the templates takes as long as all the rest of rendering and writing.
        bytecode_cache=_ByteCode(str(byte_code)) if byte_code.is_dir() else None,
        undefined=StrictUndefined,
        # Only pages are HTML; everything else has a syntax of its own.
        autoescape=select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _downloads(tls: TlsFiles) -> Tree:
    """The CA's certificate in the forms that browsers and mail clients import."""
    pages = PurePosixPath("nginx/www")
    return {
        pages / "ca.crt": RenderedFile(tls.ca_pem),
        pages / "ca.der": RenderedFile(tls.ca_der),
        pages / "ca.p12": RenderedFile(tls.ca_p12, follows=pages / "ca.der"),
    }


def _render_service(
    environment: Environment, context: Mapping[str, Any], name: str
) -> Iterator[tuple[PurePosixPath, RenderedFile]]:
    for template in environment.list_templates(
        filter_func=lambda path: path.startswith(f"{name}/") and "/_" not in path
    ):
        content = environment.get_template(template).render(context)
        yield PurePosixPath(template.removesuffix(".j2")), RenderedFile(content)


def _render_fault_tables(environment: Environment, context: Mapping[str, Any]) -> Tree:
    template = environment.get_template("postfix/_fault_table.j2")
    return {
        PurePosixPath("postfix/faults") / table.name: RenderedFile(
            template.render({**context, "table": table})
        )
        for table in context["fault_tables"]
    }


def _render_supervision(
    environment: Environment, context: Mapping[str, Any], name: str
) -> Iterator[tuple[PurePosixPath, RenderedFile]]:
    directory = PurePosixPath("supervisor") / name
    service = context["service"]
    is_brief = context["settings"].log_level != "debug"
    filtering = (service.name, service.own_line, *(service.routine if is_brief else ()))
    for template, script in (("run", "run"), ("finish", "finish"), ("log", "log/run")):
        content = environment.get_template(f"supervisor/{template}.j2").render(
            {**context, "filtering": shlex.join(filtering)}
        )
        yield directory / script, RenderedFile(content, executable=True)
    yield directory / "down-signal", RenderedFile(f"SIG{service.stop_signal}\n")
    yield directory / "timeout-kill", RenderedFile(f"{service.stop_seconds * 1000}\n")
    # A finish script that hangs must not keep the daemon down.
    yield directory / "timeout-finish", RenderedFile("2000\n")


def _render_libexec(
    environment: Environment, context: Mapping[str, Any]
) -> Iterator[tuple[PurePosixPath, RenderedFile]]:
    libexec = PurePosixPath("libexec")
    for name in ("__main__.py", "faults.json", "fault-gate.awk", "log-filter.pl"):
        content = environment.get_template(f"libexec/{name}.j2").render(context)
        yield libexec / name, RenderedFile(content)
    for pattern in _LIBEXEC_SOURCES:
        for source in sorted(_PACKAGE.glob(pattern)):
            path = libexec / _PACKAGE.name / source.relative_to(_PACKAGE).as_posix()
            yield path, RenderedFile(source.read_text(encoding="utf-8"))
