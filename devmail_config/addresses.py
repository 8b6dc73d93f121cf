"""The rule of addresses: what is one, which mailbox it names, where that is, what opens it.

Everything else follows from here: Postfix's look-up tables and Dovecot's fast path are rendered
from the expressions below; the scripts that daemons start call ``Address.parse``.

Sources: RFC 5321 section 4.1.2 (mailboxes), 4.1.3 (address literals) and 4.5.3.1 (lengths);
RFC 5322 section 3.2.3 (atoms); RFC 6531 section 3.3 (UTF-8); RFC 5890 and UTS 46 (domains).

Only the standard library is imported at the top, because daemons start an interpreter for this
module: whatever is needed for rare addresses alone is imported where it is used.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from typing import NamedTuple

# What the first two expressions below match together (the one, and not the other) is an address in
# its one normalised spelling, whose mailbox has the same name: such an address needs no parsing.
# They are POSIX extended regular expressions that mean the same in Dovecot, Postfix and Python.
# They avoid the characters that are special in Dovecot's variables: % ; : { } \
_ATOM = "[a-z0-9_+=-]+"
# A domain, as words between dots and hyphens: that compiles faster than label by label.
_WORD = "[a-z0-9]+"
_MARK = "([.]|-+)"
ORDINARY = f"^{_ATOM}([.]{_ATOM})*@{_WORD}({_MARK}{_WORD})*$"
# A domain that ends in a number, which is an IPv4 address or nothing.
NUMBER = "@(.*[.])?[0-9]+$"
# That, or too long.
EXCEPTION = f"^[^@]{{65}}|@.{{254}}|@(.*[.])?[^.]{{64}}|^.{{255}}|{NUMBER}"
# Dovecot compiles its expressions anew for each login, and the counts above would take most of a
# login's time. It looks at lengths in its own way: with a local part and a domain of these many
# octets at most, nothing is too long, and NUMBER is all that is left of EXCEPTION.
SURELY_SHORT_LOCAL = 64
SURELY_SHORT_DOMAIN = 63
# A dot, and a name that Address.mailbox gives: what matches is two safe path components, if they
# have no more octets than these. Each word of the local part follows a dot, and so does the first.
_CODED = "([a-z0-9_+=~-]|%[0-9a-f][0-9a-f])+"
_SOME_LITERAL = "[[]([0-9.]+|ipv6:[0-9a-f.:]+)[]]"
MAILBOX = f"^([.]{_CODED})+@({_WORD}({_MARK}{_WORD})*|{_SOME_LITERAL})$"
MAILBOX_LOCAL = 192
MAILBOX_DOMAIN = 253
# How the path in MAIL and RCPT may be written, between its angle brackets: an optional route (RFC
# 5321, appendix C), atoms or a quoted string, and after the @ a literal or something without quotes
# and comments. It looks at octets.
_ANY_ATOM = r"""[^][ "(),.:;<>@\\[:cntrl:]]+"""
_ANY_QUOTED = r'''"([^"\\[:cntrl:]]|\\[ -~])*"'''
_ANY_DOMAIN = rf"""(\[[^][ "(),;<>@\\[:cntrl:]]*\]|{_ANY_ATOM}([.]{_ANY_ATOM})*)"""
_ANY_ROUTE = r"""(@[^ "():;<>\\[:cntrl:]]+:)?"""
WRITTEN = rf"{_ANY_ROUTE}({_ANY_ATOM}([.]{_ANY_ATOM})*|{_ANY_QUOTED})@{_ANY_DOMAIN}"

_LOCAL_OCTETS = 64
# RFC 5321, 4.5.3.1.3: a path has at most 256 octets, two of which are its angle brackets.
_ADDRESS_OCTETS = 254
# RFC 1035: 255 octets on the wire are 253 characters.
_DOMAIN_OCTETS = 253

# A class of what is left out compiles far faster than one of all that is allowed, and counts at
# every start.
_ATOM_TEXT = r"""[^\x00- "(),.:;<>@\[\\\]\x7f]+"""
_DOT_ATOM = re.compile(rf"{_ATOM_TEXT}(?:\.{_ATOM_TEXT})*")
_QUOTED = re.compile(r'"(?:[^\x00-\x1f"\\\x7f]|\\[ -~])*"')
_QUOTABLE = re.compile(r"[^\x00-\x1f\x7f]*")
_QUOTED_PAIR = re.compile(r"\\(.)")
_LDH_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_IPV4_LITERAL = re.compile(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})", re.ASCII)
_UNSAFE = re.compile(rb"[^a-z0-9._+=~-]")
_LONE_DOT = re.compile(r"(?:^|(?<=\.))\.|\.$")
# C1 controls, surrogates, line and paragraph separators, and code points that are no characters.
_NOT_IN_TEXT = re.compile(
    "[\u0080-\u009f\u2028\u2029\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane * 0x10000 + low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)


_NO_AT = "it has no @: give the full address, such as joe@example.com"
_NO_LOCAL_PART = "there is nothing before the @"
# RFC 5321 allows "" before the @, and a path component needs a name: NUL is in no local part.
_EMPTY = "%00"


class AddressError(ValueError):
    """The string is not an address; the message says why, in words for the person who sent it."""


class Address(NamedTuple):
    """An address in its one normalised form: two spellings of one address compare equal.

    ``local`` is the local part without quotes and escapes, case folded and in NFC. ``domain`` is in
    lower case with every label an A-label, or a literal such as ``[192.0.2.1]`` or
    ``[ipv6:2001:db8::1]``.
    """

    local: str
    domain: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address as it is written in ``RCPT TO`` or as a login.

        Raises ``AddressError`` when ``text`` is not an address.
        """
        return cls._checked(*_split(text))

    @classmethod
    def parse_unquoted(cls, text: str) -> Address:
        """Read an address whose quotes and escapes have been taken off, as Postfix passes it on.

        Raises ``AddressError`` when ``text`` is not an address.
        """
        local, at, domain = text.rpartition("@")
        if not at:
            raise AddressError(_NO_AT)
        if not _QUOTABLE.fullmatch(local):
            raise AddressError("it contains a control character")
        return cls._checked(local, domain)

    @classmethod
    def _checked(cls, local: str, domain: str) -> Address:
        if _NOT_IN_TEXT.search(local + domain):
            raise AddressError("it contains a character that is not text")
        address = cls(_normalise(local), _domain(domain))
        written = address.written
        if len(written.rpartition("@")[0].encode()) > _LOCAL_OCTETS:
            raise AddressError(f"the part before the @ is longer than {_LOCAL_OCTETS} octets")
        if len(written.encode()) > _ADDRESS_OCTETS:
            raise AddressError(f"it is longer than {_ADDRESS_OCTETS} octets")
        return address

    @property
    def written(self) -> str:
        """The address as it is written in the fewest characters, quoted if it has to be."""
        if _DOT_ATOM.fullmatch(self.local):
            return f"{self.local}@{self.domain}"
        escaped = self.local.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"@{self.domain}'

    @property
    def mailbox(self) -> str:
        """The name of the mailbox, which is also Dovecot's user name; an ordinary address."""
        return f"{component(self.local)}@{self.domain}"

    @property
    def directory(self) -> str:
        """Where the mailbox lives, relative to the mail directory: two safe path components."""
        return f"{self.domain}/{component(self.local)}"

    @property
    def password(self) -> str:
        """The password, in its plainest spelling: the local part without any quotes."""
        # RFC 4616: SASL PLAIN cannot carry an empty password.
        return self.local or '""'

    def opens_with(self, password: str) -> bool:
        """Tell whether ``password`` is the local part, in any case and in any spelling of it."""
        spellings = {_normalise(password)}
        if _QUOTED.fullmatch(password):
            spellings.add(_normalise(_unquote(password)))
        return self.local in spellings

    def without_detail(self) -> Address:
        """Give ``user@domain`` for ``user+detail@domain`` (RFC 5233), else the address itself."""
        user = self.local.partition("+")[0]
        return self._replace(local=user) if user else self


def component(local: str) -> str:
    """Encode a normalised local part as one safe path component that a person recognises.

    Percent-encoding (RFC 3986) of everything but letters, digits and ``._-+=~``, so that no two
    local parts share a component, and no file system that folds case or normalises Unicode can make
    them. A dot that does not stand between two others is encoded too: there is no ``..`` and no
    hidden folder, and the result can be the local part of an address without quotes.

    64 octets grow to 192 at most, so a component is shorter than the 255 octets of a file's name.
    A domain needs none of this: it is ASCII without a slash, and at most 253 octets long.
    """
    # Dovecot folds user names to lower case, so the digits of the encoding are in lower case too.
    encoded = _UNSAFE.sub(lambda octet: b"%%%02x" % octet[0][0], local.encode()).decode()
    return _LONE_DOT.sub("%2e", encoded) or _EMPTY


def _split(text: str) -> tuple[str, str]:
    """Split into the local part, unquoted, and the domain as written."""
    quoted = _QUOTED.match(text)
    if quoted and text[quoted.end() : quoted.end() + 1] == "@":
        return _unquote(quoted[0]), text[quoted.end() + 1 :]
    local, at, domain = text.rpartition("@")
    if not at:
        raise AddressError(_NO_AT)
    if not local:
        raise AddressError(_NO_LOCAL_PART)
    if not _DOT_ATOM.fullmatch(local):
        raise AddressError(
            "the part before the @ has a character or a dot that must stand in quotes"
        )
    return local, domain


def _unquote(quoted: str) -> str:
    return _QUOTED_PAIR.sub(r"\1", quoted[1:-1])


def _normalise(text: str) -> str:
    if text.isascii():
        return text.lower()
    # Folding may take a letter apart, so the composition comes last; the one before makes both
    # compositions of a letter start from the same text.
    composed = unicodedata.normalize("NFC", text)
    return unicodedata.normalize("NFC", "".join(map(_fold, composed)))


def _fold(letter: str) -> str:
    """Fold the case of one letter, so that it meets its capital, and the capital's other letters.

    This is the simple case folding of Unicode (section 3.13 and CaseFolding.txt), which maps one
    letter to one: both forms of the Greek sigma are one, but a sharp s is no double s. The capital
    I with a dot, which has no such folding, is put into lower case.
    """
    folded = letter.casefold()
    return folded if len(folded) == 1 else letter.lower()


def _domain(text: str) -> str:
    if not text:
        raise AddressError("there is nothing after the @")
    if text.startswith("["):
        return _literal(text)
    name = text.lower() if text.isascii() else _a_labels(text)
    if _IPV4_LITERAL.fullmatch(name):
        # Postfix resolves user@192.0.2.1 as user@[192.0.2.1]: one address, two spellings.
        return _literal(f"[{name}]")
    if len(name) > _DOMAIN_OCTETS:
        raise AddressError(f"the domain is longer than {_DOMAIN_OCTETS} characters")
    for label in name.split("."):
        if not _LDH_LABEL.fullmatch(label):
            # In ASCII, because a reason becomes part of an SMTP reply.
            raise AddressError(
                f"{label!a} is not part of a domain: letters, digits, inner hyphens, 63 at most"
                if label
                else "the domain has an empty part: a dot too many"
            )
    if name.rpartition(".")[2].isdigit():
        # RFC 3696, section 2: so that no name looks like an IPv4 address.
        raise AddressError("the last part of the domain is a number")
    return name


def _a_labels(text: str) -> str:
    import idna

    # Before version 15.1, the tables of UTS 46 made a double s of the capital sharp s, but not of
    # the small one, so that the two cases of one domain were two domains.
    text = text.replace("ẞ", "ß")
    try:
        return idna.encode(text, uts46=True, std3_rules=True).decode().lower()
    except idna.IDNAError as error:
        reason = str(error).encode("ascii", "backslashreplace").decode()
        raise AddressError(f"the domain is not an internationalised domain: {reason}") from None


def _literal(text: str) -> str:
    if ipv4 := _IPV4_LITERAL.fullmatch(text[1:-1]):
        octets = [int(octet) for octet in ipv4.groups()]
        if max(octets) <= 255 and text.endswith("]"):
            return f"[{'.'.join(map(str, octets))}]"
    elif text[1:6].lower() == "ipv6:" and text.endswith("]"):
        import socket

        # The C library writes an address as RFC 5952 says, and not in another way in its next year.
        with contextlib.suppress(OSError, ValueError):
            address = socket.inet_pton(socket.AF_INET6, text[6:-1])
            return f"[ipv6:{socket.inet_ntop(socket.AF_INET6, address)}]"
    raise AddressError("the part in [ ] is neither an IPv4 address nor IPv6: and an IPv6 address")
