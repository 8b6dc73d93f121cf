"""The page about the server, as a person uses it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect

from tests.helpers.clients import LOOPBACK
from tests.helpers.server import Server

# The page does not know the webmail, but is tested with a server that has one.
pytestmark = pytest.mark.usefixtures("webmail_settings")


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    with chromium.new_context(locale="en-GB", viewport={"width": 1000, "height": 800}) as opened:
        yield opened


def visit(context: BrowserContext, server: Server) -> Page:
    """Open the page; nothing on it may come from elsewhere, and nothing may complain."""
    page = context.new_page()
    home = f"http://{LOOPBACK}:{server.port('http')}/"

    def judge(request: Request) -> None:
        assert request.url.startswith(home)

    page.on("request", judge)
    page.on("console", lambda message: pytest.fail(message.text))
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto(home)
    return page


def test_the_login_of_an_address_appears_while_it_is_typed(
    context: BrowserContext, webmail_server: Server
) -> None:
    page = visit(context, webmail_server)
    page.get_by_label("Address").press_sequentially('"John Q."@Müller.example')
    answer = page.locator("#answer")
    expect(answer).to_contain_text('"john q."@xn--mller-kva.example')
    expect(answer).to_contain_text("xn--mller-kva.example/john%20q%2e")
    page.get_by_label("Address").fill("joe")
    expect(answer).to_contain_text("Not an e-mail address: it has no @")
    page.get_by_label("Address").fill("")
    expect(answer).to_be_empty()


def test_a_button_copies_what_it_stands_behind(
    context: BrowserContext, webmail_server: Server
) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit(context, webmail_server)
    page.get_by_label("Address").fill("Joe+News@example.org")
    page.locator("#answer dd", has_text="joe+news").nth(1).get_by_title("Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == "joe+news"
    expect(page.get_by_title("Copied")).to_have_count(1)


def test_it_works_without_javascript(chromium: Browser, webmail_server: Server) -> None:
    with chromium.new_context(java_script_enabled=False, locale="ru") as context:
        page = visit(context, webmail_server)
        page.get_by_label("Адрес").fill("иван@почта.рф")
        page.get_by_role("button", name="Показать").click()
        expect(page.locator("#answer")).to_contain_text("Пароль")
        expect(page.locator("#answer")).to_contain_text("иван@xn--80a1acny.xn--p1ai")
        page.get_by_role("link", name="English").click()
        expect(page.get_by_role("heading", name="Trust this server")).to_be_visible()


@pytest.mark.parametrize(
    ("name", "size", "colours"),
    [
        ("page-light", (1000, 800), "light"),
        ("page-dark", (1000, 800), "dark"),
        ("page-phone", (390, 800), "light"),
    ],
)
def test_it_looks_well(
    chromium: Browser,
    webmail_server: Server,
    tmp_path: Path,
    name: str,
    size: tuple[int, int],
    colours: Literal["dark", "light"],
) -> None:
    """Takes the screenshots of docs/, if ``DEVMAIL_SCREENSHOTS`` names that directory."""
    width, height = size
    with chromium.new_context(
        locale="en-GB", viewport={"width": width, "height": height}, color_scheme=colours
    ) as context:
        page = visit(context, webmail_server)
        page.get_by_label("Address").fill("mail1@company1.com")
        expect(page.locator("#answer")).to_contain_text("company1.com/mail1")
        # Nothing is wider than the window.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(18, 22, 28)") == (colours == "dark")
        picture = Path(os.environ.get("DEVMAIL_SCREENSHOTS", tmp_path)) / f"{name}.png"
        page.screenshot(path=picture, animations="disabled")
        assert picture.stat().st_size > 10_000
