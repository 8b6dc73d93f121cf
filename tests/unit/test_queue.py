"""The table of what waits."""

from __future__ import annotations

import json

from devmail_config.queue import Waiting, table

LINE = {
    "queue_name": "deferred",
    "queue_id": "4bZ1",
    "arrival_time": 1700000000,
    "message_size": 512,
    "forced_expire": False,
    "sender": "",
    "recipients": [
        {"address": "joe@bad-domain.com", "delay_reason": "connection timed out"},
        {"address": "jim@company2.com"},
    ],
}


def test_each_recipient_has_a_line_and_a_reason() -> None:
    lines = table([Waiting.parse(json.dumps(LINE))]).splitlines()
    assert lines[0].split("  ")[0] == "queue id"
    assert [line.split()[0] for line in lines[1:]] == ["4bZ1", "4bZ1"]
    assert lines[1].endswith("512   <>      joe@bad-domain.com  connection timed out")
    # Before the first try there is no reason, but a queue that it is in.
    assert lines[2].endswith("jim@company2.com    deferred")


def test_an_empty_queue_is_said_in_words() -> None:
    assert table([]) == "the queue is empty"
