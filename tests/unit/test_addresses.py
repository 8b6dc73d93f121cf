"""The rule of addresses, by tables and by properties."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from devmail_config.addresses import (
    EXCEPTION,
    MAILBOX,
    MAILBOX_DOMAIN,
    MAILBOX_LOCAL,
    NUMBER,
    ORDINARY,
    SURELY_SHORT_DOMAIN,
    SURELY_SHORT_LOCAL,
    WRITTEN,
    Address,
    AddressError,
    component,
)
from tests.helpers.addresses import INVALID, VALID, Invalid, Valid
from tests.helpers.regex import PosixRegex
from tests.helpers.server import ROOT

bounded = settings(derandomize=True, deadline=None, max_examples=150)


# --- The tables ---


def test_the_tables_are_as_long_as_they_should_be() -> None:
    assert len({valid.address for valid in VALID}) == len(VALID) >= 100
    assert len({invalid.text for invalid in INVALID}) == len(INVALID) >= 60
    assert len({valid.mailbox for valid in VALID}) == len(VALID)


@pytest.mark.parametrize("valid", VALID, ids=lambda valid: ascii(valid.address))
def test_a_valid_address_has_its_mailbox_and_password_in_every_spelling(valid: Valid) -> None:
    for spelling in (valid.address, *valid.others):
        address = Address.parse(spelling)
        assert address.mailbox == valid.mailbox
        assert address.directory == valid.directory
        assert address.password == valid.password
        assert address.opens_with(valid.password)
        assert address.opens_with(capitals(valid.password))
        assert not address.opens_with(valid.password + "x")


@pytest.mark.parametrize("invalid", INVALID, ids=lambda invalid: ascii(invalid.text))
def test_an_invalid_address_is_refused_with_a_reason_in_ascii(invalid: Invalid) -> None:
    with pytest.raises(AddressError) as refusal:
        Address.parse(invalid.text)
    reason = str(refusal.value)
    assert invalid.reason in reason
    # It becomes part of an SMTP reply and of a line of the policy protocol.
    assert reason.isascii()
    assert reason.isprintable()


@pytest.mark.parametrize("text", ["", "\0", "a\0b@example.com", '"\0"@example.com', "a@b\0", "\n"])
def test_what_no_daemon_would_pass_on_is_refused_too(text: str) -> None:
    with pytest.raises(AddressError):
        Address.parse(text)
    with pytest.raises(AddressError):
        Address.parse_unquoted(text)


def test_the_table_in_the_document_agrees_with_the_rule() -> None:
    text = (ROOT / "docs" / "addresses.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.partition("## Examples")[2].splitlines()
        if line.startswith("| `")
    ]
    assert len(rows) >= 30
    for written, password, mailbox in rows:
        for spelling in re.findall(r"`+ ?(.+?) ?`+(?:,|$)", written):
            address = Address.parse(spelling.replace(r"\|", "|"))
            assert plain(mailbox) == address.directory, spelling
            assert plain(password) == address.password, spelling


def plain(cell: str) -> str:
    """Take the code marks off a cell of a table in Markdown."""
    found = re.fullmatch(r"(`+) ?(.+?) ?\1", cell) or re.fullmatch(r"(`)( )`", cell)
    assert found, cell
    return found[2].replace(r"\|", "|")


# --- Strategies ---

# Text that RFC 6531 allows beside ASCII: no controls, no surrogates, no code points without a use.
_letters = st.characters(exclude_categories=("Cc", "Cs", "Cn", "Zl", "Zp"))
_printable = st.sampled_from([chr(code) for code in range(0x20, 0x7F)])
_tricky = st.sampled_from([*'İıßẞΣσςſKÅﬁｊe\u0301\u0323\u0345q..@"\\ %+/', "\u0958", "\u1e9b"])
unquoted_locals = st.text(_tricky | _printable | _letters, max_size=40)
atoms = st.text(st.sampled_from("abz019_-+=!#$%&'*/?^`{|}~жé"), min_size=1, max_size=12)
labels = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?\Z")
u_labels = st.sampled_from(["münchen", "пример", "例子", "straße", "βόλος", "مثال", "دوت"])
names = st.lists(labels | u_labels, min_size=1, max_size=4).map(".".join)
ipv4 = st.ip_addresses(v=4).map(lambda address: f"[{address}]")
ipv6 = st.ip_addresses(v=6).map(lambda address: f"[IPv6:{address}]")
domains = names | ipv4 | ipv6


def quoted(local: str) -> str:
    return '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parsed(text: str) -> Address:
    """Parse text that may turn out to be too long, or to have a number as its last label."""
    try:
        return Address.parse(text)
    except AddressError:
        assume(False)  # noqa: FBT003 - hypothesis leaves the example out
        raise


valid_addresses = st.builds(
    lambda local, domain: f"{quoted(local)}@{domain}", unquoted_locals, domains
)


# --- One mailbox for all spellings of an address, and for no other ---


@bounded
@given(valid_addresses)
def test_the_normalised_form_is_written_and_read_without_change(text: str) -> None:
    address = parsed(text)
    assert Address.parse(address.written) == address
    assert Address.parse(f"{quoted(address.local)}@{address.domain}") == address
    assert Address.parse_unquoted(f"{address.local}@{address.domain}") == address


@bounded
@given(unquoted_locals, domains)
@example("İ", "example.com")
@example("ΝΊΚΟΣ", "example.com")
@example("\u0958", "example.com")
def test_case_and_composition_make_no_difference(local: str, domain: str) -> None:
    address = parsed(f"{quoted(local)}@{domain}")
    for change in CHANGES:
        assert Address.parse(f"{quoted(change(local))}@{change(domain)}") == address
        assert address.opens_with(change(local))


def capitals(text: str) -> str:
    """Write in capitals all letters that are the small form of their capital."""
    return "".join(c.upper() if c.upper().lower() == c else c for c in text)


def ascii_lower(text: str) -> str:
    """Fold as Dovecot does before it asks the rule."""
    return re.sub("[A-Z]+", lambda letters: letters[0].lower(), text)


CHANGES: tuple[Callable[[str], str], ...] = (
    str.lower,
    capitals,
    ascii_lower,
    lambda text: unicodedata.normalize("NFC", text),
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: unicodedata.normalize("NFD", capitals(text)),
)


def test_every_letter_meets_its_capital() -> None:
    """Over all of Unicode, except for capitals of more than one letter, and the dotless i."""
    apart = []
    for code in range(0xA0, 0x1F000):
        letter = chr(code)
        # Unassigned code points have no case yet, and surrogates are no characters.
        if unicodedata.category(letter) not in {"Cn", "Cs", "Zl", "Zp"}:
            cases = {letter, letter.lower(), letter.upper(), letter.title()}
            spellings = [case for case in cases if len(case) == 1]
            if len({Address.parse(f"x{spelling}@d").local for spelling in spellings}) > 1:
                apart.append(letter)
    assert apart == ["ı"]


@bounded
@given(unquoted_locals, domains, st.data())
def test_backslashes_and_needless_quotes_make_no_difference(
    local: str, domain: str, data: st.DataObject
) -> None:
    address = parsed(f"{quoted(local)}@{domain}")
    escaped = "".join(
        f"\\{c}" if c in '"\\' or (c.isascii() and data.draw(st.booleans())) else c for c in local
    )
    assert Address.parse(f'"{escaped}"@{domain}') == address
    assert address.opens_with(f'"{escaped}"')


@bounded
@given(st.lists(atoms, min_size=1, max_size=4).map(".".join), names)
def test_a_plain_local_part_and_its_quoted_form_are_one_address(local: str, domain: str) -> None:
    address = parsed(f"{local}@{domain}")
    assert Address.parse(f'"{local}"@{domain}') == address


@bounded
@given(names)
def test_u_labels_and_a_labels_are_one_domain(domain: str) -> None:
    address = parsed(f"joe@{domain}")
    assert address.domain.isascii()
    assert Address.parse(f"joe@{address.domain}") == address
    assert Address.parse(f"joe@{address.domain.upper()}") == address


@bounded
@given(st.ip_addresses(v=6))
def test_every_form_of_an_ipv6_literal_is_one_domain(address: object) -> None:
    short = Address.parse(f"joe@[IPv6:{address}]")
    exploded = str(getattr(address, "exploded", None))
    for form in (exploded, exploded.upper(), str(address).upper()):
        assert Address.parse(f"joe@[ipv6:{form}]") == short


@bounded
@given(st.ip_addresses(v=4), st.integers(1, 3))
def test_an_ipv4_address_may_lack_its_brackets_and_have_leading_zeros(
    address: object, width: int
) -> None:
    padded = ".".join(octet.zfill(width) for octet in str(address).split("."))
    assert Address.parse(f"joe@{padded}") == Address.parse(f"joe@[{address}]")


@bounded
@given(valid_addresses, valid_addresses)
def test_different_addresses_have_different_mailboxes(one: str, other: str) -> None:
    first, second = parsed(one), parsed(other)
    assume(first != second)
    assert first.mailbox != second.mailbox
    assert first.directory != second.directory


@bounded
@given(unquoted_locals)
def test_the_encoding_of_a_local_part_can_be_undone(local: str) -> None:
    """Therefore it is injective. Hypothesis would hardly find two local parts that collide."""
    normalised = parsed(f"{quoted(local)}@d").local
    octets = re.sub(
        rb"%([0-9a-f]{2})",
        lambda hexadecimal: bytes.fromhex(hexadecimal[1].decode()),
        component(normalised).encode(),
    )
    assert octets.decode() == (normalised or "\0")


# --- A mailbox's place on disk ---


@bounded
@given(valid_addresses)
def test_a_mailbox_is_two_safe_path_components(text: str) -> None:
    address = parsed(text)
    parts = address.directory.split("/")
    assert len(parts) == 2
    for part in parts:
        assert 1 <= len(part.encode()) <= 255
        assert part.strip(".")
        assert part.isascii()
        assert part.isprintable()
        assert part == part.lower(), "on a file system that folds case, two would be one"
    # A name such as .cur hides a folder from people.
    assert not parts[1].startswith(".")
    assert address.mailbox == f"{parts[1]}@{parts[0]}"
    assert address.mailbox.count("@") == 1


@bounded
@given(valid_addresses, valid_addresses)
def test_no_mailbox_is_inside_another(one: str, other: str) -> None:
    """All mailboxes are at the same depth, so that what is below one of them is never another."""
    first, second = parsed(one), parsed(other)
    assume(first != second)
    for below in ("cur", "new", "tmp", ".Sent"):
        assert f"{first.directory}/{below}" != second.directory
        assert not f"{first.directory}/".startswith(f"{second.directory}/")


def test_the_longest_component_is_shorter_than_a_file_name_may_be() -> None:
    for local in ("%" * 64, "ж" * 32, "用" * 21, "🦄" * 16):
        assert len(Address.parse(f"{local}@example.com").directory.partition("/")[2]) <= 192


@bounded
@given(valid_addresses)
def test_the_name_of_a_mailbox_is_an_address_that_needs_no_quotes(text: str) -> None:
    """Dovecot's own tools take it on a command line, and split it at its one @."""
    local = parsed(text).mailbox.partition("@")[0]
    assert re.fullmatch(r"[a-z0-9_.+=~%-]+", local)
    assert ".." not in local
    assert is_mailbox(parsed(text).mailbox)


# --- The expressions that daemons use ---

_ordinary = PosixRegex(ORDINARY)
_ordinary_in_postfix = PosixRegex(ORDINARY, ignore_case=True)
_exception = PosixRegex(EXCEPTION, ignore_case=True)
_number = PosixRegex(NUMBER)
_written = PosixRegex(f"^{WRITTEN}$", ignore_case=True)


_mailbox = PosixRegex(MAILBOX)


def is_mailbox(name: str) -> bool:
    """What Dovecot's userdb asks: the lengths of the parts around the first @, an expression."""
    local, _, domain = name.partition("@")
    is_short = len(local) <= MAILBOX_LOCAL and len(domain) <= MAILBOX_DOMAIN
    return is_short and _mailbox.matches(f".{name}")


_path_tricks = st.sampled_from(
    [
        *("a", "A", "1", "-", "_", "+", "=", "~", ".", "..", "/", "../", "/..", "\\", "@", " "),
        *("%", "%2", "%2f", "%2F", "%2e", "%zz", "%d", "%{home}", "$", "&", "$2f", "*", "?", ":"),
        *(";", "{", "}", "[", "]", "[1.2.3.4]", "[ipv6:::1]", "[ipv6:..]", "\n", "\x01", "\x7f"),
        *("é", "x.test", "cur", "xn--a"),
    ]
)


@settings(bounded, max_examples=1000)
@given(st.lists(_path_tricks, max_size=6).map("".join))
@example("../../../outside/box")
@example(".")
@example("a@b@c")
def test_what_the_userdb_lets_in_is_two_safe_components(text: str) -> None:
    for name in (text, f"{text}@x.test", f"a@{text}", f"a@{text}.test"):
        if is_mailbox(name):
            assert_safe(name)


def assert_safe(name: str) -> None:
    local, domain = name.split("@")
    for part in (local, domain):
        assert re.fullmatch(r"[a-z0-9_+=~%.\[\]:-]{1,253}", part)
        assert part.strip(".")
    assert re.fullmatch(r"(?:[^.]+\.)*[^.]+", local)
    assert re.fullmatch(r"(?:[^%]|%[0-9a-f]{2})+", local)
    assert "%" not in domain
    # A domain is one that the rule would leave as it is, or a number.
    if not domain.startswith("[") and not _number.matches(name):
        assert Address.parse(f"a@{domain}").domain == domain


@pytest.mark.parametrize(
    "name",
    [
        *("", "@", "a", "a@", "@x.test", "a@b@c", "a b@x.test", "a/b@x.test", "../a@x.test"),
        *("..@x.test", ".@x.test", ".a@x.test", "a.@x.test", "a..b@x.test", "a@..", "a@."),
        *("a@x..y", "a@.x", "a@x.", "a@/x", "a@x/..", "a@-x", "a@x-", "a@x.-y", "a@x_y", "A@x"),
        *("a%@x", "a%2@x", "a%2F@x", "%d@x", "%{home}@x", "$2f@x", "&2f@x"),
        *("a@[1.2.3.4", "a@1.2.3.4]", "a@[]", "a@[/]", "a@[ipv6:g]", "a\n@x", "a@x\n", "é@x"),
        *(f"{'a' * 193}@x", f"a@{'d' * 254}"),
    ],
)
def test_no_other_name_is_let_in(name: str) -> None:
    assert not is_mailbox(name)


def is_fast(text: str) -> bool:
    return _ordinary.matches(text) and not _exception.matches(text)


def is_fast_in_dovecot(text: str) -> bool:
    """What its passdb asks: the lengths of the parts around the first @, and two expressions."""
    local, _, domain = text.partition("@")
    is_short = len(local) <= SURELY_SHORT_LOCAL and len(domain) <= SURELY_SHORT_DOMAIN
    return is_short and _ordinary.matches(text) and not _number.matches(text)


def agrees(text: str) -> None:
    """Assert that whatever takes the fast path is what the rule says, and is its own mailbox."""
    assert is_fast(text) == bool(re.search(ORDINARY, text) and not re.search(EXCEPTION, text)), (
        "Python reads the expressions in the same way"
    )
    assert is_fast(text) or not is_fast_in_dovecot(text)
    if is_fast(text):
        address = Address.parse(text)
        assert address.mailbox == text
        assert address.password == text.partition("@")[0]
    if _ordinary_in_postfix.matches(text) and not _exception.matches(text):
        assert Address.parse(text).mailbox == text.lower()


_near = st.sampled_from([*"aZ09-_.+=@", "xn--", "1", "..", "é", "%", '"', "[", "]", "/", " "])


@settings(bounded, max_examples=600)
@given(st.lists(_near, max_size=12).map("".join))
def test_the_fast_path_agrees_with_the_rule_on_short_strings(text: str) -> None:
    agrees(text)
    agrees(f"a@{text}")
    agrees(f"{text}@b.c")


_lengths = st.sampled_from([1, 2, 62, 63, 64, 65])
_long_labels = st.builds(lambda letter, n: letter * n, st.sampled_from("a1-"), _lengths)


@settings(bounded, max_examples=600)
@given(_long_labels, st.lists(_long_labels, min_size=1, max_size=5), st.integers(-2, 2))
def test_the_fast_path_agrees_with_the_rule_on_long_strings(
    local: str, parts: list[str], spare: int
) -> None:
    domain = ".".join(parts)
    agrees(f"{local}@{domain}")
    # The same, filled up to just around the longest domain and the longest address.
    for longest in (253, 254 - len(local) - 1):
        missing = longest + spare - len(domain) - 1
        if 0 < missing <= 64:
            agrees(f"{local}@{domain}.{'d' * missing}")
            agrees(f"{local}@{domain}.{'1' * missing}")


@pytest.mark.parametrize("domain_octets", range(250, 257))
@pytest.mark.parametrize("local_octets", [1, 2, 63, 64, 65])
def test_the_fast_path_ends_where_the_rule_does(local_octets: int, domain_octets: int) -> None:
    domain = ("d" * 61 + ".") * 4 + "d" * (domain_octets - 248)
    agrees(f"{'l' * local_octets}@{domain}")
    agrees(f"{'l' * local_octets}@{domain[local_octets + 1 :].lstrip('.')}")


def test_ordinary_addresses_take_the_fast_path() -> None:
    """Where they would not, each login and each message would start a process."""
    fast = [valid.address for valid in VALID if is_fast(valid.address)]
    for address in ("joe@example.com", "user+tag@example.com", "a.b_c-d=e@localhost", "-f@a.b"):
        assert is_fast(address)
    assert len(fast) > 50
    assert {Address.parse(address).mailbox for address in fast} == set(fast)


@pytest.mark.parametrize("invalid", INVALID, ids=lambda invalid: ascii(invalid.text))
def test_nothing_invalid_takes_the_fast_path(invalid: Invalid) -> None:
    assert not is_fast(invalid.text)


def test_every_spelling_of_a_valid_address_may_be_written_in_a_command() -> None:
    for valid in VALID:
        for spelling in (valid.address, *valid.others):
            assert _written.matches(spelling), spelling
            assert _written.matches(f"@relay.example,@other.example:{spelling}"), spelling


@settings(bounded, max_examples=400)
@given(valid_addresses)
def test_no_valid_address_is_kept_out_of_a_command(text: str) -> None:
    parsed(text)
    assert _written.matches(text)


_marks = st.sampled_from([*'ab@."\\ ()[]<>,;:%é', "\x7f", "\t", '"a b"', "@d.e", "[1.2.3.4]"])


@settings(bounded, max_examples=1500)
@given(st.lists(_marks, min_size=1, max_size=10).map("".join))
@example('"\\é"@d.e')
@example("a@(b)d.e")
@example('a@"d.e"')
@example("a@d\\.e")
@example("a@d.e ")
@example('""@d.e')
def test_a_command_and_a_login_agree_about_what_an_address_is(text: str) -> None:
    """Postfix takes quotes off before the rule sees the address, a login comes with its quotes."""
    try:
        at_login: Address | None = Address.parse(text)
    except AddressError:
        at_login = None
    in_command = None
    if _written.matches(text) and not text.startswith("@"):
        try:
            in_command = Address.parse_unquoted(without_quotes(text))
        except AddressError:
            in_command = None
    assert in_command == at_login


def without_quotes(text: str) -> str:
    """Take quotes and backslashes off the local part, as Postfix does."""
    local, at, domain = text.rpartition("@")
    if local.startswith('"'):
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    return local + at + domain


# --- Details ---


@pytest.mark.parametrize(
    ("address", "user"),
    [
        ("user+detail@example.com", "user@example.com"),
        ("USER+@example.com", "user@example.com"),
        ("user+a+b@example.com", "user@example.com"),
        ('"user+a b"@example.com', "user@example.com"),
        ('"a b+c"@example.com', '"a b"@example.com'),
        ("юзер+x@example.com", "юзер@example.com"),
        ("user@example.com", "user@example.com"),
        ("+detail@example.com", "+detail@example.com"),
        ('""@example.com', '""@example.com'),
    ],
)
def test_a_detail_is_what_follows_the_first_plus(address: str, user: str) -> None:
    assert Address.parse(address).without_detail() == Address.parse(user)


@bounded
@given(valid_addresses)
def test_taking_a_detail_off_gives_a_valid_address(text: str) -> None:
    user = parsed(text).without_detail()
    assert Address.parse(user.written) == user
    assert user.without_detail() == user
