"""Every setting, declared once, and the one way in which they are loaded.

A setting is a field of ``Settings``. Its environment variable, its YAML key, its reading, its
error messages and its line in ``docs/settings.md`` all follow from that one declaration.

Sources, the later ones winning: the defaults below, the YAML file that ``DEVMAIL_CONFIG`` names,
the environment (``DEVMAIL_NAME``, or ``DEVMAIL_NAME_FILE`` for a file that holds the value).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from devmail_config import faults as failures
from devmail_config import kinds
from devmail_config.errors import Problem
from devmail_config.faults import Faults
from devmail_config.kinds import Kind
from devmail_config.services import LISTENERS

PREFIX = "DEVMAIL_"
CONFIG_VARIABLE = PREFIX + "CONFIG"
_FILE_SUFFIX = "_FILE"
_DEFAULT = "default"
# The highest of the fault ports is 9587.
_HIGHEST_OFFSET_OF_FAULT_PORTS = 65535 - 9587


def option(
    default: Any,
    kind: Kind,
    help: str,  # noqa: A002 - the natural word
    *,
    fixed: bool = False,
) -> Any:
    """Declare one setting: its default, the kind of its value, and what it is for.

    A ``fixed`` one cannot change while the server runs.
    """
    return field(default=default, metadata={"kind": kind, "help": help, "fixed": fixed})


@dataclass(frozen=True)
class Settings:
    """The settings of one server. Build it with ``load``; it never changes afterwards."""

    hostname: str = option(
        "mail.localhost",
        kinds.HOSTNAME,
        "Name of the server: in SMTP greetings, bounces, certificates and web addresses.",
        fixed=True,
    )
    tls_names: tuple[str, ...] = option(
        (),
        kinds.list_of(kinds.HOSTNAME_OR_IP, "host names or IP addresses", "mail.test, 192.0.2.7"),
        "More host names and IP addresses for the certificate that devmail makes itself.",
        fixed=True,
    )
    bad_domains: tuple[str, ...] = option(
        ("bad-domain.com",),
        kinds.list_of(kinds.DOMAIN, "domains", "bad-domain.com, down.example"),
        "Domains that cannot be reached: mail to them comes back as a bounce.",
    )
    bounce_after: int = option(
        60,
        kinds.DURATION,
        "How long mail for an unreachable domain is tried before it comes back as a bounce.",
    )
    delay_warning_after: int | None = option(
        None,
        kinds.or_none(kinds.DURATION),
        "When the sender is told that mail is delayed; none: never, not even by NOTIFY=DELAY.",
    )
    fault_suffix: str | None = option(
        "fault.test",
        kinds.or_none(kinds.HOSTNAME),
        "The domain below which addresses fail on demand, see docs/faults.md; none turns that off.",
    )
    faults: tuple[str, ...] = option(
        (),
        Kind(
            "rules match=behaviour",
            failures.split,
            "shop.example=rcpt-450; from:app@shop.example=bounce",
            "; ".join,
            is_mapping=True,
        ),
        "More addresses that fail, and how, see docs/faults.md; `;` or a new line between rules.",
    )
    fault_ports: bool = option(
        False,  # noqa: FBT003 - a setting's default
        kinds.BOOLEAN,
        "Whether there are ports with bad certificates and broken connections, see docs/faults.md.",
        fixed=True,
    )
    require_auth: bool = option(
        True,  # noqa: FBT003 - a setting's default
        kinds.BOOLEAN,
        "Whether a client must log in before it may send mail.",
    )
    plus_addresses: str = option(
        "separate",
        kinds.choice("separate", "fold"),
        "Whether user+detail@domain is a mailbox of its own (separate) or user@domain (fold).",
    )
    message_size_limit: int = option(
        64 * 1024**2,
        kinds.SIZE,
        "The largest message that is accepted, as it travels (attachments grow by a third).",
    )
    line_endings: str = option(
        "standard",
        kinds.choice("standard", "strict", "lenient"),
        "Which line ends SMTP takes: as today's Postfix (standard), CR LF only (strict), or any, "
        "for trying out SMTP smuggling (lenient), see docs/faults.md.",
    )
    bind_address: tuple[str, ...] = option(
        ("127.0.0.1", "::1"),
        kinds.list_of(kinds.IP_ADDRESS, "IP addresses", "0.0.0.0, ::", may_be_empty=False),
        "Addresses to listen on. 0.0.0.0 and :: mean every interface of the machine.",
        fixed=True,
    )
    port_offset: int = option(
        0,
        kinds.integer(0, 64000),
        "Added to every port, so that servers can run side by side: 20000 gives 20025, 20143 ...",
        fixed=True,
    )
    state_dir: Path = option(
        Path(".devmail"),
        kinds.DIRECTORY,
        "The one directory that devmail writes to. A relative path starts where devmail starts.",
        fixed=True,
    )
    mail_dir: Path | None = option(
        None,
        kinds.DIRECTORY,
        "Where the mailboxes are, if not in mail/ below the state directory.",
        fixed=True,
    )
    tls_key_path: Path = option(
        Path("/etc/ssl/private/mail.key.pem"),
        kinds.PATH,
        "Your server's private key (PEM, not encrypted).",
        fixed=True,
    )
    tls_cert_path: Path = option(
        Path("/etc/ssl/certs/mail.cert.pem"),
        kinds.PATH,
        "Your server's certificate (PEM), intermediate certificates after it.",
        fixed=True,
    )
    tls_ca_path: Path = option(
        Path("/etc/ssl/certs/ca.cert.pem"),
        kinds.PATH,
        "The certificate of the CA that your server's certificate leads to (PEM).",
        fixed=True,
    )
    webmail: str = option(
        "auto",
        kinds.choice("auto", "rainloop", "roundcube", "none"),
        "The webmail on the HTTPS port; auto is the first of the two that is installed.",
        fixed=True,
    )
    webmail_one_click: bool = option(
        True,  # noqa: FBT003 - a setting's default
        kinds.BOOLEAN,
        "Whether /as/ADDRESS on the HTTPS port opens that mailbox without asking for a password.",
        fixed=True,
    )
    webmail_pictures: tuple[str, ...] = option(
        (),
        kinds.list_of(kinds.ORIGIN, "origins", "https://cdn.example, http://app.localhost:3000"),
        "Where pictures may come from that the webmail shows and that are not in the mail itself.",
    )
    webmail_data_dir: Path | None = option(
        None,
        kinds.DIRECTORY,
        "Where the webmail keeps users' settings, if not in webmail/ below the state directory.",
        fixed=True,
    )
    rainloop_dir: Path | None = option(
        None,
        kinds.DIRECTORY,
        "Where RainLoop is installed, if not in rainloop/ below the state directory.",
        fixed=True,
    )
    rainloop_admin_password: str = option(
        "",
        kinds.SECRET,
        "The password of admin in RainLoop's admin panel, /?admin, which is closed without one.",
    )
    log_level: str = option(
        "info",
        kinds.choice("info", "debug"),
        "debug also logs every SMTP and IMAP command, logins included, and each step of a login.",
    )
    origins: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}),
        repr=False,
        compare=False,
        metadata={"internal": True},
    )

    @property
    def retry_interval(self) -> int:
        """Seconds between two tries to deliver, so that a bounce is never much too late.

        Not less than two: the process of one try has to be done when the next one comes, or Postfix
        puts the message aside for a minute (``qmgr_active_feed``), and so it happened with one.
        """
        return max(2, min(10, self.bounce_after // 10))

    @property
    def forbid_bare_newline(self) -> str:
        """Postfix's ``smtpd_forbid_bare_newline`` for the line ends that are taken."""
        return {"standard": "normalize", "strict": "reject", "lenient": "no"}[self.line_endings]

    @property
    def queue_interval(self) -> int:
        """Seconds between two looks for waiting mail whose next try is due."""
        return self.retry_interval // 2

    @property
    def all_faults(self) -> Faults:
        """The faults of this server, those of rules and those that are built in."""
        return Faults.of(self.faults, self.fault_suffix)

    def port(self, listener: str) -> int:
        """Give the port of the listener of that name, the offset added."""
        return next(one.port for one in LISTENERS if one.name == listener) + self.port_offset

    def is_set(self, name: str) -> bool:
        """Tell whether someone gave the setting ``name`` a value."""
        return name in self.origins

    def origin(self, name: str) -> str:
        """Say where the value of the setting ``name`` came from."""
        return self.origins.get(name, _DEFAULT)

    def subject(self, name: str) -> str:
        """Name a setting the way every error message does: variable, value and origin."""
        return _subject(name, repr(_kind(name).show(getattr(self, name))), self.origin(name))


def options() -> tuple[Field[Any], ...]:
    """List the declared settings, in the order of the reference."""
    return tuple(option for option in fields(Settings) if "internal" not in option.metadata)


def variable(name: str) -> str:
    """Give the environment variable of the setting ``name``."""
    return PREFIX + name.upper()


def fixed_values(settings: Settings) -> dict[str, str]:
    """Give the settings that cannot change while the server runs, as they are shown."""
    return {
        option.name: _kind(option.name).show(getattr(settings, option.name))
        for option in options()
        if option.metadata["fixed"]
    }


def load(environ: Mapping[str, str]) -> tuple[Settings, list[Problem]]:
    """Load the settings from ``environ`` and the files that it names.

    A value that is wrong becomes a ``Problem`` and its default takes its place, so that the
    caller can go on and find what else is wrong.
    """
    problems: list[Problem] = []
    settings = Settings()
    for assignment in (*_from_yaml(environ, problems), *_from_environment(environ, problems)):
        settings = _assign(settings, assignment, problems)
    wrong = list(_judge_faults(settings))
    if wrong:
        settings = replace(settings, faults=())
    return settings, [*problems, *wrong]


def _judge_faults(settings: Settings) -> Iterable[Problem]:
    """Judge what only several settings together show: rules that are wrong, or in conflict."""
    suffix = settings.fault_suffix
    if suffix and f".{settings.hostname}".endswith(f".{suffix}"):
        yield Problem(
            settings.subject("fault_suffix"),
            f"the server's own name, {settings.hostname}, lies below it",
            "choose another suffix, or another DEVMAIL_HOSTNAME",
        )
    if settings.fault_ports and settings.port_offset > _HIGHEST_OFFSET_OF_FAULT_PORTS:
        yield Problem(
            settings.subject("port_offset"),
            "it would put a fault port beyond 65535",
            f"choose {_HIGHEST_OFFSET_OF_FAULT_PORTS} at most, or set DEVMAIL_FAULT_PORTS=no",
        )
    origin = settings.origin("faults")
    for number, (rule, error) in enumerate(
        failures.judge(settings.faults, suffix, settings.bad_domains), start=1
    ):
        where = f"in {variable('faults')} ({origin})"
        if origin.startswith("file "):
            # What a file named by DEVMAIL_..._FILE holds may be a secret.
            yield Problem(
                f"wrong rule {number} {where}",
                "(the reason would show the value)",
                "correct it; set the variable itself to see what is wrong",
            )
        else:
            yield Problem(f"the rule {rule!r} {where}", str(error), error.remedy)


@dataclass(frozen=True)
class _Assignment:
    name: str
    text: str
    origin: str
    # What a file named by DEVMAIL_..._FILE holds may be a secret, and is never repeated.
    secret: bool = False


def _assign(settings: Settings, given: _Assignment, problems: list[Problem]) -> Settings:
    kind = _kind(given.name)
    try:
        value = kind.parse(given.text.strip())
    except ValueError as error:
        shown = "(value not shown)" if given.secret else repr(given.text)
        problems.append(
            Problem(
                _subject(given.name, shown, given.origin),
                "(the reason would show the value)" if given.secret else str(error),
                f"write for example {variable(given.name)}='{kind.example}'",
            )
        )
        return settings
    origins = MappingProxyType({**settings.origins, given.name: given.origin})
    return replace(settings, **{given.name: value}, origins=origins)


def _from_yaml(environ: Mapping[str, str], problems: list[Problem]) -> Iterable[_Assignment]:
    path = environ.get(CONFIG_VARIABLE)
    if path is None:
        return
    import yaml

    subject = f"{CONFIG_VARIABLE}={path!r} (environment)"
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(
            Problem(
                subject,
                f"cannot be read: {error.strerror}",
                "give the path of a readable YAML file",
            )
        )
        return
    # ValueError: not UTF-8, or a date that no calendar has; RecursionError: brackets without end.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        fault = " ".join(str(error).split())
        problems.append(
            Problem(subject, f"not YAML: {fault}", "write one 'name: value' a line, see `settings`")
        )
        return
    if document is None:
        return
    if not isinstance(document, dict):
        problems.append(
            Problem(subject, "holds no 'name: value' lines", "write for example: bounce_after: 60")
        )
        return
    names = [option.name for option in options()]
    for key, value in document.items():
        if key not in names:
            problems.append(
                Problem(
                    f"{key} in {path}",
                    "there is no such setting",
                    _advice(_nearest(str(key), names), "leave it out"),
                )
            )
            continue
        kind = _kind(key)
        text = _yaml_rules(value) if kind.is_mapping else _yaml_text(value)
        if text is None:
            problems.append(
                Problem(
                    f"{key} in {path}",
                    "not a single value or a list of them",
                    f"write for example: {key}: {kind.example}",
                )
            )
        else:
            yield _Assignment(key, text, f"{key} in {path}")


def _yaml_text(value: object) -> str | None:
    """Give the text that a person would have typed for a YAML value; None for what is no value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list) and not any(isinstance(item, list) for item in value):
        items = [_yaml_text(item) for item in value]
        return None if None in items else ", ".join(map(str, items))
    return None


def _yaml_rules(value: object) -> str | None:
    """Give the lines that a person would have typed for a mapping, or for a list of rules."""
    if isinstance(value, dict):
        value = [f"{key}={_yaml_text(item)}" for key, item in value.items()]
    if isinstance(value, list):
        return "\n".join(str(_yaml_text(item)) for item in value)
    return _yaml_text(value)


def _from_environment(environ: Mapping[str, str], problems: list[Problem]) -> Iterable[_Assignment]:
    names = {variable(option.name): option.name for option in options()}
    known = {CONFIG_VARIABLE, *names, *(name + _FILE_SUFFIX for name in names)}
    for key in sorted(environ):
        if key.startswith(PREFIX) and key not in known:
            # Without the prefix, which would make every name look like every other.
            nearest = _nearest(key.removeprefix(PREFIX), [name[len(PREFIX) :] for name in known])
            problems.append(
                Problem(
                    f"{key} (environment)",
                    "there is no such setting",
                    _advice(nearest and PREFIX + nearest, "unset it"),
                )
            )
    for key, name in names.items():
        file_key = key + _FILE_SUFFIX
        if key in environ and file_key in environ:
            problems.append(
                Problem(
                    f"{key} and {file_key} (environment)",
                    "both are set",
                    "unset one of the two",
                )
            )
        elif key in environ:
            yield _Assignment(name, environ[key], "environment")
        elif file_key in environ:
            path = environ[file_key]
            try:
                text = Path(path).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                fault = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
                problems.append(
                    Problem(
                        f"{file_key}={path!r} (environment)",
                        f"cannot be read: {fault}",
                        f"name a readable file, or set {key} itself",
                    )
                )
            else:
                yield _Assignment(name, text, f"file {path}, named by {file_key}", secret=True)


def _nearest(unknown: str, known: Iterable[str]) -> str | None:
    matches = difflib.get_close_matches(unknown, sorted(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def _advice(nearest: str | None, otherwise: str) -> str:
    return f"did you mean {nearest}?" if nearest else f"{otherwise}; `settings` lists them all"


def _subject(name: str, shown: str, origin: str) -> str:
    return f"{variable(name)}={shown} ({origin})"


def _kind(name: str) -> Kind:
    kind: Kind = next(option for option in options() if option.name == name).metadata["kind"]
    return kind


def reference() -> str:
    """Write the reference of all settings as Markdown; ``docs/settings.md`` is this text."""
    lines = [
        "# Settings",
        "",
        "Each setting is an environment variable, or a key of the YAML file that",
        f"`{CONFIG_VARIABLE}` names; the environment wins. `..._FILE` reads the value from a file,",
        f"as in `{variable('hostname')}_FILE=/run/secrets/hostname`. A name that is not listed",
        "here is an error. This page is the output of `devmail settings`.",
        "",
        "`devmail reload` takes over what has changed in them since the start, apart from",
        ", ".join(f"`{option.name}`" for option in options() if option.metadata["fixed"]) + ".",
        "PHP, which runs the webmail, reads its part at a start only.",
        "",
        "| variable | YAML key | type | default | meaning |",
        "|---|---|---|---|---|",
    ]
    for setting in options():
        kind: Kind = setting.metadata["kind"]
        default = "" if setting.default in (None, (), "") else f"`{kind.show(setting.default)}`"
        lines.append(
            f"| `{variable(setting.name)}` | `{setting.name}` | {kind.name} "
            f"| {default} | {setting.metadata['help']} |"
        )
    return "\n".join(lines) + "\n"
