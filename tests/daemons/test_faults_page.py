"""The cheat sheet on the page: what is active on this server, and nothing else."""

from __future__ import annotations

import pytest

from devmail_config.fault_ports import BREAKAGES
from devmail_config.faults import CHEAT_SHEET
from tests.daemons.test_page import page
from tests.helpers.server import ROOT, Server

RULES = "from:app@shop.example=rcpt-452-4-2-2 Later, please; down.example=drop"


@pytest.mark.parametrize(
    ("language", "line"),
    [
        ("en", "@reject.fault.test refused at RCPT: 550 5.1.1"),
        ("ru", "@reject.fault.test отказ на RCPT: 550 5.1.1"),
    ],
)
def test_the_page_lists_every_built_in_domain(server: Server, language: str, line: str) -> None:
    text = page(server, f"/{language}")
    assert line in text
    for examples in CHEAT_SHEET.values():
        for example in examples:
            assert f"@{example}.fault.test " in text
    assert "login:" not in text
    assert str(server.offset + 9025) not in text


def test_the_page_lists_rules_and_ports_from_the_live_settings() -> None:
    with Server(
        faults=RULES, fault_suffix="oops.test", fault_ports="yes", port_offset="8000"
    ) as it:
        text = page(it, "/en")
    assert "@bounce.oops.test accepted, comes back at once" in text
    assert "from:app@shop.example rcpt-452-4-2-2 452 4.2.2 Later, please" in text
    assert "to:down.example drop" in text
    assert "9465 9993 9995 9443 the certificate has expired" in text
    assert "fault.test" not in text


def test_the_page_has_no_cheat_sheet_where_nothing_fails() -> None:
    with Server(fault_suffix="none") as it:
        assert "fail on demand" not in page(it, "/en")


def test_the_documentation_names_everything_that_there_is() -> None:
    text = (ROOT / "docs" / "faults.md").read_text()
    for examples in CHEAT_SHEET.values():
        for example in examples:
            assert f"`{example}`" in text, example
    for breakage in BREAKAGES:
        assert f"+{breakage.added}" in text, breakage
