"""Mail from any address to any address, over every port and protocol."""

from __future__ import annotations

import base64
import imaplib
import poplib
import smtplib
import socket
import ssl
import subprocess
import zlib
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest

from devmail_config.services import PYTHON
from devmail_config.users import MAIL
from tests.helpers.clients import LOOPBACK, imap, messages, pop3, send, smtp, wait_for_message
from tests.helpers.server import HOSTNAME, Server
from tests.helpers.wait import wait_for

# Takes all of the kernel's watches that its user may have, until its standard input ends.
TAKE_WATCHES = """
import ctypes, resource, sys
files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
libc = ctypes.CDLL(None)
while libc.inotify_init() >= 0:
    pass
print("all", flush=True)
sys.stdin.read()
"""
SENDER = "mail1@company1.com"


def a_real_message(subject: str) -> bytes:
    """A message as a mail program makes it: UTF-8 subject, two forms of text, an attachment."""
    message = EmailMessage(policy=SMTP)
    message["From"] = SENDER
    message["To"] = "mail2@company2.com"
    message["Subject"] = subject
    message.set_content("Здравствуй, мир\r\n.\r\n..a line of dots\r\n" + "long " * 300 + "\r\n")
    message.add_alternative("<p>Здравствуй, <b>мир</b></p>", subtype="html")
    message.add_attachment(
        bytes(range(256)) * 40, "application", "octet-stream", filename="отчёт.bin"
    )
    return message.as_bytes()


def body(message: bytes) -> bytes:
    return message.partition(b"\r\n\r\n")[2]


def smtp_plain(server: Server) -> smtplib.SMTP:
    return smtplib.SMTP(LOOPBACK, server.port("smtp"), timeout=20)


def smtp_starttls(server: Server, listener: str = "smtp") -> smtplib.SMTP:
    client = smtplib.SMTP("localhost", server.port(listener), timeout=20)
    client.starttls(context=server.tls_context())
    return client


def smtp_submission(server: Server) -> smtplib.SMTP:
    return smtp_starttls(server, "submission")


def smtp_tls(server: Server) -> smtplib.SMTP:
    return smtplib.SMTP_SSL(
        "localhost", server.port("smtps"), context=server.tls_context(), timeout=20
    )


@pytest.mark.parametrize("connect", [smtp_plain, smtp_starttls, smtp_submission, smtp_tls])
def test_a_message_sent_on_every_port_is_the_same_on_every_way_of_reading(
    server: Server, connect: Callable[[Server], smtplib.SMTP]
) -> None:
    recipient = f"{connect.__name__.replace('_', '-')}@company2.com"
    sent = a_real_message(f"Привет через {connect.__name__}")
    with connect(server) as client:
        client.login(SENDER, "mail1")
        client.sendmail(SENDER, [recipient], sent)
    wait_for(lambda: messages(server, recipient), "the message")

    for read in (imap_plain, imap_starttls, imap_tls, pop3_plain, pop3_stls, pop3_tls):
        received = read(server, recipient)
        assert body(received) == body(sent), read.__name__
        sent_headers = sent.partition(b"\r\n\r\n")[0]
        assert received.partition(b"\r\n\r\n")[0].endswith(sent_headers), read.__name__


def imap_fetch(client: imaplib.IMAP4, login: str) -> bytes:
    client.login(login, login.partition("@")[0])
    client.select("INBOX", readonly=True)
    _, data = client.fetch("1", "(BODY.PEEK[])")
    client.logout()
    part = data[0]
    assert isinstance(part, tuple)
    return part[1]


def imap_plain(server: Server, login: str) -> bytes:
    return imap_fetch(imaplib.IMAP4(LOOPBACK, server.port("imap")), login)


def imap_starttls(server: Server, login: str) -> bytes:
    client = imaplib.IMAP4("localhost", server.port("imap"))
    client.starttls(server.tls_context())
    return imap_fetch(client, login)


def imap_tls(server: Server, login: str) -> bytes:
    port = server.port("imaps")
    return imap_fetch(imaplib.IMAP4_SSL("localhost", port, ssl_context=server.tls_context()), login)


def pop3_fetch(client: poplib.POP3, login: str) -> bytes:
    client.user(login)
    client.pass_(login.partition("@")[0])
    lines = client.retr(1)[1]
    client.quit()
    return b"".join(line + b"\r\n" for line in lines)


def pop3_plain(server: Server, login: str) -> bytes:
    return pop3_fetch(poplib.POP3(LOOPBACK, server.port("pop3")), login)


def pop3_stls(server: Server, login: str) -> bytes:
    client = poplib.POP3("localhost", server.port("pop3"))
    client.stls(server.tls_context())
    return pop3_fetch(client, login)


def pop3_tls(server: Server, login: str) -> bytes:
    port = server.port("pop3s")
    return pop3_fetch(poplib.POP3_SSL("localhost", port, context=server.tls_context()), login)


@pytest.mark.parametrize("listener", ["smtps", "imaps", "pop3s", "https"])
def test_tls_is_not_trusted_without_our_ca(server: Server, listener: str) -> None:
    stranger = ssl.create_default_context()
    with (
        socket.create_connection((LOOPBACK, server.port(listener))) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"),
    ):
        stranger.wrap_socket(plain, server_hostname=HOSTNAME)


@pytest.mark.parametrize("listener", ["smtps", "imaps", "pop3s", "https"])
@pytest.mark.parametrize("name", [HOSTNAME, "localhost", LOOPBACK, "::1"])
def test_the_certificate_is_for_every_name_of_the_server(
    server: Server, listener: str, name: str
) -> None:
    with (
        socket.create_connection((LOOPBACK, server.port(listener))) as plain,
        server.tls_context().wrap_socket(plain, server_hostname=name) as secure,
    ):
        assert secure.version() == "TLSv1.3"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_ticket_holds_up_the_greeting_of_smtp_over_tls(
    server: Server, version: ssl.TLSVersion
) -> None:
    context = server.tls_context()
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection((LOOPBACK, server.port("smtps"))) as plain,
        context.wrap_socket(plain, server_hostname=HOSTNAME) as secure,
    ):
        # A ticket would come before the greeting, and the client has it as soon as it reads that.
        assert secure.recv(1000).startswith(b"220 ")
        assert secure.session is not None
        assert not secure.session.has_ticket


def test_a_mailbox_is_born_at_its_first_login(server: Server) -> None:
    with imap(server, "newborn@nowhere.example") as client:
        _, folders = client.list()
    names = b" ".join(folder for folder in folders if isinstance(folder, bytes))
    for folder in (b"Drafts", b"Sent", b"Junk", b"Trash", b"Archive"):
        assert b"\\" + folder in names
    assert (server.mail / "nowhere.example" / "newborn").is_dir()


def test_status_tells_of_mail_in_a_mailbox_that_is_not_selected(server: Server) -> None:
    login = "watched@status.example"
    with imap(server, login) as client:
        for count in (1, 2):
            send(server, SENDER, login, f"number {count}")
            wait_for_message(server, login, f"number {count}")
            _, answer = client.status("INBOX", "(MESSAGES RECENT)")
            assert answer[0] is not None
            assert b"MESSAGES %d " % count in answer[0]


def test_many_recipients_and_bcc_each_get_their_own_copy(server: Server) -> None:
    recipients = [f"one-of-many{n}@many.example" for n in range(20)]
    with smtplib.SMTP(LOOPBACK, server.port("smtp")) as client:
        client.login(SENDER, "mail1")
        client.sendmail(SENDER, recipients, "Subject: to many\r\n\r\nhello\r\n")
    for recipient in recipients:
        assert b"hello" in wait_for_message(server, recipient, "to many")


def test_headers_are_neither_completed_nor_rewritten(server: Server) -> None:
    recipient = "bare@headers.example"
    with smtplib.SMTP(LOOPBACK, server.port("smtp")) as client:
        client.login(SENDER, "mail1")
        client.sendmail(SENDER, [recipient], "From: joe\r\nSubject: bare\r\n\r\nx\r\n")
    received = wait_for_message(server, recipient, "bare")
    assert b"\r\nFrom: joe\r\nSubject: bare\r\n\r\n" in received
    assert b"Message-ID" not in received.partition(b"\r\n\r\n")[0]


def test_8_bit_headers_and_very_long_lines_arrive_as_they_were_sent(server: Server) -> None:
    recipient = "raw@bytes.example"
    text = (
        "Subject: raw Привет\r\n\r\n".encode()
        + b"x" * 5000
        + b"\r\n"
        + "Ж".encode() * 900
        + b"\r\n"
    )
    with smtplib.SMTP(LOOPBACK, server.port("smtp")) as client:
        client.login(SENDER, "mail1")
        client.sendmail(SENDER, [recipient], text, ["BODY=8BITMIME"])
    assert body(wait_for_message(server, recipient, "raw")) == body(text)


@pytest.mark.parametrize(
    "header",
    [
        b"X-Long: " + (b"a" * 70 + b"\r\n ") * 15_000 + b"end",
        b"X-Long: " + b"a" * 1_000_000,
        b"To: " + b",\r\n ".join(b"joe%d@many.example" % n for n in range(30_000)),
        b"\r\n".join(b"X-Number-%d: %d" % (n, n) for n in range(50_000)),
    ],
    ids=["folded", "one line", "addresses", "many"],
)
def test_a_header_is_kept_however_long_it_is(server: Server, header: bytes) -> None:
    recipient = f"header{zlib.crc32(header)}@bytes.example"
    text = b"Subject: long\r\n" + header + b"\r\nX-Last: here\r\n\r\nthe body\r\n"
    with smtp(server, SENDER) as client:
        client.sendmail(SENDER, [recipient], text)
    assert wait_for_message(server, recipient, "long").endswith(text)


def test_idle_announces_new_mail_where_the_kernel_does_not(server: Server) -> None:
    """Every process of the user that mailboxes belong to shares the kernel's limit of watches."""
    taker = subprocess.Popen(
        ["setpriv", "--reuid", MAIL, "--regid", MAIL, "--clear-groups", PYTHON, "-c", TAKE_WATCHES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with taker:
        assert taker.stdout
        assert taker.stdout.readline() == b"all\n"
        for number in range(3):
            login = f"unwatched{number}@waiting.example"
            with imap(server, login) as client:
                client.select()
                client.send(b"x1 IDLE\r\n")
                assert client.readline().startswith(b"+")
                # By default, it is up to half a minute.
                client.sock.settimeout(5)
                send(server, SENDER, login, "wake up")
                assert client.readline().strip() == b"* 1 EXISTS"
                client.send(b"DONE\r\n")
                wait_for(lambda: client.readline().startswith(b"x1 OK"), "IDLE to end")
        assert "Inotify instance limit for user 8 " in server.log()
        taker.communicate()


def test_idle_announces_new_mail(server: Server) -> None:
    login = "idle@waiting.example"
    with imap(server, login) as client:
        client.select()
        client.send(b"x1 IDLE\r\n")
        assert client.readline().startswith(b"+")
        send(server, SENDER, login, "wake up")
        assert client.readline().strip() == b"* 1 EXISTS"
        client.send(b"DONE\r\n")
        wait_for(lambda: client.readline().startswith(b"x1 OK"), "IDLE to end")


def test_pop3_deletes_what_imap_then_lacks(server: Server) -> None:
    login = "deleted@pop.example"
    send(server, SENDER, login, "short-lived")
    wait_for_message(server, login, "short-lived")
    with pop3(server, login) as client:
        client.dele(1)
    assert messages(server, login) == []


def test_a_message_over_the_limit_is_refused_with_the_standard_code(own_directory: Path) -> None:
    message = "Subject: big\r\n\r\n" + "line\r\n" * 40000
    with (
        Server(own_directory, message_size_limit="100k") as server,
        smtplib.SMTP(LOOPBACK, server.port("smtp")) as client,
    ):
        client.login(SENDER, "mail1")
        with pytest.raises(smtplib.SMTPSenderRefused, match=r"5\.3\.4"):
            client.sendmail(SENDER, ["big@size.example"], message)


def test_sasl_login_mechanism(server: Server) -> None:
    with smtplib.SMTP(LOOPBACK, server.port("smtp")) as client:
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"]
        assert client.docmd("AUTH", "LOGIN")[0] == 334
        assert client.docmd(base64.b64encode(SENDER.encode()).decode())[0] == 334
        assert client.docmd(base64.b64encode(b"mail1").decode())[0] == 235
