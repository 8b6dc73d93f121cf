"""The webmail, used as a person does, against the real daemons."""

from __future__ import annotations

import email
import email.policy
import os
from email.message import EmailMessage
from email.utils import localtime
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.helpers.clients import messages, smtp, wait_for_message
from tests.helpers.server import Server, kill
from tests.helpers.wait import wait_for
from tests.helpers.webmail import OpenWebmail, Upload, Webmail, fetch

CYRILLIC = "Съешь же ещё этих мягких французских булок"


def deliver(server: Server, sender: str, recipient: str, message: EmailMessage) -> None:
    message["From"], message["To"] = sender, recipient
    with smtp(server, sender) as client:
        client.sendmail(sender, [recipient], message.as_bytes())
    wait_for_message(server, recipient, message["Subject"])


def send_with_utf8(server: Server, sender: str, recipient: str, message: EmailMessage) -> None:
    message["From"], message["To"] = sender, recipient
    with smtp(server, sender) as client:
        options = [] if sender.isascii() else ["SMTPUTF8", "BODY=8BITMIME"]
        content = message.as_bytes(policy=email.policy.SMTPUTF8)
        client.sendmail(sender, [recipient], content, mail_options=options)
    wait_for(lambda: len(messages(server, recipient)) > 0, "the mail")


def parsed(message: bytes) -> EmailMessage:
    result = email.message_from_bytes(message, policy=email.policy.default)
    assert isinstance(result, EmailMessage)
    return result


@pytest.mark.parametrize(
    ("login", "password"),
    [
        ("mail1@company1.com", "mail1"),
        ("joe+news@example.org", "joe+news"),
        ("Joe.Upper@Example.ORG", "Joe.Upper"),
        ("joe@почта.рф", "joe"),
        ("someone@gmail.com", "someone"),
        ("someone@localhost", "someone"),
        ("юзер@почта.рф", "юзер"),
        ("юзер@example.com", "юзер"),
    ],
)
def test_any_address_logs_in(webmail: Webmail, login: str, password: str) -> None:
    webmail.log_in(login, password)
    shown = webmail.user()
    assert shown.lower() == login.lower() or shown.startswith(password)


def test_a_wrong_password_is_refused(webmail: Webmail) -> None:
    webmail.fill_login("mail1@company1.com", "mail2")
    assert "failed" in webmail.refusal().lower()


def test_mail_is_read(webmail_server: Server, webmail: Webmail) -> None:
    reader = "reader@read.example"
    in_html = EmailMessage()
    in_html["Subject"] = "in HTML"
    in_html.set_content("only plain")
    in_html.add_alternative("<p>This is <b>bold</b>.</p>", subtype="html")
    plain = EmailMessage()
    plain["Subject"] = "in plain text"
    plain.set_content("Hello,\nreader")
    koi8 = EmailMessage()
    koi8["Subject"] = "in KOI8-R"
    koi8.set_content(CYRILLIC, charset="koi8-r")
    attached = EmailMessage()
    attached["Subject"] = "with an attachment"
    attached.set_content("see below")
    attached.add_attachment(
        CYRILLIC.encode(), maintype="application", subtype="x-test", filename="Отчёт за май.dat"
    )
    for message in (in_html, plain, koi8, attached):
        deliver(webmail_server, "sender@read.example", reader, message)

    webmail.log_in(reader)
    subjects = {"with an attachment", "in KOI8-R", "in plain text", "in HTML"}
    assert set(webmail.subjects()) == subjects
    body = webmail.open("in HTML")
    expect(body.locator("b, strong")).to_have_text("bold")
    expect(webmail.open("in plain text")).to_contain_text("reader")
    expect(webmail.open("in KOI8-R")).to_contain_text(CYRILLIC)
    expect(webmail.open("with an attachment")).to_contain_text("see below")
    assert webmail.download("Отчёт за май.dat") == CYRILLIC.encode()


def test_mail_is_written_answered_and_found(
    webmail_server: Server, webmail: Webmail, open_webmail: OpenWebmail
) -> None:
    writer, reader = "writer@one.example", "reader@two.example"
    content = bytes(range(256)) * 4096
    webmail.log_in(writer)
    webmail.compose(
        reader,
        "Привет from the webmail",
        CYRILLIC,
        [Upload("данные.bin", "application/octet-stream", content)],
    )
    message = parsed(wait_for_message(webmail_server, reader, ""))
    assert message["Subject"] == "Привет from the webmail"
    assert message["From"].addresses[0].addr_spec == writer
    text = message.get_body(("plain", "html"))
    assert text is not None
    assert CYRILLIC in text.get_content()
    (attachment,) = message.iter_attachments()
    assert attachment.get_filename() == "данные.bin"
    assert attachment.get_content() == content

    other = open_webmail()
    other.log_in(reader)
    expect(other.open("Привет from the webmail")).to_contain_text(CYRILLIC)
    other.reply("Thank you")
    answer = parsed(wait_for_message(webmail_server, writer, ""))
    assert answer["Subject"] == "Re: Привет from the webmail"
    assert answer["In-Reply-To"] == message["Message-ID"]
    text = answer.get_body(("plain", "html"))
    assert text is not None
    assert "Thank you" in text.get_content()
    other.log_out()


def test_mail_is_searched(webmail_server: Server, webmail: Webmail) -> None:
    for subject in ("apples", "pears", "plums"):
        message = EmailMessage()
        message["Subject"] = f"about {subject}"
        message.set_content("fruit")
        deliver(webmail_server, "sender@read.example", "finder@read.example", message)
    webmail.log_in("finder@read.example")
    webmail.search("pears")
    assert webmail.subjects() == ["about pears"]


def test_health_leaves_nothing_behind(webmail_settings: dict[str, str]) -> None:
    def files(server: Server) -> list[Path]:
        return sorted(path for path in (server.state / "webmail").rglob("*") if path.is_file())

    with Server(None, **webmail_settings) as server:
        before = files(server)
        assert server.command("health").returncode == 0
        assert files(server) == before
        assert not [path for path in before if path.name.startswith("sess_")]
        assert "php: " not in server.log()


def test_php_that_dies_is_started_again(webmail_settings: dict[str, str]) -> None:
    with Server(None, **webmail_settings) as server:
        assert fetch(server, "/")[0] == 200
        master, *children = sorted(server.processes("php-fpm"))
        assert children
        kill(master)
        wait_for(lambda: "php ended with signal 9 and is started again" in server.log(), "the line")
        wait_for(lambda: fetch(server, "/")[0] == 200, "the webmail")
        assert server.stop() == 0
    with Server(None, **webmail_settings) as server:
        assert "php: " not in server.log()


def test_the_webmail_looks_well(webmail_server: Server, webmail: Webmail, tmp_path: Path) -> None:
    """Takes the screenshots of docs/, if ``DEVMAIL_SCREENSHOTS`` names that directory."""
    reader = "mail2@company2.com"
    for sender, subject in (
        ("newsletter@shop.example", "Your order has been shipped"),
        ("noreply@app.example", "Confirm your e-mail address"),
        ("иван@почта.рф", "Добро пожаловать"),
        ("mail1@company1.com", "First"),
    ):
        message = EmailMessage()
        message["Subject"] = subject
        message["Date"] = localtime()
        message.set_content(f"Hello,\n\nthis is {sender}. It works.")
        send_with_utf8(webmail_server, sender, reader, message)
    webmail.page.goto(webmail.url(f"/as/{reader}"))
    webmail.wait_for_inbox()
    expect(webmail.open("First")).to_contain_text("It works.")
    directory = Path(os.environ.get("DEVMAIL_SCREENSHOTS", tmp_path))
    picture = directory / f"{webmail_server.settings['webmail']}.png"
    webmail.page.screenshot(path=picture, animations="disabled")
    assert picture.stat().st_size > 10_000
