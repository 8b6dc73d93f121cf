"""Dovecot's checkpassword program: the authority on who may log in, and into which mailbox.

Protocol: https://doc.dovecot.org/2.3/configuration_manual/authentication/checkpassword/
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from devmail_config.addresses import Address, AddressError

_INPUT = 3
# User name and password are 512 bytes together in the original protocol; addresses are longer.
_INPUT_BYTES = 8192
_WRONG = 1


def main(arguments: Sequence[str]) -> int:
    """Check the login on file descriptor 3; ``arguments``: fold or separate, then the reply."""
    plus_addresses, *reply = arguments
    login, password = read_login(_INPUT)
    try:
        mailbox = mailbox_for(login, password, plus_addresses)
    except AddressError as error:
        # The text goes to Dovecot's log. It quotes the login, but never the password.
        print(f"login refused: {login!r}: {error}", file=sys.stderr)
        return _WRONG
    os.environ["USER"] = mailbox
    return os.execvp(reply[0], reply)


def mailbox_for(login: str, password: str, plus_addresses: str) -> str:
    """Give the mailbox that ``login`` and ``password`` open.

    Raises ``AddressError`` when the login is not an address or the password not its local part.
    """
    address = Address.parse(login)
    if not address.opens_with(password):
        raise AddressError("wrong password (it is the part before the @)")
    return (address.without_detail() if plus_addresses == "fold" else address).mailbox


def read_login(descriptor: int) -> tuple[str, str]:
    """Read login and password as Dovecot passes them on."""
    data = b""
    while data.count(b"\0") < 2 and len(data) < _INPUT_BYTES:
        chunk = os.read(descriptor, _INPUT_BYTES)
        if not chunk:
            break
        data += chunk
    login, password, *_ = (*data.split(b"\0"), b"", b"")
    # What is not UTF-8 becomes surrogates, which no address contains.
    return login.decode(errors="surrogateescape"), password.decode(errors="surrogateescape")
