"""GET …/logs: which lines of which files, what follows, and readers that are slow or gone. The test is launcher and guardian."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from common import frames
from tests.unit.api_process import Api, Guardian, api_directory, eventually, state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE = "aa" + "1" * 62
LOGS = "/v1/containers/one/logs"


@pytest.fixture(scope="module")
def running() -> Iterator[Api]:
    with api_directory() as made:
        made.start()
        yield made


@pytest.fixture
def api(running: Api) -> Iterator[Api]:
    """With a container that runs; what the process holds is the same behind each test."""
    running.say({"type": "state", "state": state(ONE, name="one")})
    running.settle()
    before = running.descriptors()
    yield running
    for sock in running.open:
        sock.close()
    running.open.clear()
    eventually(lambda: running.descriptors() == before)
    running.say({"type": "gone", "id": ONE})
    running.settle()
    assert "Traceback" not in running.told()


def line(number: int, stream: str = "stdout", **changes: Any) -> bytes:
    """One that was written in the second `number` of an hour."""
    time = f"2026-01-31T12:{number // 60:02}:{number % 60:02}.000000000Z"
    entry = {"log": f"line {number}\n", "stream": stream, "time": time, **changes}
    return json.dumps({key: value for key, value in entry.items() if value is not None}).encode() + b"\n"


class Log:
    """The files of a log, and the guardian which gives them."""

    def __init__(
        self, api: Api, directory: Path, *files: bytes, query: str = "", follow: bool = False
    ) -> None:
        self.api = api
        self.directory = directory
        self.client = api.client()
        self.client.send("GET", LOGS + query)
        self.guardian: Guardian = api.hear_session()
        ask = {"type": "logs", "follow": follow}
        assert self.guardian.message == {"type": "ask", "seq": self.guardian.seq, "id": ONE, "ask": ask}
        api.say({"type": "done", "seq": self.guardian.seq, "value": {}})
        self.guardian.connection.close()
        self.files: list[Path] = []
        self.give("log", *files)
        if not follow:
            self.guardian.session.close()

    def give(self, kind: str, *files: bytes, **more: int) -> None:
        """Further files, the last of which is written from now on."""
        fds = []
        for data in files:
            path = self.directory / str(len(self.files))
            path.write_bytes(data)
            self.files.append(path)
            fds.append(os.open(path, os.O_RDONLY))
        socket.send_fds(self.guardian.session, [frames.dumps({"type": kind, **more})], fds)
        for fd in fds:
            os.close(fd)

    def write(self, data: bytes) -> None:
        with self.files[-1].open("ab") as file:
            file.write(data)

    def next(self) -> None:
        """The reader has read all there is."""
        assert self.guardian.hears() == {"type": "next"}

    def more(self) -> None:
        self.guardian.says({"type": "more"})

    def begun(self) -> None:
        """The head of the answer."""
        answer = self.client.answer()
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.headers["transfer-encoding"] == "chunked"

    def chunk(self) -> bytes:
        """The next chunk of the answer; nothing at its end."""
        size = b""
        while not size.endswith(b"\r\n"):
            size += self.client.sock.recv(1)
        data = b""
        while len(data) < int(size, 16) + 2:
            more = self.client.sock.recv(int(size, 16) + 2 - len(data))
            assert more
            data += more
        return data[:-2]

    def read(self) -> bytes:
        """The whole answer, to its end."""
        self.begun()
        data = b""
        while more := self.chunk():
            data += more
        return data


def numbers(data: bytes) -> list[int]:
    return [int(json.loads(text)["log"].split()[1]) for text in data.splitlines()]


def test_the_lines_as_they_stand_the_oldest_first(api: Api, tmp_path: Path) -> None:
    odd = b'{"time":"2026-01-31T12:00:01.000000000Z", "stream" : "stderr","logBase64":"/wo="}\n'
    old, new = line(0), odd + line(2, log="ä\n")
    log = Log(api, tmp_path, old, new)
    assert log.read() == old + new
    assert log.client.ask("GET", "/_ping").status == 200  # on the same connection


def test_no_lines_and_no_files(api: Api, tmp_path: Path) -> None:
    for files in ((), (b"",), (b"", b"")):
        assert Log(api, tmp_path, *files).read() == b""
        assert Log(api, tmp_path, *files, query="?tail=5").read() == b""
        assert Log(api, tmp_path, *files, query="?tail=0").read() == b""


TORN = [
    b'{"log": "a',
    b"\0\0\0\0",
    b"[]",
    b"{}",
    b"",
    line(9).rstrip(),
    b'{"log": "x", "stream": "stdin", "time": "2026-01-31T12:00:00Z"}',
    b'{"log": "x", "stream": ["stdout"], "time": "2026-01-31T12:00:00Z"}',
    b'{"log": "x", "stream": "stdout", "time": 5}',
]


@pytest.mark.parametrize("query", ["", "?tail=2", "?tail=9"])
@pytest.mark.parametrize("torn", TORN, ids=[str(i) for i in range(len(TORN))])
def test_a_torn_line_is_left_out(api: Api, tmp_path: Path, torn: bytes, query: str) -> None:
    assert numbers(Log(api, tmp_path, line(1) + line(2) + torn, query=query).read()) == [1, 2]
    if torn != line(9).rstrip():
        data = line(1) + torn + b"\n" + line(2)
        assert numbers(Log(api, tmp_path, data, query=query).read()) == [1, 2]


@pytest.mark.parametrize("query", ["", "?tail=2"])
def test_a_line_that_is_too_long_is_left_out(api: Api, tmp_path: Path, query: str) -> None:
    long = line(7, log="x" * 700_000)
    assert numbers(Log(api, tmp_path, line(1) + long + line(2), query=query).read()) == [1, 2]
    assert numbers(Log(api, tmp_path, line(1) + line(2) + long, query=query).read()) == [1, 2]


HOUR = [line(n, "stderr" if n % 3 == 0 else "stdout") for n in range(3600)]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", range(3600)),
        ("?tail=0", []),
        ("?tail=1", [3599]),
        ("?tail=2000", range(1600, 3600)),
        ("?tail=9999", range(3600)),
        ("?stdout=false", range(0, 3600, 3)),
        ("?stderr=false&tail=3", [3596, 3598, 3599]),
        ("?stdout=false&tail=2", [3594, 3597]),
        ("?stdout=false&stderr=false", []),
        ("?since=2026-01-31T12:59:58Z", [3598, 3599]),
        ("?since=2026-01-31T13:59:58%2B01:00", [3598, 3599]),
        ("?until=2026-01-31t12:00:01.0z", [0, 1]),
        ("?until=2026-01-31T12:00:00.999999999Z", [0]),
        ("?since=2026-01-31T12:30:00Z&until=2026-01-31T12:30:02Z", [1800, 1801, 1802]),
        ("?until=2026-01-31T12:30:02Z&tail=2", [1801, 1802]),
        ("?since=2027-01-01T00:00:00Z", []),
    ],
)
def test_which_lines_are_wanted(api: Api, tmp_path: Path, query: str, wanted: list[int]) -> None:
    files = [b"".join(HOUR[:1000]), b"".join(HOUR[1000:1001]), b"", b"".join(HOUR[1001:])]
    assert numbers(Log(api, tmp_path, *files, query=query).read()) == list(wanted)


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("tail=-1", "tail"),
        ("tail=all", "tail"),
        ("tail=1.5", "tail"),
        ("tail=1&tail=2", "tail"),
        ("since=yesterday", "since"),
        ("since=2026-02-30T00:00:00Z", "since"),
        ("since=2026-01-31T12:00:00", "since"),
        ("until=2026-01-31T12:00:00+01:00", "until"),
        ("follow=1", "follow"),
        ("stdout=yes", "stdout"),
        ("details=true", "details"),
    ],
)
def test_a_query_that_is_none(api: Api, query: str, path: str) -> None:
    answer = api.ask("GET", f"{LOGS}?{query}")
    assert (answer.status, answer.json()["fields"][0]["path"]) == (400, path)


@pytest.mark.parametrize(
    ("code", "rule", "status"),
    [("conflict", "no-log", 409), ("conflict", "unguarded", 409), ("not-found", None, 404)],
)
def test_what_the_guardian_refuses(api: Api, code: str, rule: str | None, status: int) -> None:
    client = api.client()
    client.send("GET", LOGS)
    guardian = api.hear_session()
    guardian.close()
    error = {"code": code, "message": "no", "rule": rule}
    api.say({"type": "refused", "seq": guardian.seq, "error": error})
    answer = client.answer()
    assert (answer.status, answer.json()["code"], answer.json().get("rule")) == (status, code, rule)


def test_a_guardian_that_gives_nothing(api: Api) -> None:
    client = api.client()
    client.send("GET", LOGS)
    guardian = api.hear_session()
    api.say({"type": "done", "seq": guardian.seq, "value": {}})
    guardian.close()
    assert client.answer().status == 503


# --- follow


def test_what_comes_is_followed_until_the_end(api: Api, tmp_path: Path) -> None:
    log = Log(api, tmp_path, line(1), line(2), query="?follow=true", follow=True)
    log.begun()
    assert log.chunk() == line(1)
    assert log.chunk() == line(2)
    log.next()
    log.write(line(3) + line(4)[:10])
    log.more()
    assert log.chunk() == line(3)
    log.next()
    log.write(line(4)[10:] + line(5, "stderr"))
    log.more()
    assert log.chunk() == line(4) + line(5, "stderr")
    log.next()
    log.write(line(6))  # said by the end alone
    log.guardian.session.close()
    assert log.chunk() == line(6)
    assert log.chunk() == b""


def test_a_file_is_followed_by_the_next(api: Api, tmp_path: Path) -> None:
    log = Log(api, tmp_path, line(1), query="?follow=true&tail=0", follow=True)
    log.begun()
    log.next()
    log.write(line(2))
    log.give("rotated", line(3))
    assert log.chunk() == line(2)
    assert log.chunk() == line(3)
    log.next()
    log.give("rotated", b"")
    log.next()
    log.write(line(4))
    log.more()
    assert log.chunk() == line(4)
    log.next()
    log.guardian.session.close()
    assert log.chunk() == b""


@pytest.mark.parametrize("had", [line(1) + line(2), b""])
@pytest.mark.parametrize("query", ["", "&stderr=false"])
def test_files_that_a_slow_reader_missed_are_told(api: Api, tmp_path: Path, had: bytes, query: str) -> None:
    log = Log(api, tmp_path, had, query=f"?follow=true{query}", follow=True)
    log.begun()
    if had:
        assert log.chunk() == had
    log.next()
    log.give("rotated", line(3), missed=2)
    if not query:
        told = json.loads(log.chunk())
        assert (told["stream"], told["missed"]) == ("stderr", 2)
        assert told["log"].startswith("[dkr: 2 files ")
        assert told["time"] == json.loads(line(2))["time"] if had else told["time"] > "2026-01-31"
    assert log.chunk() == line(3)
    log.next()
    log.guardian.session.close()
    assert log.chunk() == b""


def test_what_is_not_wanted_is_not_followed(api: Api, tmp_path: Path) -> None:
    query = "?follow=true&stderr=false&since=2026-01-31T12:00:02Z"
    log = Log(api, tmp_path, line(1), query=query, follow=True)
    log.begun()
    for n in (2, 3, 4):
        log.next()
        log.write(line(n, "stderr" if n == 3 else "stdout"))
        log.more()
        if n != 3:
            assert log.chunk() == line(n)
    log.next()
    log.guardian.session.close()
    assert log.chunk() == b""


def test_it_is_followed_until_a_time(api: Api, tmp_path: Path) -> None:
    now = (datetime.now(UTC) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    log = Log(api, tmp_path, line(1), query=f"?follow=true&until={now}", follow=True)
    log.begun()
    assert log.chunk() == line(1)
    log.next()
    assert log.chunk() == b""
    assert log.guardian.hears() is None


def test_a_reader_that_goes_leaves_nothing(api: Api, tmp_path: Path) -> None:
    log = Log(api, tmp_path, line(1), query="?follow=true", follow=True)
    log.begun()
    assert log.chunk() == line(1)
    log.next()
    log.client.close()
    assert log.guardian.hears() is None


def test_a_reader_that_goes_before_it_has_begun(api: Api) -> None:
    client = api.client()
    client.send("GET", LOGS + "?follow=true")
    guardian = api.hear_session()
    client.close()
    guardian.connection.close()
    api.say({"type": "done", "seq": guardian.seq, "value": {}})
    assert guardian.hears() is None


def test_a_reader_that_is_slow_holds_nobody(api: Api, tmp_path: Path) -> None:
    """The guardian is not asked for more, others are served, and nothing is heaped up."""
    much = b"".join(line(n, log="x" * 1000) for n in range(3000))
    log = Log(api, tmp_path, much, query="?follow=true", follow=True)
    log.begun()
    log.guardian.session.setblocking(False)
    with pytest.raises(BlockingIOError):
        log.guardian.session.recv(1)
    assert api.ask("GET", "/_ping").status == 200
    data = b""
    while len(data) < len(much):
        data += log.chunk()
    assert data == much
    log.guardian.session.settimeout(20)
    log.next()
    log.guardian.session.close()
    assert log.chunk() == b""


def test_a_slow_reader_that_goes_leaves_nothing(api: Api, tmp_path: Path) -> None:
    log = Log(api, tmp_path, b"".join(HOUR) * 3)
    log.begun()
    log.client.close()


def test_what_a_guardian_says_wrong_ends_the_answer_before_its_end(api: Api, tmp_path: Path) -> None:
    log = Log(api, tmp_path, line(1), query="?follow=true", follow=True)
    log.begun()
    assert log.chunk() == line(1)
    log.next()
    log.guardian.session.send(b"{")
    assert log.client.sock.recv(100) == b""  # the connection's end, and not the answer's
