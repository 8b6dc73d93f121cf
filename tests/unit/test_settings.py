"""Where settings come from, which source wins, and what is said about those that are wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from devmail_config.errors import Problem
from devmail_config.settings import Settings, load, options, reference, variable
from tests.helpers.server import ROOT


def good(environ: Mapping[str, str]) -> Settings:
    settings, problems = load(environ)
    assert problems == []
    return settings


@pytest.fixture
def yaml_file(tmp_path: Path) -> Path:
    return tmp_path / "devmail.yaml"


def test_nothing_has_to_be_set() -> None:
    assert good({}) == Settings()
    assert good({"PATH": "/bin", "HOME": "/root"}) == Settings()


def test_the_environment_wins_over_yaml_which_wins_over_the_default(yaml_file: Path) -> None:
    yaml_file.write_text("hostname: yaml.test\nlog_level: debug\n")
    environ = {"DEVMAIL_CONFIG": str(yaml_file), "DEVMAIL_HOSTNAME": "environment.test"}
    settings = good(environ)
    assert settings.hostname == "environment.test"
    assert settings.subject("hostname") == "DEVMAIL_HOSTNAME='environment.test' (environment)"
    assert settings.log_level == "debug"
    assert settings.subject("log_level") == f"DEVMAIL_LOG_LEVEL='debug' (log_level in {yaml_file})"
    assert settings.bounce_after == 60
    assert settings.subject("bounce_after") == "DEVMAIL_BOUNCE_AFTER='60s' (default)"
    assert [
        name for name in ("hostname", "log_level", "bounce_after") if settings.is_set(name)
    ] == [
        "hostname",
        "log_level",
    ]


def test_a_default_can_be_set_again_in_the_environment(yaml_file: Path) -> None:
    yaml_file.write_text("bad_domains: [one.test]\nrequire_auth: no\n")
    environ = {
        "DEVMAIL_CONFIG": str(yaml_file),
        "DEVMAIL_BAD_DOMAINS": "",
        "DEVMAIL_REQUIRE_AUTH": "yes",
    }
    settings = good(environ)
    assert settings.bad_domains == ()
    assert settings.require_auth is True


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("bounce_after: 90", "bounce_after", 90),
        ("bounce_after: 2m", "bounce_after", 120),
        ("require_auth: off", "require_auth", False),
        ("message_size_limit: 100k", "message_size_limit", 102400),
        ("bad_domains: a.test, b.test", "bad_domains", ("a.test", "b.test")),
        ("bad_domains: [a.test, b.test]", "bad_domains", ("a.test", "b.test")),
        ("bad_domains:\n- a.test\n- no", "bad_domains", ("a.test", "no")),
        ("bad_domains: []", "bad_domains", ()),
        ("state_dir: /srv/devmail", "state_dir", Path("/srv/devmail")),
        ("# nothing", "hostname", "mail.localhost"),
        ("", "hostname", "mail.localhost"),
    ],
)
def test_yaml_is_read_as_a_person_would_read_it(
    yaml_file: Path, text: str, name: str, value: object
) -> None:
    yaml_file.write_text(text)
    assert getattr(good({"DEVMAIL_CONFIG": str(yaml_file)}), name) == value


def test_a_value_can_be_in_a_file_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "hostname"
    file.write_text("file.test\n")
    settings = good({"DEVMAIL_HOSTNAME_FILE": str(file)})
    assert settings.hostname == "file.test"
    assert settings.origin("hostname") == f"file {file}, named by DEVMAIL_HOSTNAME_FILE"


NO_HOST = "not a host name (letters, digits, hyphens and dots)"
NO_SETTING = "there is no such setting"
NO_VALUE = "not a single value or a list of them"
SEE_ALL = "; `settings` lists them all"
A_HOST = "write for example DEVMAIL_HOSTNAME='mail.localhost'"
A_FILE = "name a readable file, or set DEVMAIL_HOSTNAME itself"
A_YAML_FILE = "give the path of a readable YAML file"
YAML_LINES = "write one 'name: value' a line, see `settings`"


@pytest.mark.parametrize(
    ("given", "subject", "fault", "remedy"),
    [
        ({"HOSTNAME": "a b"}, "DEVMAIL_HOSTNAME='a b'", NO_HOST, A_HOST),
        ({"HOSTNAME": ""}, "DEVMAIL_HOSTNAME=''", NO_HOST, A_HOST),
        (
            {"BIND_ADDRESS": ""},
            "DEVMAIL_BIND_ADDRESS=''",
            "an empty list",
            "write for example DEVMAIL_BIND_ADDRESS='0.0.0.0, ::'",
        ),
        (
            {"HOSTNAME": "a", "HOSTNAME_FILE": "/dev/null"},
            "DEVMAIL_HOSTNAME and DEVMAIL_HOSTNAME_FILE",
            "both are set",
            "unset one of the two",
        ),
        (
            {"HOSTNAME_FILE": "/dev/null/x"},
            "DEVMAIL_HOSTNAME_FILE='/dev/null/x'",
            "cannot be read: Not a directory",
            A_FILE,
        ),
        (
            {"HOSTNAME_FILE": ""},
            "DEVMAIL_HOSTNAME_FILE=''",
            "cannot be read: Is a directory",
            A_FILE,
        ),
        (
            {"BOUNCEAFTER": "1"},
            "DEVMAIL_BOUNCEAFTER",
            NO_SETTING,
            "did you mean DEVMAIL_BOUNCE_AFTER?",
        ),
        (
            {"HOSTNAM_FILE": "/x"},
            "DEVMAIL_HOSTNAM_FILE",
            NO_SETTING,
            "did you mean DEVMAIL_HOSTNAME_FILE?",
        ),
        ({"CONFG": "/x"}, "DEVMAIL_CONFG", NO_SETTING, "did you mean DEVMAIL_CONFIG?"),
        ({"ZZZ": "1"}, "DEVMAIL_ZZZ", NO_SETTING, "unset it" + SEE_ALL),
        (
            {"CONFIG": "/nowhere.yaml"},
            "DEVMAIL_CONFIG='/nowhere.yaml'",
            "cannot be read: No such file or directory",
            A_YAML_FILE,
        ),
        (
            {"CONFIG": "/etc"},
            "DEVMAIL_CONFIG='/etc'",
            "cannot be read: Is a directory",
            A_YAML_FILE,
        ),
        ({"CONFIG": ""}, "DEVMAIL_CONFIG=''", "cannot be read: Is a directory", A_YAML_FILE),
    ],
)
def test_what_is_wrong_in_the_environment_is_said(
    given: dict[str, str], subject: str, fault: str, remedy: str
) -> None:
    settings, problems = load({f"DEVMAIL_{name}": value for name, value in given.items()})
    assert problems == [Problem(f"{subject} (environment)", fault, remedy)]
    assert settings == Settings()


THE_FILE = "DEVMAIL_CONFIG='PATH' (environment)"


@pytest.mark.parametrize(
    ("text", "subject", "fault", "remedy"),
    [
        ("hostname: a b", "DEVMAIL_HOSTNAME='a b' (hostname in PATH)", NO_HOST, A_HOST),
        ("bounceafter: 1", "bounceafter in PATH", NO_SETTING, "did you mean bounce_after?"),
        ("7: 1", "7 in PATH", NO_SETTING, "leave it out" + SEE_ALL),
        (
            "bad_domains: {a: b}",
            "bad_domains in PATH",
            NO_VALUE,
            "write for example: bad_domains: bad-domain.com, down.example",
        ),
        (
            "bad_domains: [[a.test]]",
            "bad_domains in PATH",
            NO_VALUE,
            "write for example: bad_domains: bad-domain.com, down.example",
        ),
        (
            "hostname:",
            "hostname in PATH",
            NO_VALUE,
            "write for example: hostname: mail.localhost",
        ),
        (
            "- hostname",
            THE_FILE,
            "holds no 'name: value' lines",
            "write for example: bounce_after: 60",
        ),
        ("hostname: [", THE_FILE, "not YAML: while parsing a flow node expected", YAML_LINES),
        ("hostname: 2020-99-99", THE_FILE, "not YAML: month must be in 1..12", YAML_LINES),
        ("hostname: \udcff", THE_FILE, "not YAML: 'utf-8' codec can't decode", YAML_LINES),
        ('hostname: "\0"', THE_FILE, "not YAML: unacceptable character #x0000", YAML_LINES),
        ("[" * 3000, THE_FILE, "not YAML: maximum recursion depth exceeded", YAML_LINES),
    ],
)
def test_what_is_wrong_in_yaml_is_said(
    yaml_file: Path, text: str, subject: str, fault: str, remedy: str
) -> None:
    yaml_file.write_text(text, errors="surrogateescape")
    (problem,) = load({"DEVMAIL_CONFIG": str(yaml_file)})[1]
    assert problem.subject == subject.replace("PATH", str(yaml_file))
    # The parser's own words go on after this, with the place.
    assert problem.fault.startswith(fault) if remedy == YAML_LINES else problem.fault == fault
    assert problem.remedy == remedy


@pytest.mark.parametrize("name", ["hostname", "tls_names", "bounce_after", "require_auth"])
def test_a_value_from_a_file_of_its_own_is_never_repeated(tmp_path: Path, name: str) -> None:
    file, key = tmp_path / "secret", variable(name)
    file.write_text("hunter2, hunter 3!")
    (problem,) = load({f"{key}_FILE": str(file)})[1]
    assert problem.subject == f"{key}=(value not shown) (file {file}, named by {key}_FILE)"
    assert problem.fault == "(the reason would show the value)"
    assert "hunter" not in str(problem)


def test_a_file_of_its_own_must_be_text(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"hunter\xff")
    (problem,) = load({"DEVMAIL_HOSTNAME_FILE": str(file)})[1]
    assert problem.subject == f"DEVMAIL_HOSTNAME_FILE='{file}' (environment)"
    assert problem.fault == "cannot be read: not UTF-8 text"


def test_everything_wrong_is_reported_at_once_and_the_rest_is_kept(yaml_file: Path) -> None:
    yaml_file.write_text("hostnam: x\nport_offset: many\nlog_level: debug\n")
    settings, problems = load(
        {
            "DEVMAIL_CONFIG": str(yaml_file),
            "DEVMAIL_BOUNCE_AFTER": "soon",
            "DEVMAIL_TYPO": "1",
            "DEVMAIL_HOSTNAME": "kept.test",
        }
    )
    subjects = [problem.subject for problem in problems]
    assert subjects == [
        f"hostnam in {yaml_file}",
        "DEVMAIL_TYPO (environment)",
        f"DEVMAIL_PORT_OFFSET='many' (port_offset in {yaml_file})",
        "DEVMAIL_BOUNCE_AFTER='soon' (environment)",
    ]
    assert (settings.hostname, settings.log_level, settings.port_offset) == (
        "kept.test",
        "debug",
        0,
    )


@pytest.mark.parametrize(
    ("bounce_after", "retry_interval", "queue_interval"),
    [(1, 2, 1), (9, 2, 1), (30, 3, 1), (60, 6, 3), (100, 10, 5), (3600, 10, 5)],
)
def test_delivery_is_tried_ten_times_before_a_bounce_but_every_two_to_ten_seconds(
    bounce_after: int, retry_interval: int, queue_interval: int
) -> None:
    settings = Settings(bounce_after=bounce_after)
    assert (settings.retry_interval, settings.queue_interval) == (retry_interval, queue_interval)


def test_the_offset_is_added_to_every_port() -> None:
    settings = Settings(port_offset=20000)
    assert [settings.port(name) for name in ("smtp", "imap", "https")] == [20025, 20143, 20443]


def test_the_reference_in_docs_is_what_the_program_prints() -> None:
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == reference(), "docs/settings.md is stale: run `make docs`"


def test_the_reference_has_every_setting_with_its_default() -> None:
    text = reference()
    for option in options():
        assert f"| `{variable(option.name)}` | `{option.name}` | " in text
        assert option.metadata["help"] in text
    assert "| `DEVMAIL_MESSAGE_SIZE_LIMIT` | `message_size_limit` | size | `64M` |" in text
    assert "| `DEVMAIL_MAIL_DIR` | `mail_dir` | directory |  |" in text


def test_the_settings_in_the_readme_are_real_and_have_the_defaults_that_it_says() -> None:
    documented = r"^\| `(DEVMAIL_\w+)` .*? \| (?:`(.*?)`)? \|"
    defaults = dict(re.findall(documented, reference(), re.MULTILINE))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(DEVMAIL_\w+)` \| (?:`(.*?)`)? ?\|", readme, re.MULTILINE)
    assert len(rows) > 5
    for name, default in rows:
        assert name == "DEVMAIL_CONFIG" or defaults[name] == default
