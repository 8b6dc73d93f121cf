"""Postfix's policy service that answers one question: is this string an address?

Protocol: https://www.postfix.org/SMTPD_POLICY_README.html
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from devmail_config.addresses import Address, AddressError


def main(arguments: Sequence[str]) -> int:
    """Answer requests on standard input until Postfix closes it."""
    request: dict[str, str] = {}
    for line in sys.stdin.buffer:
        name, separator, value = line.rstrip(b"\n").partition(b"=")
        if separator:
            request[name.decode()] = value.decode(errors="surrogateescape")
            continue
        sys.stdout.write(f"action={judge(request)}\n\n")
        sys.stdout.flush()
        request = {}
    return 0


def judge(request: Mapping[str, str]) -> str:
    """Give the access(5) action for the address that the request is about."""
    # RFC 3463: 5.1.3 is a bad destination address, 5.1.7 a bad sender's. RCPT and VRFY are about
    # a recipient.
    if request.get("protocol_state") == "MAIL":
        text, status = request.get("sender", ""), "5.1.7"
    else:
        text, status = request.get("recipient", ""), "5.1.3"
    try:
        Address.parse_unquoted(text)
    except AddressError as error:
        return f"553 {status} not an e-mail address: {error}"
    return "DUNNO"
