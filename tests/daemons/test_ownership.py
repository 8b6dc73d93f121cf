"""With the real program: what a setting points at is not touched unless it is devmail's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from devmail_config import kinds
from devmail_config.ownership import MARK
from devmail_config.settings import options
from tests.helpers.clients import send, wait_for_message
from tests.helpers.server import Server, run_devmail

DIRECTORY_SETTINGS = [one.name for one in options() if one.metadata["kind"] is kinds.DIRECTORY]
# By setting, where below it a start or an installation would write.
PLACES = {"state_dir": ("run", "spool", "postfix", "faults", "tls", "mail", "webmail", "rainloop")}
PERSON = 1000


def snapshot(directory: Path) -> dict[str, tuple[object, ...]]:
    """Everything about a tree that a program could change, but for the time of reading."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (directory, *sorted(directory.rglob("*"))):
        entry = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        fields = (entry.st_mode, entry.st_uid, entry.st_gid, entry.st_ino, entry.st_mtime_ns)
        found[str(path)] = (*fields, entry.st_ctime_ns, content)
    return found


def home_of_a_person(directory: Path) -> None:
    """Make a home directory, with mail of its own kept as some mail readers do."""
    for name in (".ssh/id_ed25519", "project/a.py", "Mail/work/INBOX/cur/1.M1", "run/x.lock"):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious\n")
    for part in ("new", "tmp"):
        (directory / "Mail" / "work" / "INBOX" / part).mkdir()
    (directory / "roundcube").mkdir()
    (directory / "link").symlink_to("/etc/passwd")
    for path in (directory, *directory.rglob("*")):
        os.chown(path, PERSON, PERSON, follow_symlinks=False)


def test_the_settings_that_name_a_directory_are_known() -> None:
    assert DIRECTORY_SETTINGS == ["state_dir", "mail_dir", "webmail_data_dir", "rainloop_dir"]


@pytest.mark.parametrize("command", ["check", "run", "install", "render"])
@pytest.mark.parametrize(
    ("name", "below"),
    [(name, below) for name in DIRECTORY_SETTINGS for below in PLACES.get(name, ("",))],
)
def test_a_directory_of_someone_else_is_refused_and_untouched(
    own_directory: Path, name: str, below: str, command: str
) -> None:
    base = own_directory / "base"
    foreign = base / below
    home_of_a_person(foreign)
    before = snapshot(base)
    server = Server(own_directory / "state", webmail="auto")
    server.settings[name] = str(base)
    is_rainloop = name == "rainloop_dir" or below == "rainloop"
    if command == "install":
        archive = own_directory / "archive.zip"
        archive.touch()
        done = server.command("install", "--webmail", "rainloop", "--archive", str(archive))
        # The archive is wrong as well, which is said where the directory is none of its business.
        expected = "did not put there" if is_rainloop else "this is not the release"
    elif command == "render":
        done = server.command("render", "--output", str(own_directory / "rendered"))
        expected = ""
    else:
        done = server.command(command)
        expected = f"{foreign} has something in it that devmail did not put there: "
        assert f"DEVMAIL_{name.upper()}='{base}' (environment)" in done.stderr
        assert not server.state.exists()
    assert done.returncode == (0 if command == "render" else 1)
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    after = snapshot(base)
    if name == "state_dir" and command == "install" and not is_rainloop:
        # RainLoop would go beside it, and was taken away again.
        before.pop(str(base))
        after.pop(str(base))
    assert after == before


@pytest.mark.parametrize("name", DIRECTORY_SETTINGS)
def test_an_empty_directory_of_someone_else_may_be_given(own_directory: Path, name: str) -> None:
    given = own_directory / "given"
    given.mkdir()
    os.chown(given, PERSON, PERSON)
    before = snapshot(given)
    server = Server(own_directory / "state", webmail="auto")
    server.settings[name] = str(given)
    done = server.command("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert snapshot(given) == before


def test_check_changes_nothing_in_a_state_directory_that_was_used(
    own_directory: Path,
) -> None:
    state, temporary = own_directory / "state", own_directory / "temporary"
    state.mkdir()
    temporary.mkdir()
    with Server(state) as server:
        send(server, "a@one.example", "b@two.example", "kept")
        wait_for_message(server, "b@two.example", "kept")
        assert server.stop() == 0
        before = snapshot(state)
        done = run_devmail(["check"], {**server.environ, "TMPDIR": str(temporary)})
        assert done.returncode == 0
        # The CA that there is, not that of the rehearsal.
        fingerprint = server.log().partition("fingerprint ")[2].splitlines()[0]
        assert f"our own CA has the SHA-256 fingerprint {fingerprint}\n" in done.stdout
        assert snapshot(state) == before
        assert list(temporary.iterdir()) == []


def test_check_says_of_a_new_server_that_its_ca_is_yet_to_be_made(own_directory: Path) -> None:
    server = Server(own_directory / "state")
    assert "; our own CA is made at the start\n" in server.command("check").stdout
    assert not server.state.exists()


def test_a_damaged_ca_is_found_by_check_where_it_is(own_directory: Path) -> None:
    with Server(own_directory) as server:
        assert server.stop() == 0
        (own_directory / "tls" / "ca.cert.pem").write_text("x")
        before = snapshot(own_directory)
        done = server.command("check")
        assert f"our own CA in {own_directory}/tls: it cannot be read or made" in done.stderr
        assert snapshot(own_directory) == before


def test_a_state_directory_of_an_earlier_version_is_taken_over(own_directory: Path) -> None:
    with Server(own_directory) as server:
        send(server, "a@one.example", "b@two.example", "from before")
        wait_for_message(server, "b@two.example", "from before")
        assert server.stop() == 0
        marks = list(own_directory.glob(f"*/{MARK}"))
        assert {mark.parent.name for mark in marks} >= {"run", "spool", "faults", "tls", "mail"}
        for mark in marks:
            mark.unlink()
        server.start()
        wait_for_message(server, "b@two.example", "from before")
        assert {*own_directory.glob(f"*/{MARK}")} == {*marks}


def test_a_start_that_was_killed_while_it_emptied_its_directory_is_made_good(
    own_directory: Path,
) -> None:
    with Server(own_directory) as server:
        assert server.stop() == 0
        for path in (own_directory / "run").rglob("*"):
            if path.is_file() and path.name != MARK:
                path.unlink()
        server.start()
        assert server.is_healthy()


def test_mailboxes_of_the_seed_image_are_taken_over(own_directory: Path) -> None:
    mail = own_directory / "volume"
    for part in ("cur", "new", "tmp"):
        (mail / "old.example" / "joe" / part).mkdir(parents=True)
    (mail / "old.example" / "joe" / "new" / "1.M1").write_text("Subject: old\r\n\r\nx\r\n")
    subprocess.run(["chown", "-R", "500:500", mail], check=True)
    with Server(own_directory, mail_dir=str(mail)) as server:
        wait_for_message(server, "joe@old.example", "old")
