"""Stop, kill, start again: no mail that was answered with 250 is lost, nor a line of the log."""

from __future__ import annotations

import http.client
import re
import threading
import time

import pytest

from tests.helpers.clients import send, smtp, wait_for_message
from tests.helpers.container import IMAGE, LOOPBACK, Container, docker, unique
from tests.helpers.load import Load
from tests.helpers.wait import wait_for

# A line begins with the daemon's name, after a time if it writes one.
NAMED = re.compile(
    r"(\w{3} [ \d]\d [\d:]{8} \S+ postfix/[\w/-]+\[\d+\]: |\w{3} [ \d]\d [\d:]{8} dovecot: |"
    r"nginx: |page: |devmail: )"
)


def test_a_stop_in_the_middle_of_a_load_is_quick_and_loses_nothing() -> None:
    with Container() as container:
        with Load(container) as load:
            load.wait_for(100)
            began = time.monotonic()
            docker("stop", container.name)
            assert time.monotonic() - began < 3
        assert container.state["ExitCode"] == 0
        docker("start", container.name)
        container.wait()
        wait_for(load.is_there, f"all of {len(load.accepted)} messages", timeout=60, interval=0.3)


@pytest.mark.parametrize("moment", [0.05, 0.1, 0.2, 0.4])
def test_a_stop_in_the_middle_of_a_start_is_heard(moment: float) -> None:
    name = unique("early")
    try:
        docker("run", "--detach", "--name", name, IMAGE)
        # At any moment of a start: no condition to wait for.
        time.sleep(moment)
        began = time.monotonic()
        docker("stop", name)
        assert time.monotonic() - began < 6
        assert docker("inspect", "--format={{.State.ExitCode}}", name) in {"0", "143"}
    finally:
        docker("rm", "--force", "--volumes", name)


def test_a_kill_in_the_middle_of_a_load_loses_nothing() -> None:
    with Container() as container:
        ca = container.download_ca()
        with Load(container) as load:
            load.wait_for(150)
            docker("kill", "--signal=KILL", container.name)
        docker("start", container.name)
        container.wait()
        assert container.download_ca() == ca
        wait_for(load.is_there, f"all of {len(load.accepted)} messages", timeout=60, interval=0.3)


def test_a_restart_keeps_what_is_there() -> None:
    with Container() as container:
        send(container, "a@one.example", "b@two.example", "kept")
        wait_for_message(container, "b@two.example", "kept")
        ca = container.download_ca()
        docker("restart", container.name)
        container.wait()
        assert container.download_ca() == ca
        wait_for_message(container, "b@two.example", "kept")


def test_a_daemon_that_no_mail_flows_without_ends_the_container_if_it_keeps_dying() -> None:
    with Container() as container:

        def has_ended() -> bool:
            if container.state["Running"]:
                script = "kill -KILL $(cat /var/lib/devmail/run/dovecot/base/master.pid)"
                container.attempt("sh", "-c", script)
            return not container.state["Running"]

        wait_for(has_ended, "the container to give up", timeout=60, interval=0.3)
        assert container.state["ExitCode"] == 1
        assert "devmail: dovecot keeps dying (last with signal 9)" in container.log()


def test_no_line_of_the_log_is_lost_or_torn_under_load() -> None:
    clients, messages_each, pages_each = 4, 60, 120
    # Together, longer than what a pipe takes in one piece (pipe(7): PIPE_BUF is 4096).
    long = "x" * 3000
    with Container() as container:

        def send_mail(worker: int) -> None:
            with smtp(container, f"s{worker}@one.example") as client:
                for number in range(messages_each):
                    text = f"Subject: m{worker}-{number}\r\n\r\nx\r\n"
                    client.sendmail(f"s{worker}@one.example", [f"r{worker}@two.example"], text)

        def get_pages(worker: int) -> None:
            for number in range(pages_each):
                connection = http.client.HTTPConnection(LOOPBACK, container.port("http"))
                path = f"/?w{worker}n{number}-{long}"
                connection.request("GET", path, headers={"User-Agent": f"agent-{long}"})
                connection.getresponse().read()
                connection.close()

        threads = [
            threading.Thread(target=work, args=(worker,))
            for work in (send_mail, get_pages)
            for worker in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        total = clients * messages_each
        wait_for(lambda: container.log().count(" status=sent ") == total, "all mail in the log", 60)
        docker("stop", container.name)
        lines = container.log().splitlines()

    assert [line for line in lines if not NAMED.match(line)] == []
    for mark in (": client=", ", status=sent ", ": removed", "saved mail to INBOX"):
        parts = sum(mark in line for line in lines)
        assert parts >= total, f"{mark!r} is in {parts} lines"
    pages = re.compile(r'nginx: \S+ "GET /\?(w\dn\d+)-x+\.\.\." 200 \d+ "agent-x+\.\.\."')
    whole = [match[1] for line in lines if (match := pages.fullmatch(line))]
    assert len(whole) == len(set(whole)) == clients * pages_each
