"""What is about RainLoop alone. Collected only if there is an archive of it."""

from __future__ import annotations

import contextlib
import os
import signal
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Error, expect, sync_playwright

from devmail_config import rainloop
from devmail_config.errors import DevmailError
from tests.helpers.probes import HIDDEN_PROBES, VICTIM, listen, send_probes
from tests.helpers.server import Server
from tests.helpers.wait import wait_for
from tests.helpers.webmail import MEANT, RainLoop, fetch, install_rainloop, launch

ARCHIVE = Path(os.environ["DEVMAIL_TEST_RAINLOOP"])
HTML_UTILS = rainloop.PATCHES[1].target


def test_the_probes_run_without_the_patch_and_the_policy_stops_them(own_directory: Path) -> None:
    app = own_directory / "app"
    install_rainloop(app, ARCHIVE)
    with Server(None, webmail="rainloop", rainloop_dir=str(app)) as server:
        send_probes(server, HIDDEN_PROBES)
        with zipfile.ZipFile(ARCHIVE) as release:
            (app / HTML_UTILS).write_bytes(release.read(HTML_UTILS))
        (php,) = (process for process in server.processes("php-fpm") if is_master(process))
        # Only a new start makes PHP look at its files again for certain.
        os.kill(php, signal.SIGUSR2)
        fired = {policy: fired_under(server, policy) for policy in ("off", "on")}
    assert "comment in noembed" in fired["off"]
    assert fired["on"] == []


def is_master(process: int) -> bool:
    return b"master" in Path(f"/proc/{process}/cmdline").read_bytes()


def fired_under(server: Server, policy: str) -> list[str]:
    fired = []
    with sync_playwright() as playwright:
        browser = launch(playwright.chromium, server)
        context = browser.new_context(bypass_csp=policy == "off")
        webmail = RainLoop(server, context.new_page())
        ran = listen(webmail.page)
        webmail.log_in(VICTIM)
        for name in HIDDEN_PROBES:
            webmail.open(f"probe {name}.")
            webmail.page.evaluate("() => new Promise(done => setTimeout(done, 100))")
            if ran:
                fired.append(name)
                ran.clear()
        browser.close()
    return fired


def test_the_admin_panel_is_closed_unless_it_has_a_password(own_directory: Path) -> None:
    app = own_directory / "app"
    install_rainloop(app, ARCHIVE)
    settings = {"webmail": "rainloop", "rainloop_dir": str(app)}
    with Server(None, **settings) as server:
        for path in ("/?admin", "/?/admin/", "/index.php?admin"):
            assert fetch(server, path)[0] == 403
    password = 'open, "sesame"'  # noqa: S105 - of this test alone
    with Server(None, **settings, rainloop_admin_password=password) as server:
        assert fetch(server, "/?admin")[0] == 200
        assert "sesame" not in server.log()
        ini = server.state / "webmail/_data_/_default_/configs/application.ini"
        assert "sesame" not in ini.read_text()
        with sync_playwright() as playwright:
            page = launch(playwright.chromium, server).new_page()
            for typed, works in (("12345", False), ("", False), (password, True)):
                page.goto(RainLoop(server, page).url("/?admin"))
                page.fill("input[name=AdminLogin], #AdminLogin, .inputLogin", "admin")
                page.fill("input[type=password]", typed)
                page.keyboard.press("Enter")
                if works:
                    page.locator(".b-admin-left, .b-admin-menu, #rl-left").first.wait_for()
                else:
                    page.wait_for_load_state("networkidle")
                    assert page.locator("input[type=password]").is_visible()


def test_the_editors_buttons_work_under_the_policy(own_directory: Path) -> None:
    app = own_directory / "app"
    install_rainloop(app, ARCHIVE)
    with (
        Server(None, webmail="rainloop", rainloop_dir=str(app)) as server,
        sync_playwright() as playwright,
    ):
        webmail = RainLoop(server, launch(playwright.chromium, server).new_page())
        page = webmail.page
        webmail.log_in("writer@edit.example")
        page.click(".buttonCompose")
        text = page.locator("div.cke_wysiwyg_div")
        text.or_(page.locator("textarea.cke_plain")).wait_for()
        if not text.is_visible():
            # The first button changes between plain and formatted text.
            page.locator(".cke_button").first.click()
        text.click(position={"x": 20, "y": 20})
        page.click(".cke_button__bold")
        page.keyboard.type("fat")
        page.click(".cke_button__bold")
        font = page.frame_locator("iframe.cke_panel_frame").locator("a", has_text="Georgia")

        def choose_font() -> bool:
            # The menu closes again when the editor is still busy with what was typed.
            if not font.is_visible():
                page.locator(".cke_combo_button").first.click()
            with contextlib.suppress(Error):
                font.click(timeout=1000)
                return True
            return False

        wait_for(choose_font, "the menu of fonts")
        page.keyboard.type("serif")
        expect(text.locator("strong")).to_have_text("fat")
        expect(text.locator("span[style*=Georgia]")).to_contain_text("serif")
        # Nothing but a function of the editor can be asked for in this way.
        page.evaluate(
            """() => {
                const link = document.createElement("a");
                link.setAttribute("onclick", "CKEDITOR.tools.callFunction(1); window.ran = true");
                document.querySelector(".cke").append(link);
                link.click();
            }"""
        )
        assert page.evaluate("window.ran") is None


def test_a_volume_of_the_seed_image_keeps_working_with_a_key_of_its_own(
    own_directory: Path,
) -> None:
    app, data = own_directory / "app", own_directory / "data"
    install_rainloop(app, ARCHIVE)
    own = data / "_data_/_default_"
    (own / "domains").mkdir(parents=True)
    (own / "storage/cfg/us/user@seed.example").mkdir(parents=True)
    (own / "storage/cfg/us/user@seed.example/settings").write_text("{}")
    (own / "domains/gmail.com.ini").write_text('imap_host = "imap.gmail.com"\nimap_port = 993\n')
    (data / "SALT.php").write_text("<?php //" + "0569f4085c33".ljust(96, "a"))
    (data / "INSTALLED").write_text("1.17.0")
    settings = {"webmail": "rainloop", "rainloop_dir": str(app), "webmail_data_dir": str(data)}
    with Server(None, **settings) as server:
        salt = (data / "SALT.php").read_text()
        assert salt.startswith("<?php //")
        assert "0569f4085c33" not in salt
        # Whoever they belonged to on the machine that the volume came from.
        kept = own / "storage/cfg/us/user@seed.example/settings"
        assert (kept.read_text(), kept.owner()) == ("{}", "www-data")
        assert fetch(server, "/as/x@gmail.com", **MEANT)[0] == 303
        assert "user=<x@gmail.com>" in server.log()


def test_the_release_is_patched_and_belongs_to_root(own_directory: Path) -> None:
    app = own_directory / "app"
    install_rainloop(app, ARCHIVE)
    assert rainloop.is_installed(app)
    for path in (app, *app.rglob("*")):
        assert path.stat().st_uid == 0
        assert not path.stat().st_mode & 0o022, path
    with (app / HTML_UTILS).open("ab") as file:
        file.write(b" ")
    assert not rainloop.is_installed(app)


@pytest.mark.parametrize("patch", rainloop.PATCHES, ids=lambda patch: patch.name)
def test_the_patches_are_refused_where_they_do_not_belong(
    own_directory: Path, patch: rainloop.Patch
) -> None:
    app = own_directory / "app"
    with zipfile.ZipFile(ARCHIVE) as release:
        release.extract(patch.target, app)
    target = app / patch.target
    original = target.read_bytes()
    rainloop.apply(patch, app)
    patched = target.read_bytes()
    # Twice, shifted by three lines, with other line ends.
    for content in (patched, b"\r\n" * 3 + original, original.replace(b"\r\n", b"\n")):
        target.write_bytes(content)
        with pytest.raises(DevmailError, match="is not the file of RainLoop"):
            rainloop.apply(patch, app)
        assert target.read_bytes() == content
