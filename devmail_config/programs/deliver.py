"""Postfix's way to a mailbox whose address has no ordinary spelling.

Started by pipe(8) for one recipient: finds the mailbox by the rule and becomes dovecot-lda, which
takes the message on standard input.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from devmail_config.addresses import Address, AddressError

# sysexits.h, which pipe(8) understands: the recipient does not exist; try again later.
_EX_NOUSER = 67
_EX_TEMPFAIL = 75


def main(arguments: Sequence[str]) -> int:
    """Deliver one message.

    ``arguments``: fold or separate, the unreachable domains with commas between them, the
    recipient, the command that delivers.
    """
    plus_addresses, bad_domains, recipient, *command = arguments
    try:
        address = Address.parse(recipient)
    except AddressError as error:
        print(f"5.1.3 {recipient} is not an e-mail address: {error}")
        return _EX_NOUSER
    if address.domain in bad_domains.split(","):
        # What Postfix says by itself, see bad_domains, where the domain is in its A-labels.
        print(f"4.4.1 connect to {address.domain}[192.0.2.1]:25: Connection timed out")
        return _EX_TEMPFAIL
    if plus_addresses == "fold":
        address = address.without_detail()
    return os.execv(command[0], [*command, "-d", address.mailbox])
