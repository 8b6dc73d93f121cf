"""The ledger itself: it sees what is lost, what is there twice, and what came back."""

from __future__ import annotations

import imaplib
from pathlib import Path

import pytest

from tests.helpers.clients import imap
from tests.helpers.ledger import Row
from tests.helpers.load import Load, mixed
from tests.helpers.server import Server


def test_it_sees_what_is_lost_and_what_is_there_twice(own_directory: Path) -> None:
    with Server(own_directory, bounce_after="30s") as server:
        with Load(server, mixed) as load:
            load.wait_for(100)
        row = Row("nothing")
        row.settle(load, server)
        whole = row.account
        assert whole.acknowledged == len(load.accepted) == whole.delivered + whole.bounced
        assert whole.bounced == sum("bad-domain" in one.recipient for one in load.accepted) > 0
        assert whole.duplicated == 0

        with imap(server, "box0@two.example") as client:
            client.select()
            client.copy("2", "INBOX")
            delete(client)
        with imap(server, '"rare 0"@two.example', "rare 0") as client:
            client.select()
            delete(client)
        after = load.account()
        assert {one.recipient for one in after.lost} == {"box0@two.example", '"rare 0"@two.example'}
        assert (len(after.lost), after.duplicated) == (2, 1)
        assert after.delivered == whole.delivered - 2
        with pytest.raises(AssertionError, match="rare 0"):
            row.settle(load, server)


def delete(client: imaplib.IMAP4) -> None:
    """Delete the first message."""
    client.store("1", "+FLAGS", "\\Deleted")
    client.expunge()


def test_it_sees_what_came_back_although_its_mailbox_can_be_reached(own_directory: Path) -> None:
    config = own_directory / "devmail.yaml"
    config.write_text("faults:\n  box3@two.example: bounce\n")
    with Server(own_directory, config=str(config)) as server:
        with Load(server) as load:
            load.wait_for(50)
        row = Row("nothing")
        with pytest.raises(AssertionError, match="returned"):
            row.settle(load, server)
        assert row.account.returned == row.account.bounced > 0
        assert row.account.lost == ()
