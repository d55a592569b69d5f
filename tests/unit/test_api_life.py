"""The life of the api process: hello, ready, the end of the channel, a restart; and its index when it is damaged."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from common import frames
from dkrd.api import log as api_log
from tests.unit.api_process import Api, api_directory, state

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE, TWO, THREE, FOUR = ("1" * 64, "2" * 64, "3" * 64, "4" * 64)


@pytest.fixture
def api() -> Iterator[Api]:
    with api_directory() as made:
        yield made


def hello(api: Api) -> dict[str, object]:
    return {"type": "hello", "version": 2, **api.facts(), "containers": []}


def test_the_end_of_the_channel_is_the_end(api: Api) -> None:
    api.start()
    held = api.client()
    assert held.ask("GET", "/_ping").status == 200
    api.channel.close()
    assert api.wait() == 0
    assert held.sock.recv(1) == b""
    held.close()


def test_what_the_launcher_left_unanswered_is_told_to_the_client(api: Api) -> None:
    api.start()
    client = api.client()
    client.run({"args": ["a"]})
    assert client.answer().status == 101
    start = api.hear_start()
    start.connection.close()
    api.channel.close()
    assert api.wait() == 0
    record, fds = client.record()
    assert (record["type"], record["error"]["code"], fds) == ("error", "unavailable", [])
    assert client.sock.recv(1) == b""
    client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_an_orderly_end(api: Api, number: signal.Signals) -> None:
    api.start()
    os.kill(api.pid, number)
    assert api.wait() == 0


@pytest.mark.parametrize(
    "message",
    [
        b"{",
        b"[]",
        b'{"type": "accepted", "seq": 1, "id": "x"}',
        b'{"type": "done", "seq": null}',
        b'{"type": "surprise"}',
    ],
)
def test_a_broken_launcher_ends_the_api(api: Api, message: bytes) -> None:
    api.start()
    api.channel.send(message)
    assert api.wait() == 1
    assert "launcher" in api.told()


@pytest.mark.parametrize(
    "change",
    [{"type": "state"}, {"version": 3}, {"settings": None}, {"settings": {}}, {"containers": None}],
)
def test_without_a_proper_hello_it_does_not_start(api: Api, change: dict[str, object]) -> None:
    api.spawn()
    api.say({**hello(api), **change})
    assert api.wait() == 1
    assert "Traceback" not in api.told()


def test_a_state_that_cannot_be_read_does_not_keep_the_others_away(api: Api) -> None:
    api.start([state(ONE, status="surprised"), {"id": 1}, state(TWO)])
    assert [c["id"] for c in api.ask("GET", "/v1/containers").json()] == [TWO]
    api.say({"type": "state", "state": {"id": "x"}})
    api.settle()


def test_started_by_hand_it_says_so(api: Api) -> None:
    # the channel in the place of the listener
    api.listener.close()
    api.listener, other = socket.socketpair()
    api.open += [api.listener, other]
    api.spawn()
    assert api.wait() == 1
    assert "inherited" in api.told()


def test_a_new_api_knows_what_the_old_one_knew(api: Api) -> None:
    api.start()
    clients = []
    for container, rm in ((ONE, False), (TWO, True), (THREE, False), (FOUR, False)):
        client = api.client()
        client.run(
            {"args": ["/bin/sleep", container[0]], "name": "n" + container[0], "rm": rm, "labels": {"k": "v"}}
        )
        assert client.answer().status == 101
        start = api.hear_start()
        start.connection.close()
        api.say({"type": "accepted", "seq": start.seq, "id": container})
        if container != FOUR:
            api.say({"type": "state", "state": state(container, name="n" + container[0], rm=rm)})
        clients.append(client)
    api.settle()
    assert len(api.ask("GET", "/v1/containers").json()) == 4

    api.kill()
    api.start([state(THREE, name="n3")])  # the others ended while nobody looked
    shown = {c["id"]: c for c in api.ask("GET", "/v1/containers?all=true").json()}
    assert {container: c["status"] for container, c in shown.items()} == {ONE: "stopped", THREE: "running"}
    assert "exit" not in shown[ONE]
    assert (shown[THREE]["labels"], shown[THREE]["args"]) == ({"k": "v"}, ["/bin/sleep", "3"])
    # names are known again: n1 and n3 are taken, n2 and n4 are free
    for name, status in (("n1", 409), ("n3", 409), ("n2", 101)):
        client = api.client()
        client.run({"args": ["a"], "name": name})
        assert client.answer().status == status
        clients.append(client)
    api.hear_start().connection.close()

    # the next hello does not know n1 either: nothing of it is left
    api.kill()
    api.start([state(THREE, name="n3")])
    assert [c["id"] for c in api.ask("GET", "/v1/containers?all=true").json()] == [THREE]
    for client in clients:
        client.close()


def test_a_damaged_index_is_moved_aside_and_made_anew(api: Api) -> None:
    api.start([state(ONE)])
    api.kill()
    path = f"{api.directory}/api/dkr.db"
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)
    with open(path, "r+b") as file:
        file.write(b"this is no database " * 100)
    api.start([state(TWO)])
    assert [c["id"] for c in api.ask("GET", "/v1/containers").json()] == [TWO]
    aside = [name for name in os.listdir(f"{api.directory}/api") if name.startswith("dkr.db.damaged-")]
    assert len(aside) == 1
    assert aside[0] in api.told()


def test_the_process_is_what_it_says(api: Api) -> None:
    api.start()
    with open(f"/proc/{api.pid}/comm") as comm:
        assert comm.read() == "dkr-api\n"
    with open(f"/proc/{api.pid}/smaps_rollup") as rollup:
        pss = next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    assert pss < 60_000, f"{pss} kB"
    assert (os.stat(f"{api.directory}/api/dkr.db").st_mode & 0o777) == 0o600


def test_json_lines(api: Api) -> None:
    settings = {**api.settings.to_wire(), "logFormat": "json", "logLevel": "debug"}
    api.spawn()
    api.say({**hello(api), "settings": settings})
    assert api.hear()[0] == {"type": "ready"}
    api.ask("GET", "/_ping")
    lines = [frames.loads_object(line) for line in api.told().splitlines()]
    assert any("GET /_ping 200" in str(line["message"]) for line in lines)
    assert all(line["level"] in ("debug", "info") for line in lines)


@pytest.mark.parametrize("form", [api_log.Text(), api_log.Json()])
def test_a_line_of_the_log_is_a_line(form: logging.Formatter) -> None:
    forged = "/x\n2026-01-31T12:00:00.000Z error forged \x1b[2J\u2028\u0085"
    line = form.format(logging.LogRecord("dkr.api", logging.INFO, "", 0, "GET %s", (forged,), None))
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert "forged" in line
