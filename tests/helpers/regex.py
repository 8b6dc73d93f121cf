"""Regular expressions as Postfix and Dovecot read them: those of the C library, regex(3)."""

from __future__ import annotations

import ctypes

_LIBC = ctypes.CDLL(None)
# regex.h of glibc and musl.
_REG_EXTENDED = 1
_REG_ICASE = 2
_REG_NOMATCH = 1
# regex_t has 64 bytes on 64-bit Linux.
_REGEX_BYTES = 256


class PosixRegex:
    """A POSIX extended regular expression over octets."""

    def __init__(self, expression: str, *, ignore_case: bool = False) -> None:
        self._regex = ctypes.create_string_buffer(_REGEX_BYTES)
        flags = _REG_EXTENDED | (_REG_ICASE if ignore_case else 0)
        status = _LIBC.regcomp(self._regex, expression.encode(), flags)
        assert status == 0, f"{expression}: error {status}"

    def matches(self, text: str) -> bool:
        """Tell whether the expression matches somewhere in ``text``, which contains no NUL."""
        octets = text.encode()
        assert b"\0" not in octets
        status = _LIBC.regexec(self._regex, octets, ctypes.c_size_t(0), None, 0)
        assert status in {0, _REG_NOMATCH}
        return bool(status == 0)
