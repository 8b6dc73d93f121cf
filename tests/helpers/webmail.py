"""A webmail as a person uses it, in a real browser: one script for both of them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urljoin

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Browser, BrowserType, ConsoleMessage, Locator, Page, expect

from devmail_config import rainloop
from tests.helpers.clients import local_part
from tests.helpers.server import HOSTNAME, Server, state_directory

CHROMIUM = Path("/usr/bin/chromium")
# What a browser says about an address that was typed, or a bookmark.
MEANT = {"Sec_Fetch_Site": "none", "Sec_Fetch_Dest": "document"}


@dataclass(frozen=True)
class Upload:
    """A file that is attached to a mail."""

    name: str
    media_type: str
    content: bytes


def launch(chromium: BrowserType, server: Server) -> Browser:
    """Start Chromium so that it believes this server's key, and no other that it does not know."""
    certificate = x509.load_pem_x509_certificate((server.state / "tls/mail.cert.pem").read_bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(key).digest()).decode()
    return chromium.launch(
        executable_path=CHROMIUM,
        args=[
            "--no-sandbox",
            f"--ignore-certificate-errors-spki-list={pin}",
            # What tests show is that the server refuses; this browser would refuse in its place.
            "--disable-features=LocalNetworkAccessChecks",
        ],
        # Without a locale of UTF-8, uploads of files with other names than ASCII get lost.
        env={"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "HOME": str(server.state)},
    )


class Webmail(ABC):
    """One tab of a browser with the webmail in it."""

    def __init__(self, server: Server, page: Page) -> None:
        self.server = server
        self.page = page
        self.complaints: list[str] = []
        page.context.on("console", self._hear)
        page.context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        page.set_default_timeout(15_000)

    def url(self, path: str = "/", scheme: str = "https") -> str:
        return f"{scheme}://{HOSTNAME}:{self.server.port(scheme)}{path}"

    def _hear(self, message: ConsoleMessage) -> None:
        # Chromium gives up requests when an interface of the machine comes or goes, as those of
        # containers do; that is nobody's fault here.
        expected = "ERR_NETWORK_CHANGED" in message.text or self.is_expected(message.text)
        if message.type in {"error", "warning"} and not expected:
            self.complaints.append(f"{message.type}: {message.text}")

    @abstractmethod
    def is_expected(self, complaint: str) -> bool:
        """Tell whether the browser always says this about this webmail."""

    def log_in(self, login: str, password: str | None = None) -> None:
        """Log in by the form, and wait for the inbox."""
        self.fill_login(login, local_part(login) if password is None else password)
        self.wait_for_inbox()

    @abstractmethod
    def fill_login(self, login: str, password: str) -> None:
        """Send the login form."""

    @abstractmethod
    def wait_for_inbox(self) -> None:
        """Wait until the list of messages is there."""

    @abstractmethod
    def refusal(self) -> str:
        """What the login form says after a wrong password."""

    @abstractmethod
    def user(self) -> str:
        """The address that the webmail shows as the user."""

    @abstractmethod
    def subjects(self) -> list[str]:
        """The subjects in the list of messages, the newest first."""

    @abstractmethod
    def open(self, subject: str) -> Locator:
        """Open a message of the list, and give its body."""

    @abstractmethod
    def allow_pictures(self) -> bool:
        """Allow the open message to fetch what is not in it, if the webmail asks; tell whether."""

    @abstractmethod
    def download(self, name: str) -> bytes:
        """Download an attachment of the open message."""

    @abstractmethod
    def attachment_url(self, name: str) -> str:
        """Where the webmail serves an attachment of the open message."""

    @abstractmethod
    def compose(self, recipient: str, subject: str, body: str, uploads: Sequence[Upload]) -> None:
        """Write and send a mail, and wait until it is sent."""

    @abstractmethod
    def reply(self, body: str) -> None:
        """Answer the open message, and wait until that is sent."""

    @abstractmethod
    def search(self, words: str) -> None:
        """Search in the folder."""

    @abstractmethod
    def log_out(self) -> None:
        """Log out, and wait for the login form."""


class Roundcube(Webmail):
    """Debian's Roundcube, skin elastic."""

    def is_expected(self, complaint: str) -> bool:
        # The answer to a wrong password, which is what it should be.
        return "status of 401" in complaint

    def fill_login(self, login: str, password: str) -> None:
        self.page.goto(self.url())
        self.page.fill("#rcmloginuser", login)
        self.page.fill("#rcmloginpwd", password)
        self.page.click("#rcmloginsubmit")

    def wait_for_inbox(self) -> None:
        self.page.wait_for_selector("#messagelist-content:visible")
        self.page.wait_for_function("window.rcmail && !rcmail.busy && rcmail.env.messagecount >= 0")

    def refusal(self) -> str:
        return self.page.inner_text("#messagestack .alert-warning")

    def user(self) -> str:
        return self.page.inner_text(".header-title.username")

    def subjects(self) -> list[str]:
        return self.page.locator("#messagelist tbody .subject a").all_inner_texts()

    def open(self, subject: str) -> Locator:
        self.page.locator("#messagelist tr.message", has_text=subject).click()
        frame = self.page.frame_locator("#messagecontframe")
        expect(frame.locator("h2.subject")).to_contain_text(subject)
        return frame.locator("#messagebody")

    def allow_pictures(self) -> bool:
        frame = self.page.frame_locator("#messagecontframe")
        button = frame.locator("#remote-objects-message a").first
        if not button.is_visible():
            return False
        button.click()
        expect(button).to_be_hidden()
        frame.locator("#messagebody").wait_for()
        return True

    def download(self, name: str) -> bytes:
        frame = self.page.frame_locator("#messagecontframe")
        with self.page.expect_download() as downloaded:
            frame.locator("#attachment-list a.filename", has_text=name).click()
        assert downloaded.value.suggested_filename == name
        return downloaded.value.path().read_bytes()

    def attachment_url(self, name: str) -> str:
        frame = self.page.frame_locator("#messagecontframe")
        path = frame.locator("#attachment-list a.filename", has_text=name).get_attribute("href")
        assert path is not None
        return urljoin(self.url(), path)

    def compose(self, recipient: str, subject: str, body: str, uploads: Sequence[Upload]) -> None:
        self.page.click("#taskmenu a.compose")
        recipients = self.page.locator("#compose_to .recipient-input input")
        recipients.fill(recipient)
        recipients.press("Enter")
        self.page.fill("#compose-subject", subject)
        self.page.fill("#composebody", body)
        for upload in uploads:
            with self.page.expect_file_chooser() as chooser:
                self.page.click("#compose-attachments button.attach")
            chooser.value.set_files(
                {"name": upload.name, "mimeType": upload.media_type, "buffer": upload.content}
            )
            item = self.page.locator("#attachment-list li", has_text=upload.name)
            expect(item.locator("a.delete")).to_be_visible()
        self._send()

    def reply(self, body: str) -> None:
        self.page.click("#toolbar-menu a.reply")
        text = self.page.locator("#composebody")
        text.fill(f"{body}\n\n{text.input_value()}")
        self._send()

    def _send(self) -> None:
        self.page.click("a.send:visible, button.send:visible")
        expect(self.page.locator("#messagestack")).to_contain_text("Message sent successfully")
        self.wait_for_inbox()

    def search(self, words: str) -> None:
        box = self.page.locator("#mailsearchform")
        box.fill(words)
        with self.page.expect_response(lambda response: "_action=search" in response.url):
            box.press("Enter")
        self.wait_for_inbox()

    def log_out(self) -> None:
        self.page.click("#taskmenu a.logout")
        self.page.wait_for_selector("#rcmloginuser")


class RainLoop(Webmail):
    """RainLoop 1.17.0."""

    def is_expected(self, complaint: str) -> bool:
        # Links to javascript:false, and the editor's buttons, see patches/editor.patch.
        return "violates the following Content Security Policy" in complaint and (
            "JavaScript URL" in complaint or "inline event handler" in complaint
        )

    def fill_login(self, login: str, password: str) -> None:
        self.page.goto(self.url())
        self.page.fill("#RainLoopEmail", login)
        self.page.fill("#RainLoopPassword", password)
        self.page.click(".buttonLogin")

    def wait_for_inbox(self) -> None:
        self.page.locator(".messageListItem:visible, .listEmptyList:visible").first.wait_for()

    def refusal(self) -> str:
        return self.page.locator(".b-login-content .alert:visible").inner_text()

    def user(self) -> str:
        return self.page.inner_text(".b-toolbar .accountPlace")

    def subjects(self) -> list[str]:
        return self.page.locator(".messageListItem .subject-suffix").all_inner_texts()

    def open(self, subject: str) -> Locator:
        self.page.locator(".messageListItem .subjectParent", has_text=subject).click()
        expect(self.page.locator(".messageItemHeader .subject")).to_contain_text(subject)
        body = self.page.locator(".messageItem .bodyText .b-text-part:visible")
        body.wait_for()
        return body

    def allow_pictures(self) -> bool:
        button = self.page.locator(".messageView .showImages:visible")
        if not button.count():
            return False
        button.first.click()
        expect(button).to_have_count(0)
        return True

    def download(self, name: str) -> bytes:
        with self.page.expect_download() as downloaded:
            self.page.locator(".attachmentItem", has_text=name).click()
        assert downloaded.value.suggested_filename == name
        return downloaded.value.path().read_bytes()

    def attachment_url(self, name: str) -> str:
        with self.page.expect_download() as downloaded:
            self.page.locator(".attachmentItem", has_text=name).click()
        return downloaded.value.url

    def compose(self, recipient: str, subject: str, body: str, uploads: Sequence[Upload]) -> None:
        self.page.click(".buttonCompose")
        form = self.page.locator(".b-compose:visible")
        # Fills the form once more when the editor is there.
        form.locator("textarea.cke_plain, div.cke_wysiwyg_div").wait_for()
        recipients = form.locator(".inputosaurus-input input:visible").first
        recipients.fill(recipient)
        recipients.press("Enter")
        form.locator("input[data-bind*='textInput: subject']").fill(subject)
        self._type(form, body)
        # The form shows either the text or the attachments.
        for upload in uploads:
            form.locator("input[type=file]").first.set_input_files(
                {"name": upload.name, "mimeType": upload.media_type, "buffer": upload.content}
            )
            item = form.locator(".attachmentItem", has_text=upload.name)
            expect(item.locator(".attachmentSize")).to_be_visible()
        self._send(form)

    def reply(self, body: str) -> None:
        self.page.click(".messageView .buttonReply:visible")
        form = self.page.locator(".b-compose:visible")
        self._type(form, body)
        self._send(form)

    def _type(self, form: Locator, body: str) -> None:
        # In whichever mode the editor opens.
        form.locator("textarea.cke_plain, div.cke_wysiwyg_div").click(position={"x": 20, "y": 20})
        self.page.keyboard.press("Control+Home")
        self.page.keyboard.insert_text(body)
        self.page.keyboard.press("Enter")

    def _send(self, form: Locator) -> None:
        form.locator(".button-send").click()
        expect(form).to_be_hidden()

    def search(self, words: str) -> None:
        box = self.page.locator(".inputSearch")
        box.fill(words)
        box.press("Enter")
        self.page.locator(".listSearchDesc:visible").wait_for()
        self.wait_for_inbox()

    def log_out(self) -> None:
        self.page.click("#top-system-dropdown-id")
        self.page.locator("[data-bind*='logoutClick']:visible").click()
        self.page.wait_for_selector("#RainLoopEmail:visible")


class OpenWebmail(Protocol):
    """Opens a new window without cookies."""

    def __call__(self, *, bypass_csp: bool = False) -> Webmail: ...


def install_rainloop(directory: Path, archive: Path) -> None:
    """Install RainLoop from an archive that may have been built from the source.

    That has another checksum than the published one.
    """
    rainloop.install(directory, archive, hashlib.sha256(archive.read_bytes()).hexdigest())


def installed_webmails() -> list[str]:
    """Roundcube, and RainLoop if ``DEVMAIL_TEST_RAINLOOP`` names an archive of it."""
    return ["rainloop", "roundcube"] if os.environ.get("DEVMAIL_TEST_RAINLOOP") else ["roundcube"]


@contextlib.contextmanager
def server_with(name: str) -> Iterator[Server]:
    """A server with one of the webmails."""
    if name == "roundcube":
        with Server(None, webmail=name) as running:
            yield running
        return
    directory = state_directory()
    install_rainloop(directory / "app", Path(os.environ["DEVMAIL_TEST_RAINLOOP"]))
    with Server(None, webmail=name, rainloop_dir=str(directory / "app")) as running:
        yield running
    shutil.rmtree(directory)


def fetch(server: Server, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    """Fetch a path over HTTPS as it is written; ``headers`` have underscores for hyphens."""
    connection = http.client.HTTPSConnection(
        "localhost", server.port("https"), context=server.tls_context(), timeout=20
    )
    try:
        connection.putrequest("GET", path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode(errors="replace")
    finally:
        connection.close()


WEBMAILS: dict[str, type[Webmail]] = {"roundcube": Roundcube, "rainloop": RainLoop}
