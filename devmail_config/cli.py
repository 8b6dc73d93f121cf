"""The command line. It reads like a table of contents: each step of a start is one call.

Only what a start needs is imported at the top: a server is started far more often than anything
else here is done, and ``native`` and ``health`` would make that a third slower.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import click

from devmail_config import (
    __version__,
    directories,
    ownership,
    queue,
    rainloop,
    render,
    spool,
    supervise,
    surroundings,
    tls,
    webmail,
)
from devmail_config.errors import DevmailError, Problem
from devmail_config.layout import Layout
from devmail_config.printable import say
from devmail_config.services import LISTENERS, PHP, running
from devmail_config.settings import Settings, fixed_values, load, reference
from devmail_config.summary import summary
from devmail_config.surroundings import Machine
from devmail_config.tls import TlsFiles
from devmail_config.webmail import Webmail

_PACKAGES = Path(__file__).parent.parent / "debian-packages.txt"


@dataclass(frozen=True)
class _Server:
    """A server whose settings and surroundings were found to be good."""

    settings: Settings
    layout: Layout
    addresses: tuple[str, ...]
    tls: TlsFiles
    webmail: Webmail | None


@click.group(invoke_without_command=True)
@click.version_option(__version__, prog_name="devmail")
@click.pass_context
def program(context: click.Context) -> None:
    """Run a development mail server: any address is a mailbox, and no mail leaves the box."""
    if context.invoked_subcommand is None:
        context.invoke(run)


@program.command()
def run() -> None:
    """Start the server in the foreground (the default)."""
    settings, layout, chosen = _judged()
    directories.make(layout, ownership.own_directories(settings, layout))
    if not supervise.lock(layout):
        directories.remove_locks(layout.mail, older_than=layout.lock)
    supervise.raise_file_limit()
    server = _prepare(settings, layout, chosen)
    say(_announcement(server))
    _say_news(server.tls.news)
    for line in directories.take_over_mail(server.layout.mail):
        say(f"devmail: {line}")
    supervise.run(server.layout)


@program.command()
def check() -> None:
    """Do all of a start but the start, and say what was found."""
    settings, layout, chosen = _judged()
    with directories.rehearsal(layout) as elsewhere:
        directories.make(elsewhere, ownership.own_directories(settings, elsewhere))
        server = _prepare(settings, elsewhere, chosen)
    kept = tls.planned(settings, layout)
    is_new = kept.ca_fingerprint != server.tls.ca_fingerprint
    say(_announcement(replace(server, tls=replace(kept, ca_fingerprint="")) if is_new else server))
    _say_news(server.tls.news)
    say("devmail: nothing is wrong, the server can start")


@program.command("render")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Directory.")
def render_command(output: Path) -> None:
    """Write the daemons' configuration to a directory, and start nothing."""
    settings, layout = _settings()
    chosen, problems = webmail.choose(settings, layout, Machine())
    _stop_if([*surroundings.judge_paths(settings, layout), *problems])
    tree = render.render(
        settings,
        layout,
        tls.planned(settings, layout),
        surroundings.available_addresses(settings),
        chosen,
    )
    subject = f"--output {output}"
    try:
        if output.exists() and any(output.iterdir()):
            raise DevmailError(
                [Problem(subject, "the directory is not empty", "give a new directory")]
            )
        render.write(tree, output, time.time())
    except OSError as error:
        raise DevmailError(
            [Problem(subject, error.strerror or str(error), "give a directory to write to")]
        ) from None
    say(f"devmail: {len(tree)} files are in {output}")


@program.command()
def settings() -> None:
    """Print the reference of all settings."""
    say(*reference().splitlines())


@program.command()
@click.option("--wait", type=float, default=0.0, help="Wait so many seconds for all to work.")
def health(wait: float) -> None:
    """Use every service for real; the exit status is 0 when all of them work."""
    from devmail_config.health import examine, examine_storage

    settings, layout = _settings()
    if wait:
        _wait(settings, layout, wait)
        return
    files = tls.planned(settings, layout)
    if not files.ca_pem:
        raise DevmailError(
            [
                Problem(
                    f"the CA in {files.ca}",
                    "there is none yet, or it cannot be read",
                    "start the server first, with the same settings",
                )
            ]
        )
    sick = False
    addresses = surroundings.available_addresses(settings)
    for verdict in (*examine(settings, files, addresses), *examine_storage(settings, layout)):
        say(str(verdict))
        sick = sick or verdict.fault is not None
    sys.exit(1 if sick else 0)


def _wait(settings: Settings, layout: Layout, timeout: float) -> None:
    from devmail_config.health import progress

    try:
        for line in progress(settings, layout, timeout):
            if line:
                say(line)
    except TimeoutError as error:
        say(f"not within {timeout:g} s: {error}", stream=sys.stderr)
        sys.exit(1)


@program.command("summary")
def summary_command() -> None:
    """Say where every service is, how to log in, and where the CA is."""
    say(*summary(*_settings(), Machine()).split("\n"))


@program.command()
@click.option("--webmail", "name", type=click.Choice(["rainloop", "roundcube"]), help="This, too.")
@click.option(
    "--archive",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="RainLoop's release, already downloaded.",
)
@click.option("--sha256", default=rainloop.SHA256, help="The checksum of that archive.")
def install(name: str | None, archive: Path | None, sha256: str) -> None:
    """Install the Debian packages that are missing, starting none of their services."""
    from devmail_config import native

    native.install(surroundings.packages(_PACKAGES), Machine())
    if name:
        _, layout = _settings()
        native.install_webmail(name, layout, Machine(), archive, sha256)


@program.command()
def up() -> None:
    """Start the server in the background, and return when it works."""
    from devmail_config import native

    settings, _ = _settings()
    native.install(surroundings.packages(_PACKAGES), Machine())
    native.choose_state_directory(settings, _working_directory())
    layout = Layout.of(settings, _working_directory())
    native.provide_webmail(settings, layout, Machine())
    native.recover(layout)
    if surroundings.running_server(layout) is None:
        # The server will judge for itself; this is to say what is wrong here, not in its log.
        problems = _judge(settings, layout)
        # Unless what is in the way is a server that was started at the same moment.
        if surroundings.running_server(layout) is None:
            _stop_if(problems)
            _say_news(tls.news(settings, layout, datetime.now(UTC)))
    native.start(settings, layout, [sys.executable, "-m", "devmail_config"])
    say(*summary(settings, layout, Machine()).split("\n"))
    say(f"  state      {layout.state}", "")


@program.command()
def down() -> None:
    """Stop the server that runs on this state directory."""
    from devmail_config import native

    _, layout = _settings()
    native.stop(layout)


@program.command()
def logs() -> None:
    """Follow the log of a server that `up` started."""
    from devmail_config import native

    _, layout = _settings()
    native.follow_log(layout)


@program.command()
def reload() -> None:
    """Take over changed settings in the running server, without losing a session or mail."""
    settings, problems = load(os.environ)
    layout = Layout.of(settings, _working_directory())
    _stop_if([*problems, *tls.judge(settings, datetime.now(UTC))])
    _stop_if(_judge_reload(settings, layout))
    chosen, problems = webmail.choose(settings, layout, Machine())
    if (chosen is not None) != (layout.scan_directory / PHP.name).exists():
        problems.append(
            Problem(
                settings.subject("webmail"),
                "it has been installed, or removed, since the start",
                "stop the server and start it again",
            )
        )
    _stop_if(problems)
    files, addresses = tls.planned(settings, layout), surroundings.available_addresses(settings)
    news = tls.news(settings, layout, datetime.now(UTC))
    tree = render.render(settings, layout, files, addresses, chosen)
    update = render.update(tree, layout.run, time.time())
    services = running(with_webmail=chosen is not None)
    if problems := supervise.judge_configuration(layout, services):
        render.update(update.before, layout.run, time.time())
        raise DevmailError(problems)
    supervise.reload(layout, services, update.changed)
    say(f"devmail: reloaded, {len(update.changed)} files of the configuration have changed")
    _say_news(news, "at the next start, ")


def _judge_reload(settings: Settings, layout: Layout) -> Iterable[Problem]:
    if surroundings.running_server(layout) is None:
        yield Problem(
            f"the server of {layout.state}",
            "none is running",
            "start one with `make up`, or set DEVMAIL_STATE_DIR to that of another",
        )
        return
    started_with = json.loads(layout.fixed_settings.read_text(encoding="utf-8"))
    for name, value in fixed_values(settings).items():
        if started_with.get(name) != value:
            yield Problem(
                settings.subject(name),
                f"it was {started_with.get(name)!r} at the start, and cannot change while it runs",
                "stop the server and start it again",
            )


@program.group("queue", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON a message, for programs.")
@click.pass_context
def queue_group(context: click.Context, *, as_json: bool) -> None:
    """Show the mail that waits to be delivered."""
    if context.invoked_subcommand is None:
        _, layout = _settings()
        lines, waiting = queue.listing(layout)
        say(*(lines if as_json else queue.table(waiting).split("\n")))


@queue_group.command("flush")
def queue_flush() -> None:
    """Try to deliver everything that waits, now."""
    _, layout = _settings()
    queue.flush(layout)


@queue_group.command("expire")
def queue_expire() -> None:
    """Return everything that waits to its sender, now."""
    _, layout = _settings()
    queue.expire(layout)


def _settings() -> tuple[Settings, Layout]:
    """Load the settings, and stop here if any is wrong."""
    settings, problems = load(os.environ)
    _stop_if(problems)
    return settings, Layout.of(settings, _working_directory())


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise DevmailError(
            [Problem("the working directory", "it has been removed", "change to another one")]
        ) from None


def _judge(settings: Settings, layout: Layout) -> list[Problem]:
    """Find everything outside of the settings that would keep the server from running."""
    own = ownership.own_directories(settings, layout)
    return [
        *surroundings.judge(settings, layout, surroundings.packages(_PACKAGES), Machine()),
        *ownership.judge(settings, (*own, *webmail.program_directories(settings, layout))),
        *tls.judge(settings, datetime.now(UTC)),
        *webmail.choose(settings, layout, Machine())[1],
    ]


def _stop_if(problems: Iterable[Problem]) -> None:
    if found := list(problems):
        raise DevmailError(found)


def _judged() -> tuple[Settings, Layout, Webmail | None]:
    """Load the settings and judge everything; changes nothing."""
    settings, problems = load(os.environ)
    layout = Layout.of(settings, _working_directory())
    _stop_if([*problems, *_judge(settings, layout)])
    return settings, layout, webmail.choose(settings, layout, Machine())[0]


def _prepare(settings: Settings, layout: Layout, chosen: Webmail | None) -> _Server:
    """Write everything that the daemons read, and let them judge it."""
    now = datetime.now(UTC)
    spool.make(layout.spool)
    files = tls.provide(settings, layout, now)
    addresses = surroundings.available_addresses(settings)
    tree = render.render(settings, layout, files, addresses, chosen)
    render.write(tree, layout.run, created_at=now.timestamp())
    if chosen:
        webmail.prepare(chosen, settings, layout)
    _stop_if(supervise.judge_configuration(layout, running(with_webmail=chosen is not None)))
    return _Server(settings, layout, addresses, files, chosen)


def _announcement(server: _Server) -> str:
    """The first line of the log: what this server is, and where."""
    ports = ", ".join(f"{one.name} {server.settings.port(one.name)}" for one in LISTENERS)
    origin = "our own CA" if server.tls.made_here else "the CA of your certificate"
    fingerprint = server.tls.ca_fingerprint
    ca = f"has the SHA-256 fingerprint {fingerprint}" if fingerprint else "is made at the start"
    browser = server.webmail.title if server.webmail else "none"
    return (
        f"devmail: version {__version__}, {server.settings.hostname}, "
        f"on {' and '.join(server.addresses)}: {ports}; webmail: {browser}; "
        f"{origin} {ca}"
    )


def _say_news(news: str, when: str = "") -> None:
    if news:
        say(f"devmail: {when}{news}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; whatever a user does wrong ends here as a message and a status."""
    # The daemons' users have to read what is written here; what they must not has its own mode.
    os.umask(0o022)
    try:
        sys.exit(program.main(arguments, prog_name="devmail", standalone_mode=False))
    except click.ClickException as error:
        # It repeats words of the command line.
        message = io.StringIO()
        error.show(message)
        say(*message.getvalue().splitlines(), stream=sys.stderr)
        sys.exit(error.exit_code)
    except click.Abort:
        say("Aborted!", stream=sys.stderr)
        sys.exit(1)
    except DevmailError as error:
        _fail(error)
    except OSError as error:
        # Every likely fault has its own message; this is for what the machine refuses beyond that.
        subject = str(error.filename or "this machine")
        fault = error.strerror or str(error)
        _fail(DevmailError([Problem(subject, fault, "correct that, or set DEVMAIL_STATE_DIR")]))


def _fail(error: DevmailError) -> NoReturn:
    say(*f"devmail: {error}".split("\n"), stream=sys.stderr)
    sys.exit(1)
