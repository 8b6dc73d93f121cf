"""Dovecot's checkpassword program for logins that fail on demand.

It ends with status 1 where nothing fails, or nothing any more: then the rule of addresses decides.
Where the login has to fail it succeeds, with a reason: Dovecot is told to take that for a failure,
and gives the reason to the client. A wrong password is never more than that.

Protocol: https://doc.dovecot.org/2.3/configuration_manual/authentication/checkpassword/
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from devmail_config.addresses import Address, AddressError
from devmail_config.faults import LOGIN, Behaviour
from devmail_config.programs.checkpassword import read_login
from devmail_config.programs.fault_policy import read_faults

_INPUT = 3
_NO_FAULT = 1
# Postfix waits ten seconds for an answer before it tells its client of a temporary failure.
_SILENCE_SECONDS = 11.0
# Response codes of RFC 5530 (IMAP) by those of RFC 2449 and 3206 (POP3), which differ.
_CODES = {
    "imap": {"IN-USE": "INUSE", "UNAVAILABLE": "UNAVAILABLE"},
    "pop3": {"IN-USE": "IN-USE", "UNAVAILABLE": "SYS/TEMP"},
}


def main(arguments: Sequence[str]) -> int:
    """Check the login on file descriptor 3; ``arguments``: file of faults, then the reply."""
    faults_path, *reply = arguments
    login, password = read_login(_INPUT)
    service = os.environ.get("SERVICE", "")
    try:
        address = Address.parse(login)
    except AddressError:
        return _NO_FAULT
    behaviour = read_faults(Path(faults_path)).find(LOGIN, f"{address.local}@{address.domain}")
    step = "auth" if service == "smtp" else "login"
    if behaviour is None or behaviour.step != step or not address.opens_with(password):
        return _NO_FAULT
    if behaviour.name in {"slow", "silence"}:
        time.sleep(_SILENCE_SECONDS if behaviour.name == "silence" else int(behaviour.number))
        return _NO_FAULT
    os.environ.update(EXTRA="reason", reason=reason(behaviour, service))
    return os.execvp(reply[0], reply)


def reason(behaviour: Behaviour, service: str) -> str:
    """Give what the client is told."""
    reply = behaviour.reply
    if reply is None:
        return ""
    code = _CODES.get(service, {}).get(reply.status)
    return f"[{code}] {reply.text}" if code else reply.text
