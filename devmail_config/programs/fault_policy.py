"""Postfix's policy service for faults that need a memory: those that count, or wait for a step.

Each connection of Postfix has a process of its own; what they share is in a directory, one file for
each thing that is counted, locked while it is read and written.

Protocol: https://www.postfix.org/SMTPD_POLICY_README.html
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from devmail_config import durable
from devmail_config.faults import DATA, END, FROM, LOGIN, RCPT, TO, Behaviour, Faults

_DUNNO = "DUNNO"
_STEPS = {"RCPT": RCPT, "DATA": DATA, "END-OF-MESSAGE": END}
_SUBJECTS = {TO: "recipient", FROM: "sender", LOGIN: "sasl_username"}
_UNITS = {"k": 1024, "m": 1024**2}
_MINUTE = 60.0
# What has not been used for a day is forgotten.
_KEPT_SECONDS = 86400.0


def main(arguments: Sequence[str]) -> int:
    """Answer on standard input and output; ``arguments``: file of faults, directory to remember."""
    faults_path, directory = map(Path, arguments)
    service = Service(read_faults(faults_path), directory)
    service.forget_the_old()
    request: dict[str, str] = {}
    for line in sys.stdin.buffer:
        name, separator, value = line.decode(errors="surrogateescape").rstrip("\n").partition("=")
        if separator:
            request[name] = value
            continue
        sys.stdout.write(f"action={service.answer(request)}\n\n")
        sys.stdout.flush()
        request = {}
    return 0


def read_faults(path: Path) -> Faults:
    """Read the faults of this server."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return Faults.of(document["rules"], document["suffix"])


class Service:
    """Decides about one command of a session at a time."""

    def __init__(self, faults: Faults, directory: Path) -> None:
        """Remember in ``directory``, which exists."""
        self._faults = faults
        self._directory = directory

    def answer(self, request: Mapping[str, str]) -> str:
        """Give the access(5) action; ``policy_context`` says whose fault the request is about."""
        step = _STEPS.get(request["protocol_state"], "")
        tie = request["policy_context"]
        address = request.get(_SUBJECTS[tie], "")
        if not address:
            # Postfix names no recipient where a message has several.
            return self._answer_for_noted(step, request)
        behaviour = self._faults.find(tie, address)
        if behaviour is None:
            return _DUNNO
        if step == RCPT and tie == TO and (behaviour.step in {DATA, END} or _has_size(behaviour)):
            self._note(request["instance"], address)
        match step, behaviour.name:
            case "rcpt", "first":
                return self._first(behaviour, tie, request)
            case "rcpt", "rate":
                return self._rate(behaviour, (tie, address), request["instance"])
            case "rcpt", "recipients":
                return self._recipients(behaviour, (tie, request["instance"]))
        return _at(step, behaviour, request)

    def _first(self, behaviour: Behaviour, tie: str, request: Mapping[str, str]) -> str:
        """Refuse the first N tries, or those in the N seconds since the first one."""
        key = (request["sender"].lower(), request["recipient"].lower(), tie, behaviour.number)
        with self._record("first", *key) as record:
            now = _now()
            # One that is to come is of an earlier run of this machine.
            record["began"] = began = min(now, record.get("began", now))
            record["tries"] = record.get("tries", 0) + 1
            if behaviour.number.endswith("s"):
                refused = now < began + int(behaviour.number[:-1])
            else:
                refused = record["tries"] <= int(behaviour.number)
        return str(behaviour.reply) if refused else _DUNNO

    def _rate(self, behaviour: Behaviour, subject: tuple[str, str], instance: str) -> str:
        """Let N messages pass in any minute."""
        with self._record("rate", subject[0], subject[1].lower()) as record:
            # Not earlier: while this process waited for its turn, others have let messages pass.
            now = _now()
            passed = {
                message: at
                for message, at in record.get("passed", {}).items()
                if now - _MINUTE < at <= now
            }
            if instance not in passed and len(passed) >= int(behaviour.number):
                return str(behaviour.reply)
            record["passed"] = {instance: now, **passed}
        return _DUNNO

    def _recipients(self, behaviour: Behaviour, message: tuple[str, str]) -> str:
        """Let N recipients of a message pass."""
        with self._record("recipients", *message) as record:
            record["count"] = record.get("count", 0) + 1
            return str(behaviour.reply) if record["count"] > int(behaviour.number) else _DUNNO

    def _note(self, instance: str, recipient: str) -> None:
        with (self._directory / f"note-{instance}").open("a", encoding="utf-8") as note:
            note.write(f"{recipient}\n")

    def _answer_for_noted(self, step: str, request: Mapping[str, str]) -> str:
        """Decide about a message with several recipients: the first that fails does so for all."""
        try:
            note = (self._directory / f"note-{request['instance']}").read_text(encoding="utf-8")
        except FileNotFoundError:
            return _DUNNO
        for recipient in note.splitlines():
            behaviour = self._faults.find(TO, recipient)
            if behaviour and (action := _at(step, behaviour, request)) != _DUNNO:
                return action
        return _DUNNO

    @contextlib.contextmanager
    def _record(self, *key: str) -> Iterator[dict[str, Any]]:
        """Give what is remembered under a key, to read and to change, to one process at a time.

        The file is replaced as a whole, so that a power cut leaves what was counted before.
        """
        name = hashlib.sha256("\0".join(key).encode(errors="surrogateescape")).hexdigest()
        path = self._directory / f"count-{name}"
        with _locked(path) as file:
            # An earlier version wrote in place, and a power cut may have left half of it.
            try:
                record = json.loads(file.read() or "{}")
            except ValueError:
                record = {}
            yield record
            durable.write(path, json.dumps(record).encode(), 0o600)

    def forget_the_old(self) -> None:
        """Remove what nobody has asked about for a day."""
        oldest = time.time() - _KEPT_SECONDS
        for path in (*self._directory.glob("count-*"), *self._directory.glob("note-*")):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[TextIO]:
    """Open a file for one process at a time, although each may replace it."""
    while True:
        with path.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(path, file):
                file.seek(0)
                yield file
                return


def _is_at(path: Path, file: TextIO) -> bool:
    """Tell whether nobody has replaced or removed the file since it was opened."""
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _now() -> float:
    """Give seconds by a clock that nobody sets, the same for all processes of this machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _at(step: str, behaviour: Behaviour, request: Mapping[str, str]) -> str:
    """Give the action of a behaviour that acts at this step without counting."""
    if _has_size(behaviour):
        unit = _UNITS.get(behaviour.number[-1], 1)
        limit = int(behaviour.number.rstrip("km")) * unit
        # At RCPT it is what the client has announced, 0 if nothing.
        return str(behaviour.reply) if int(request.get("size") or 0) > limit else _DUNNO
    if behaviour.step != step or step == RCPT:
        return _DUNNO
    return f"sleep {behaviour.number}" if behaviour.name == "slow" else str(behaviour.reply)


def _has_size(behaviour: Behaviour) -> bool:
    return behaviour.name == "size"
