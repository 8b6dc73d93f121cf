"""Postfix's way to a mailbox whose address has no ordinary spelling.

Started by pipe(8) for one recipient: finds the mailbox by the rule and becomes dovecot-lda, which
takes the message on standard input.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from devmail_config.addresses import Address, AddressError

# sysexits.h, which pipe(8) understands: the recipient does not exist.
_EX_NOUSER = 67


def main(arguments: Sequence[str]) -> int:
    """Deliver; ``arguments``: fold or separate, the recipient, the command that delivers."""
    plus_addresses, recipient, *command = arguments
    try:
        address = Address.parse(recipient)
    except AddressError as error:
        print(f"5.1.3 {recipient} is not an e-mail address: {error}")
        return _EX_NOUSER
    if plus_addresses == "fold":
        address = address.without_detail()
    return os.execv(command[0], [*command, "-d", address.mailbox])
