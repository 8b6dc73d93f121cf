"""Every address of the tables against the real daemons, over every protocol."""

from __future__ import annotations

import base64
import contextlib
import imaplib
import poplib
import re
import smtplib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devmail_config.addresses import Address
from tests.helpers.addresses import INVALID, RULE, SYNTAX, VALID, Invalid, Valid
from tests.helpers.clients import LOOPBACK, imap, messages, sasl_plain, smtp, wait_for_message
from tests.helpers.server import HOSTNAME, Server
from tests.helpers.wait import wait_for

COLLECTOR = "collector@ordinary.example"
PROBE = "probe@company1.com"


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server whose mail directory holds nothing but the mail of this file."""
    with Server() as running:
        yield running


@contextlib.contextmanager
def session(server: Server, login: str = PROBE) -> Iterator[smtplib.SMTP]:
    """An SMTP session whose commands carry UTF-8."""
    with smtp(server, login) as client:
        client.command_encoding = "utf-8"
        yield client


def submit(client: smtplib.SMTP, sender: str, recipients: list[str], message: bytes) -> None:
    """Send with SMTPUTF8, the addresses exactly as they are given."""
    assert client.docmd("MAIL", f"FROM:<{sender}> SMTPUTF8") == (250, b"2.1.0 Ok")
    for recipient in recipients:
        assert client.docmd("RCPT", f"TO:<{recipient}>") == (250, b"2.1.5 Ok"), recipient
    assert client.data(message)[0] == 250


# --- Each valid address: sent to, sent from, logged into ---


@pytest.fixture(scope="module")
def delivered(own: Server) -> Server:
    """Send a message from and to each address, and one to each of its other spellings."""
    with session(own) as client:
        for number, valid in enumerate(VALID):
            text = f"Subject: {number}\r\n\r\nhello\r\n".encode()
            submit(client, valid.address, [valid.address, COLLECTOR], text)
            for place, other in enumerate(valid.others):
                submit(client, PROBE, [other], f"Subject: {number}.{place}\r\n\r\nx\r\n".encode())
    # The queue is empty when every message is in a mailbox, or has come back as a bounce.
    wait_for(lambda: not queued(own), "the queue to be empty", timeout=60)
    return own


def queued(server: Server) -> list[Path]:
    names = ("maildrop", "incoming", "active", "deferred")
    folders = [server.state / "spool" / name for name in names]
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("number", range(len(VALID)), ids=lambda n: ascii(VALID[n].address))
def test_mail_to_every_spelling_of_an_address_is_in_its_one_mailbox(
    delivered: Server, number: int
) -> None:
    mailbox = delivered.mail / VALID[number].directory
    assert on_disk(mailbox) == expected_subjects(number)


def expected_subjects(number: int) -> list[str]:
    places = range(len(VALID[number].others))
    return [f"{number}", *(f"{number}.{place}" for place in places)]


def on_disk(mailbox: Path) -> list[str]:
    """Read the subjects of all messages of a mailbox, in no matter which of its folders."""
    files = [file for folder in ("new", "cur") for file in (mailbox / folder).iterdir()]
    return sorted(subject_of(file.read_bytes()) for file in files)


def subject_of(message: bytes) -> str:
    subject = re.search(rb"^Subject: (.*?)\r?$", message, re.MULTILINE)
    assert subject, message
    return subject[1].decode()


def test_every_address_can_be_sent_from(delivered: Server) -> None:
    senders = {}
    for message in messages(delivered, COLLECTOR):
        path = re.match(rb"Return-Path: <(.*)>\r\n", message)
        assert path, message
        senders[int(subject_of(message))] = Address.parse(path[1].decode())
    assert senders == {n: Address.parse(valid.address) for n, valid in enumerate(VALID)}


# --- Logins ---


def smtp_plain(server: Server, login: str, password: str) -> None:
    with smtp(server) as client:
        sasl_plain(client, login, password)


def smtp_login(server: Server, login: str, password: str) -> None:
    with smtp(server) as client:
        assert client.docmd("AUTH", "LOGIN")[0] == 334
        assert client.docmd(base64_of(login))[0] == 334
        code, reply = client.docmd(base64_of(password))
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, reply)


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def imap_authenticate(server: Server, login: str, password: str) -> list[str]:
    with imap(server, login, password) as client:
        return imap_subjects(client)


def imap_login(server: Server, login: str, password: str) -> list[str]:
    """Log in with quoted strings where they will do, and literals where they will not."""
    with imaplib.IMAP4(LOOPBACK, server.port("imap"), timeout=20) as client:
        line = b"x LOGIN"
        for text in (login, password):
            if text.isascii():
                line += b' "%b"' % text.replace("\\", "\\\\").replace('"', '\\"').encode()
            else:
                client.send(line + b" {%d}\r\n" % len(text.encode()))
                assert client.readline().startswith(b"+")
                line = text.encode()
        client.send(line + b"\r\n")
        while not (reply := client.readline().strip().decode()).startswith("x "):
            pass
        if not reply.startswith("x OK"):
            raise imaplib.IMAP4.error(reply)
        client.state = "AUTH"
        return imap_subjects(client)


def imap_subjects(client: imaplib.IMAP4) -> list[str]:
    _, (count,) = client.select("INBOX", readonly=True)
    if count == b"0":
        return []
    _, data = client.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    return sorted(subject_of(part[1]) for part in data if isinstance(part, tuple))


def pop3_user(server: Server, login: str, password: str) -> list[str]:
    with contextlib.closing(poplib.POP3(LOOPBACK, server.port("pop3"), timeout=20)) as client:
        client.user(login)
        client.pass_(password)
        return pop3_subjects(client)


def pop3_plain(server: Server, login: str, password: str) -> list[str]:
    with contextlib.closing(poplib.POP3(LOOPBACK, server.port("pop3"), timeout=20)) as client:
        secret = base64_of(f"{NUL}{login}{NUL}{password}")
        client.sock.sendall(f"AUTH PLAIN {secret}\r\n".encode())
        reply = client.file.readline()
        if not reply.startswith(b"+OK"):
            raise poplib.error_proto(reply)
        return pop3_subjects(client)


def pop3_subjects(client: poplib.POP3) -> list[str]:
    count, _ = client.stat()
    found = [b"\r\n".join(client.top(number + 1, 0)[1]) for number in range(count)]
    return sorted(map(subject_of, found))


NUL = "\0"
Login = Callable[[Server, str, str], list[str] | None]
LOGINS: tuple[Login, ...] = (
    smtp_plain,
    smtp_login,
    imap_authenticate,
    imap_login,
    pop3_user,
    pop3_plain,
)
REFUSALS = (smtplib.SMTPAuthenticationError, imaplib.IMAP4.error, poplib.error_proto)


def attempt(server: Server, way: Login, login: str, password: str) -> list[str] | str | None:
    """Log in, and give the subjects of the messages found, or the refusal."""
    try:
        return way(server, login, password)
    except REFUSALS as error:
        return f"{way.__name__}: {error}"


def capitals(password: str) -> str:
    """Write every letter that is the small form of its capital as that capital."""
    return "".join(c.upper() if c.upper().lower() == c else c for c in password)


@pytest.fixture(scope="module")
def opened(delivered: Server) -> dict[str, list[list[str] | str | None]]:
    """Log in with every spelling of each address: the first on every way, the others on one."""
    tasks = [
        (spelling, way, capitals(valid.password) if way is imap_login else valid.password)
        for valid in VALID
        for place, spelling in enumerate((valid.address, *valid.others))
        for way in (LOGINS if place == 0 else (imap_authenticate,))
    ]
    found: dict[str, list[list[str] | str | None]] = {}
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda task: attempt(delivered, task[1], task[0], task[2]), tasks)
        for (spelling, _, _), result in zip(tasks, results, strict=True):
            found.setdefault(spelling, []).append(result)
    return found


@pytest.mark.parametrize("number", range(len(VALID)), ids=lambda n: ascii(VALID[n].address))
def test_every_way_of_logging_in_opens_the_mailbox(
    opened: dict[str, list[list[str] | str | None]], number: int
) -> None:
    inbox = expected_subjects(number)
    assert opened[VALID[number].address] == [None, None, inbox, inbox, inbox, inbox]
    for other in VALID[number].others:
        assert opened[other] == [inbox], other


def test_no_mailbox_is_made_that_was_not_named(
    delivered: Server, opened: dict[str, list[list[str] | str | None]]
) -> None:
    assert opened
    named = {valid.directory for valid in VALID} | {"ordinary.example/collector"}
    # The check that tells whether the server works logs in as this one.
    named.add("mail.localhost/devmail-health")
    found = {str(folder.relative_to(delivered.mail)) for folder in delivered.mail.glob("*/*")}
    assert found == named


# --- What is not an address ---


@pytest.fixture(scope="module")
def client(own: Server) -> Iterator[smtplib.SMTP]:
    with session(own) as client:
        yield client


@pytest.mark.parametrize("invalid", INVALID, ids=lambda invalid: ascii(invalid.text))
def test_what_is_not_an_address_is_refused_when_sending(
    client: smtplib.SMTP, invalid: Invalid
) -> None:
    client.docmd("RSET")
    from_it = answer(client.docmd("MAIL", f"FROM:<{invalid.text}> SMTPUTF8"))
    assert client.docmd("MAIL", f"FROM:<{PROBE}> SMTPUTF8")[0] == 250, from_it
    to_it = answer(client.docmd("RCPT", f"TO:<{invalid.text}>"))
    assert answer(client.docmd("VRFY", f"<{invalid.text}> SMTPUTF8")) == to_it
    if invalid.answer == SYNTAX:
        assert from_it == "501 5.1.7 Bad sender address syntax"
        assert to_it == "501 5.1.3 Bad recipient address syntax"
    else:
        assert invalid.answer == RULE
        assert from_it.startswith("553 5.1.7 <")
        assert to_it.startswith("553 5.1.3 <")
        assert ">: Sender address rejected: not an e-mail address: " in from_it
        assert ">: Recipient address rejected: not an e-mail address: " in to_it
        assert invalid.reason in from_it
        assert invalid.reason in to_it


# --- VRFY: RFC 5321, sections 3.5.3 and 7.3. What is an address would be taken: 252 ---


@pytest.fixture
def verifier(own: Server) -> Iterator[smtplib.SMTP]:
    """A session for a few commands: Postfix ends one that has had a thousand of these."""
    with session(own) as client:
        yield client


@pytest.mark.parametrize("valid", VALID, ids=lambda valid: ascii(valid.address))
def test_an_address_is_one_to_vrfy(verifier: smtplib.SMTP, valid: Valid) -> None:
    for spelling in (valid.address, *valid.others):
        for written in (spelling, f"<{spelling}>"):
            assert answer(verifier.docmd("VRFY", f"{written} SMTPUTF8")) == f"252 2.0.0 {written}"
            if spelling.isascii():
                assert answer(verifier.docmd("VRFY", written)) == f"252 2.0.0 {written}"


@pytest.mark.parametrize("name", ["postmaster", "<postmaster>", "PostMaster", "<POSTMASTER>"])
def test_postmaster_is_an_address_to_vrfy(verifier: smtplib.SMTP, name: str) -> None:
    assert answer(verifier.docmd("VRFY", name)) == f"252 2.0.0 <postmaster@{HOSTNAME}>"


@pytest.mark.parametrize(
    "name",
    ["joe", "<joe>", "root", "double-bounce", "Joe Doe", '"joe"', "joe doe@example.com", "<>"],
)
def test_a_name_without_a_domain_is_no_address_to_vrfy_either(
    verifier: smtplib.SMTP, name: str
) -> None:
    assert answer(verifier.docmd("VRFY", name)) == "501 5.1.3 Bad recipient address syntax"


@pytest.mark.parametrize("beginning", ["vrfy ", "VRFY\t", "\vVRFY\f ", "  Vrfy  "], ids=ascii)
def test_vrfy_is_known_in_every_spelling(verifier: smtplib.SMTP, beginning: str) -> None:
    assert verifier.docmd(f"{beginning}joe@example.com") == (252, b"2.0.0 joe@example.com")
    assert verifier.docmd(f"{beginning}joe..doe@example.com")[0] == 501
    assert verifier.docmd(f"{beginning}joe")[0] == 501


def test_vrfy_says_what_rcpt_would(verifier: smtplib.SMTP) -> None:
    for domain in (
        "reject.fault.test",
        "rcpt-452-4-2-2.fault.test",
        "full.fault.test",
        "x.fault.test",
    ):
        assert verifier.docmd("MAIL", f"FROM:<{PROBE}>")[0] == 250
        to_it = answer(verifier.docmd("RCPT", f"TO:<joe@{domain}>"))
        verifier.docmd("RSET")
        assert to_it[0] in "45"
        assert answer(verifier.docmd("VRFY", f"joe@{domain}")) == to_it
    assert verifier.docmd("VRFY", "joe@bad-domain.com")[0] == 252
    assert verifier.docmd("VRFY") == (501, b"5.5.4 Syntax: VRFY address [SMTPUTF8]")
    code, reply = verifier.docmd("VRFY", "почта@example.com")
    assert (code, reply[:6]) == (553, b"5.6.7 ")


def test_vrfy_tells_nothing_without_a_login(own: Server) -> None:
    with smtp(own) as stranger:
        for name in ("joe@example.com", "joe@exam_ple.com", "joe@reject.fault.test", "postmaster"):
            code, reply = stranger.docmd("VRFY", name)
            assert (code, reply[:6]) == (530, b"5.7.0 "), name


def answer(reply: tuple[int, bytes]) -> str:
    return f"{reply[0]} {reply[1].decode()}"


@pytest.mark.parametrize("invalid", INVALID, ids=lambda invalid: ascii(invalid.text))
def test_what_is_not_an_address_is_refused_at_login_and_the_log_says_why(
    own: Server, invalid: Invalid
) -> None:
    password = invalid.text.rpartition("@")[0] or "x"
    refused = [attempt(own, way, invalid.text, password) for way in LOGINS[1::2]]
    smtp_answer, imap_answer, pop3_answer = map(str, refused)
    assert "535" in smtp_answer
    assert "5.7.8" in smtp_answer
    assert "NO [AUTHENTICATIONFAILED]" in imap_answer
    assert "-ERR [AUTH]" in pop3_answer
    if not re.search(r"[\x00-\x1f\x7f]", invalid.text):
        said = f"login refused: {ascii_lower(invalid.text)!r}: "
        lines = wait_for(
            lambda: [line for line in own.log().splitlines() if said in line], f"{said} in the log"
        )
        assert all(invalid.reason in line for line in lines)


def ascii_lower(text: str) -> str:
    """Fold as Dovecot does before it asks the rule."""
    return re.sub("[A-Z]+", lambda letters: letters[0].lower(), text)


# --- SMTPUTF8, RFC 6531 ---

UTF8_MESSAGE = (
    "From: Почта <почта@example.com>\r\n"
    "To: 用户 <用户@例子.广告>\r\n"
    "Subject: Grüße und 你好 🦄\r\n"
    "Content-Type: text/plain; charset=utf-8\r\n"
    "Content-Transfer-Encoding: 8bit\r\n"
    "\r\n"
    "Здравствуй, мир\r\n"
).encode()


@pytest.mark.parametrize(
    ("sender", "recipient"),
    [
        ("почта@example.com", "用户@例子.广告"),
        ("почта@example.com", "utf8-headers@ordinary.example"),
        ("utf8-headers@ordinary.example", "मेल@डाटामेल.भारत"),
        ('"quoted sender"@example.com', "joe@пример.рф"),
        (PROBE, "plain@utf8.example"),
    ],
)
def test_a_message_with_utf_8_headers_arrives_whole(
    own: Server, sender: str, recipient: str
) -> None:
    with session(own) as client:
        submit(client, sender, [recipient], UTF8_MESSAGE)
    password = Address.parse(recipient).password
    received = wait_for_message(own, recipient, "Grüße", password=password)
    assert received.endswith(UTF8_MESSAGE)


def test_imap_reads_the_envelope_and_searches_a_utf_8_message(own: Server) -> None:
    recipient = "поиск@example.com"
    with session(own) as client:
        submit(client, PROBE, [recipient], UTF8_MESSAGE)
    wait_for_message(own, recipient, "Grüße")
    with imap(own, recipient, "поиск") as mailbox:
        mailbox.select()
        # The type stubs take it for text, but it is sent as it is.
        mailbox.literal = "Grüße".encode()  # type: ignore[assignment]
        assert mailbox.search("UTF-8", "SUBJECT")[1] == [b"1"]
        envelope = mailbox.fetch("1", "(ENVELOPE)")[1][0]
        assert isinstance(envelope, tuple)
        assert "你好 🦄".encode() in b"".join(envelope)


@pytest.mark.parametrize(
    ("address", "of_recipient"),
    [
        ("почта@example.com", (553, b"5.6.7 ")),
        ('"имя"@example.com', (553, b"5.6.7 ")),
        # Postfix cannot be made to say more of a recipient's domain.
        ("joe@münchen.de", (501, b"5.1.3 ")),
        ("почта@пример.рф", (501, b"5.1.3 ")),
    ],
)
def test_a_utf_8_address_without_smtputf8_gets_the_standards_answer(
    client: smtplib.SMTP, address: str, of_recipient: tuple[int, bytes]
) -> None:
    client.docmd("RSET")
    code, reply = client.docmd("MAIL", f"FROM:<{address}>")
    assert (code, reply[:6]) == (553, b"5.6.7 ")
    assert client.docmd("MAIL", f"FROM:<{PROBE}>")[0] == 250
    code, reply = client.docmd("RCPT", f"TO:<{address}>")
    assert (code, reply[:6]) == of_recipient


def test_without_smtputf8_an_a_label_reaches_the_mailbox_of_its_u_label(own: Server) -> None:
    with smtp(own, PROBE) as client:
        client.sendmail(PROBE, ["a-label@xn--bcher-kva.example"], "Subject: to A\r\n\r\nx\r\n")
    wait_for_message(own, "a-label@bücher.example", "to A")


# --- Ways to write a path that RFC 5321 allows beside the address itself ---


@pytest.mark.parametrize(
    "path",
    [
        "<@relay.example:path@d.example>",
        "<@one.example,@two.example:path@d.example>",
        " <path@d.example>",
        "path@d.example",
        '<@relay.example:"path"@d.example>',
    ],
)
def test_a_source_route_and_a_bare_path_name_the_address_in_them(own: Server, path: str) -> None:
    with session(own) as client:
        client.docmd("MAIL", f"FROM:{path}")
        assert client.docmd("RCPT", f"TO:{path}") == (250, b"2.1.5 Ok")
        client.data(f"Subject: {base64_of(path)}\r\n\r\nx\r\n")
    message = wait_for_message(own, "path@d.example", base64_of(path))
    assert message.startswith(b"Return-Path: <path@d.example>\r\n")


def test_mail_to_the_name_that_postfix_keeps_for_itself_is_not_thrown_away(own: Server) -> None:
    """So it would be at any address literal of the server itself, by default."""
    for literal in ("[127.0.0.1]", "[IPv6:::1]"):
        with session(own) as client:
            submit(client, PROBE, [f"double-bounce@{literal}"], b"Subject: kept\r\n\r\nx\r\n")
        wait_for_message(own, f"double-bounce@{literal}", "kept")


@pytest.mark.parametrize(
    "path", ["<joe@d.example", "joe@d.example>", "<joe@d.example >", "<<joe@d.example>>", '"joe"']
)
def test_a_path_with_an_odd_bracket_is_refused(client: smtplib.SMTP, path: str) -> None:
    client.docmd("RSET")
    assert client.docmd("MAIL", f"FROM:{path}") == (501, b"5.1.7 Bad sender address syntax")
    client.docmd("MAIL", f"FROM:<{PROBE}>")
    assert client.docmd("RCPT", f"TO:{path}") == (501, b"5.1.3 Bad recipient address syntax")


@pytest.mark.parametrize("verb", ["MAIL\tFROM:", "\vmail\f FROM:\t", "  Mail  from: "], ids=ascii)
def test_other_white_space_is_no_way_round_the_rule(client: smtplib.SMTP, verb: str) -> None:
    client.docmd("RSET")
    for path in ("<joe..doe@example.com>", "<.joe@example.com>", "joe doe@example.com", "<joe>"):
        assert client.docmd(f"{verb}{path}") == (501, b"5.1.7 Bad sender address syntax")
    code, reply = client.docmd(f"{verb}<joe@münchen.de>")
    assert (code, reply[:6]) == (553, b"5.6.7 ")
    assert client.docmd(f"{verb}<joe@example.com>")[0] == 250
    verb = verb.upper().replace("MAIL", "RCPT").replace("FROM", "TO")
    for path in ("<joe..doe@example.com>", "joe doe@example.com", "<joe>"):
        assert client.docmd(f"{verb}{path}") == (501, b"5.1.3 Bad recipient address syntax")
    assert client.docmd(f"{verb}<joe@example.com> NOTIFY=NEVER")[0] == 250
    client.docmd("RSET")


# --- Settings ---


@pytest.fixture(scope="module")
def folding() -> Iterator[Server]:
    """A server that takes details off, and gives up on unreachable domains soon."""
    bad_domains = "bad-domain.com xn--bd-via.example"
    with Server(plus_addresses="fold", bounce_after="1s", bad_domains=bad_domains) as running:
        yield running


FOLDED = {
    "user@fold.example": (
        "user+one@fold.example",
        "User+TWO@Fold.Example",
        "user+@fold.example",
        "user++@fold.example",
        "user+a+b@fold.example",
        '"user+quoted"@fold.example',
        '"us\\er+a b"@fold.example',
        '"user+@"@fold.example',
        "user+деталь@fold.example",
    ),
    "юзер@fold.example": ("ЮЗЕР+x@fold.example", '"юзер+a b"@fold.example'),
    '"a b"@fold.example': ('"a b+c d"@fold.example',),
    "user@[192.0.2.1]": ("user+x@[192.0.2.1]", "user+x@192.0.2.1"),
    "user@bücher.example": ("user+x@xn--bcher-kva.example", "user+y@BÜCHER.example"),
    # There is no user before the detail: the address stays what it is.
    "+detail@fold.example": ('"+detail"@fold.example',),
}


def test_folded_details_share_a_mailbox_in_every_spelling(folding: Server) -> None:
    spelled = [(one, other) for one, others in FOLDED.items() for other in (one, *others)]
    with session(folding) as client:
        for _, spelling in spelled:
            subject = f"Subject: to {spelling}".encode()
            submit(client, spelling, [spelling], subject + b"\r\n\r\nx\r\n")
    wait_for(lambda: not queued(folding), "the queue to be empty", timeout=30)

    for address, others in FOLDED.items():
        expected = sorted(f"to {spelling}" for spelling in (address, *others))
        directory = folding.mail / Address.parse(address).directory
        assert on_disk(directory) == expected, address
    for address, spelling in spelled:
        password = Address.parse(spelling).password
        inbox = sorted(f"to {other}" for other in (address, *FOLDED[address]))
        for way in (imap_authenticate, pop3_user):
            assert attempt(folding, way, spelling, password) == inbox, spelling
        assert attempt(folding, smtp_plain, spelling, password) is None
    named = {Address.parse(address).directory for address in FOLDED}
    found = {str(folder.relative_to(folding.mail)) for folder in folding.mail.glob("*/*")}
    assert found - {"mail.localhost/devmail-health", "company1.com/probe"} == named


@pytest.mark.parametrize(
    "sender", ['"a b"@rare.example', "почта@пример.рф", "x@[IPv6:2001:db8::1]"]
)
def test_a_bounce_finds_its_way_back_to_a_rare_address(folding: Server, sender: str) -> None:
    with session(folding) as client:
        submit(client, sender, ["joe@bad-domain.com"], b"Subject: lost\r\n\r\nx\r\n")
    password = Address.parse(sender).password
    wait_for_message(folding, sender, "Undelivered Mail", timeout=30, password=password)


def test_every_spelling_of_an_unreachable_domain_bounces(folding: Server) -> None:
    sender = "unreached@company1.com"
    recipients = (
        '"a b"@bad-domain.com',
        "жук@bad-domain.com",
        "user+x@bad-domain.com",
        "user@xn--bd-via.example",
        "user@bäd.example",
        "user@BÄD.example",
    )
    with session(folding) as client:
        for number, recipient in enumerate(recipients):
            text = f"Subject: {number}\r\n\r\nx\r\n".encode()
            submit(client, sender, [recipient], text)
    wait_for(lambda: not queued(folding), "the queue to be empty", timeout=40)
    bounces = b"\n".join(messages(folding, sender))
    assert bounces.count(b"Subject: Undelivered Mail Returned to Sender") == len(recipients)
    assert bounces.count(b"Status: 4.4.1") == len(recipients)
    assert not {path.name for path in folding.mail.iterdir()} & {
        "bad-domain.com",
        "xn--bd-via.example",
    }
