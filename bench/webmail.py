#!/usr/bin/env python3
"""How long the webmail takes, in a real browser.

    bench/webmail.py [roundcube|rainloop]

Every figure is the median of several windows without cookies and with an empty cache. For RainLoop,
``DEVMAIL_RAINLOOP_DIR`` says where it is installed.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.helpers.clients import smtp, wait_for_message
from tests.helpers.server import Server
from tests.helpers.webmail import MEANT, WEBMAILS, Webmail, fetch, launch

_RUNS = 7
_MESSAGES = 200
_USER = "bench@bench.example"
_FORM = {"roundcube": "#rcmloginuser", "rainloop": "#RainLoopEmail"}


def fill_mailbox(server: Server) -> None:
    """Give the user a mailbox of some size."""
    with smtp(server, _USER) as client:
        for number in range(_MESSAGES):
            # A date of its own, so that the last one is on top.
            head = f"From: {_USER}\r\nTo: {_USER}\r\nDate: {formatdate(time.time() + number)}"
            text = f"{head}\r\nSubject: message {number}.\r\n\r\nhello\r\n"
            client.sendmail(_USER, [_USER], text)
    wait_for_message(server, _USER, f"message {_MESSAGES - 1}.", timeout=60)


def window(server: Server, browser: Browser) -> Webmail:
    """Open a window without cookies."""
    page = browser.new_context(locale="en-GB").new_page()
    return WEBMAILS[server.settings["webmail"]](server, page)


def measure(server: Server, browser: Browser) -> dict[str, list[float]]:
    """Use the webmail several times, and give milliseconds by what was done."""
    form = _FORM[server.settings["webmail"]]
    figures: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def timed(what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        figures.setdefault(what, []).append((time.perf_counter() - began) * 1000)

    for _ in range(_RUNS):
        with timed("login page, the HTML"):
            fetch(server, "/")
        webmail = window(server, browser)
        with timed("login page, until the form shows"):
            webmail.page.goto(webmail.url(), wait_until="commit")
            webmail.page.wait_for_selector(f"{form}:visible")
        with timed("login page and login, until the inbox shows"):
            webmail.log_in(_USER)
        with timed("inbox again, until it shows"):
            webmail.page.reload(wait_until="commit")
            webmail.wait_for_inbox()
        with timed("a message, until it shows"):
            webmail.open(f"message {_MESSAGES - 1}.").wait_for()
        webmail.page.context.close()
        with timed("/as/<address>, the login alone"):
            fetch(server, f"/as/{_USER}", **MEANT)
        webmail = window(server, browser)
        with timed("/as/<address>, until the inbox shows"):
            webmail.page.goto(webmail.url(f"/as/{_USER}"), wait_until="commit")
            webmail.wait_for_inbox()
        webmail.page.context.close()
    return figures


def memory(server: Server) -> tuple[int, float]:
    """Count PHP's processes and their memory in MiB, what they share counted once (PSS)."""
    processes = server.processes("php-fpm")
    rollups = [Path(f"/proc/{process}/smaps_rollup").read_text() for process in processes]
    kib = sum(
        int(line.split()[1])
        for rollup in rollups
        for line in rollup.splitlines()
        if line.startswith("Pss:")
    )
    return len(processes), kib / 1024


def main(name: str) -> None:
    """Measure and print."""
    settings = {"webmail": name}
    if directory := os.environ.get("DEVMAIL_RAINLOOP_DIR"):
        settings["rainloop_dir"] = directory
    server = Server(None, **settings)
    with server, sync_playwright() as playwright:
        print(f"{name}: medians of {_RUNS} in ms, {_MESSAGES} messages in the inbox")
        print("  PHP before the first window: {} processes, {:.0f} MiB".format(*memory(server)))
        fill_mailbox(server)
        browser = launch(playwright.chromium, server)
        for what, figures in measure(server, browser).items():
            print(f"  {what:<44}{statistics.median(figures):7.0f}")
        print("  PHP after the last window: {} processes, {:.0f} MiB".format(*memory(server)))
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "roundcube")
