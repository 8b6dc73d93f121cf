"""A server for each webmail, and a browser that is logged in nowhere for each test.

Roundcube is always tested; RainLoop if ``DEVMAIL_TEST_RAINLOOP`` names an archive of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.helpers.server import Server, state_directory
from tests.helpers.webmail import WEBMAILS, OpenWebmail, Webmail, install_rainloop, launch

_ARCHIVE = os.environ.get("DEVMAIL_TEST_RAINLOOP")
collect_ignore = [] if _ARCHIVE else ["test_real_rainloop.py"]


@pytest.fixture(scope="session", params=[*(["rainloop"] if _ARCHIVE else []), "roundcube"])
def webmail_settings(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The settings of a server with one of the webmails."""
    if request.param == "roundcube":
        yield {"webmail": "roundcube"}
        return
    directory = state_directory()
    install_rainloop(directory / "app", Path(_ARCHIVE or ""))
    yield {"webmail": "rainloop", "rainloop_dir": str(directory / "app")}
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def webmail_server(webmail_settings: dict[str, str]) -> Iterator[Server]:
    """A server with one of the webmails."""
    with Server(None, **webmail_settings) as running:
        yield running


@pytest.fixture(scope="session")
def chromium(webmail_server: Server) -> Iterator[Browser]:
    """A browser that trusts that server."""
    with sync_playwright() as playwright:
        browser = launch(playwright.chromium, webmail_server)
        yield browser
        browser.close()


@pytest.fixture
def open_webmail(webmail_server: Server, chromium: Browser) -> Iterator[OpenWebmail]:
    """Open new windows; afterwards, neither the browser nor PHP must have complained."""
    heard_before = len(complaints_of_php(webmail_server))
    windows: list[Webmail] = []

    def open_window(*, bypass_csp: bool = False) -> Webmail:
        context = chromium.new_context(
            locale="en-GB", viewport={"width": 1280, "height": 800}, bypass_csp=bypass_csp
        )
        windows.append(
            WEBMAILS[webmail_server.settings["webmail"]](webmail_server, context.new_page())
        )
        return windows[-1]

    yield open_window
    for window in windows:
        window.page.context.close()
        assert window.complaints == []
    assert complaints_of_php(webmail_server)[heard_before:] == []


@pytest.fixture
def webmail(open_webmail: OpenWebmail) -> Webmail:
    """A window with the webmail."""
    return open_webmail()


def complaints_of_php(server: Server) -> list[str]:
    """What PHP logged, wrong passwords left out: Roundcube logs those."""
    lines = [line for line in server.log().splitlines() if line.startswith("php: ")]
    return [line for line in lines if "IMAP Error: Login failed" not in line]
