"""What the bench makes of its figures; that its measures work is shown by its smoke run."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import report, rows
from bench.chart import draw
from bench.clients import (
    BrokenMeasureError,
    Clock,
    Endpoint,
    lines,
    pop3_logins,
    run,
    smtp_reply,
    tagged,
)
from bench.measures import Figures

RESULTS = {
    "devmail": Figures({"start.first": [0.5, 0.4, 0.9], "imap.new.plain.4.rate": [800.0]}),
    "seed": Figures({"start.first": [2.0, 1.0, 3.0], "imap.new.plain.4.rate": [20.0]}),
}
RUN = report.Run("2026-01-02", "abc1234", ["2 processors"], 3, 12.5, 900.0, ["X is left out"])


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert rows.percentile(values, 50) == 50
    assert rows.percentile(values, 99) == 99
    assert rows.percentile([7.0], 99) == 7


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (1.234, "s", "1.23 s"),
        (123.4, "s", "123 s"),
        (765.4, "/s", "765/s"),
        (9.87, "/s", "9.9/s"),
        (27_000_000, "bytes", "25.7 MiB"),
    ],
)
def test_figures_are_written_in_a_unit_that_fits(value: float, unit: str, text: str) -> None:
    assert rows.in_unit(value, unit) == text


def test_a_row_shows_median_spread_and_ratio() -> None:
    row = rows.row("start.first")
    assert row.shown(RESULTS["devmail"]) == "500 ms (400-900)"
    assert row.ratio(RESULTS, "devmail", "seed") == 0.25
    assert row.shown(Figures(refusals={"start.first": "refused"})) == "refused"


def test_targets_are_met_in_their_own_direction() -> None:
    by_title = {target.title: target.is_met(RESULTS) for target in rows.TARGETS}
    assert by_title["first start"] is True
    assert by_title["IMAP logins"] is True
    assert by_title["idle memory"] is None
    slower = {**RESULTS, "devmail": Figures({"start.first": [1.0]})}
    assert rows.TARGETS[0].is_met(slower) is False


def test_the_page_says_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(report, "CHART", tmp_path / "chart.svg")
    report.save(tmp_path / "kept", RUN, RESULTS)
    report.write(*report.load(tmp_path / "kept"))
    page = (tmp_path / "page.md").read_text()
    assert "| first start | at most 0.4 | 0.25 | met |" in page
    assert "| idle memory | at most 1 | not measured |  |" in page
    assert "3 rounds in 12 minutes" in page
    assert "- X is left out" in page
    assert "other programs were using the machine" in page
    # A table's rows all have as many cells as its head.
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_the_chart_is_readable_in_light_and_dark() -> None:
    picture = draw([("first & best", 40.0), ("worse", 0.5), ("the same", 1.0)])
    root = ET.fromstring(picture)  # noqa: S314 - our own
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"first & best", "worse", "the same", "40", "0.5"} <= set(texts)
    assert "prefers-color-scheme: dark" in picture


def test_replies_end_where_their_protocol_says() -> None:
    assert not smtp_reply(bytearray(b"250-one\r\n"))
    assert smtp_reply(bytearray(b"250-one\r\n250 two\r\n"))
    assert not lines(2)(bytearray(b"250 one\r\n"))
    assert lines(2)(bytearray(b"250 one\r\n354 two\r\n"))
    assert not tagged(bytearray(b"* 1 EXISTS\r\n"))
    assert tagged(bytearray(b"* 1 EXISTS\r\na OK done\r\n"))
    assert tagged(bytearray(b"+ idling\r\n"))


@pytest.mark.parametrize(("reply", "count"), [(b"+OK in\r\n", 5), (b"-ERR no\r\n", 0)])
def test_clients_count_what_a_server_grants(reply: bytes, count: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            for _ in range(count or 1):
                connection, _ = listener.accept()
                with connection, connection.makefile("rwb", buffering=0) as stream:
                    stream.write(b"+OK ready\r\n")
                    for answer in (b"+OK\r\n", reply, b"+OK bye\r\n"):
                        if not stream.readline():
                            break
                        stream.write(answer)

        server = threading.Thread(target=serve)
        server.start()
        clock = Clock(count=count or 1)
        client = pop3_logins(Endpoint(listener.getsockname()[1]), iter(["u@d"] * 5), clock)
        try:
            if count:
                assert run([client], clock).count == count
            else:
                with pytest.raises(BrokenMeasureError, match="-ERR no"):
                    run([client], clock)
        finally:
            server.join()
