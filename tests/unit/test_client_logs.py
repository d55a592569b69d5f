"""`dkrctl logs`: the client before a listener that answers what a test wrote down."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from common.errors import BadRequest, ProtocolError
from common.version import API_VERSION, VERSION
from dkrctl.json_lines import MAX_LINE
from dkrctl.log_lines import Line, splitter
from dkrctl.log_position import Position
from dkrctl.moments import moment
from tests.unit.canned import canned, fault, http
from tests.unit.client_harness import PYTHON, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

NOW = 1_769_860_800.25  # 2026-01-31T12:00:00.25Z
TIME = "2026-01-31T12:00:00.000000001Z"


def line(text: str | bytes, stream: str = "stdout", when: str = TIME) -> bytes:
    """A line of the log as dkrd tells it."""
    said = {"logBase64": base64.b64encode(text).decode()} if isinstance(text, bytes) else {"log": text}
    return json.dumps({**said, "stream": stream, "time": when}).encode() + b"\n"


def chunked(pieces: Iterable[bytes], *, ends: bool = True) -> bytes:
    """An answer in chunks."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head + body + (b"0\r\n\r\n" if ends else b"")


def command(path: Path, *words: str) -> list[str]:
    code = f'import sys; sys.path.insert(0, "{ROOT}"); from dkrctl.lean import entry; entry()'
    return [PYTHON, "-IS", "-c", code, "--socket", str(path), "logs", *words]


def logs(path: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(path, *words),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_lines_go_where_they_belong(tmp_path: Path) -> None:
    said = [line("one\n"), line("two\n", "stderr"), line(b"\xff\x00"), line("ü \x1b[m\n"), line("no newline")]
    whole = b"".join(said)
    pieces = [whole[:7], whole[7:100], whole[100:]]  # chunks end anywhere
    with canned(tmp_path / "s", default=chunked(pieces)) as peer:
        done = logs(tmp_path / "s", "web")
    assert (done.returncode, done.stderr) == (0, b"two\n")
    assert done.stdout == b"one\n\xff\x00" + "ü \x1b[m\nno newline".encode()
    assert peer.requests == ["GET /v1/containers/web/logs HTTP/1.1"]


def test_the_order_of_both_is_kept(tmp_path: Path) -> None:
    said = [line(f"{number}\n", ("stdout", "stderr")[number % 2]) for number in range(1000)]
    with canned(tmp_path / "s", default=chunked([b"".join(said)])):
        done = subprocess.run(command(tmp_path / "s", "web"), stdout=-1, stderr=subprocess.STDOUT, check=True)
    assert done.stdout.split() == [b"%d" % number for number in range(1000)]


def test_timestamps_stand_in_front_of_lines(tmp_path: Path) -> None:
    """Of whole ones: a long line comes in pieces."""
    said = [line("one "), line("err\n", "stderr"), line("line\n"), line("next\n")]
    with canned(tmp_path / "s", default=chunked(said)):
        done = logs(tmp_path / "s", "-t", "web")
    assert done.stdout == f"{TIME} one line\n{TIME} next\n".encode()
    assert done.stderr == f"{TIME} err\n".encode()


def test_what_is_asked(tmp_path: Path) -> None:
    with canned(tmp_path / "s", default=chunked([])) as peer:
        words = ["--tail=5", "--since", "2026-01-31T12:00:00.5+01:00", "--until", "1769860800", "-f", "web"]
        assert logs(tmp_path / "s", *words).returncode == 0
        assert logs(tmp_path / "s", "-n", "all", "web").returncode == 0
        assert logs(tmp_path / "s", "--tail", "-1", "web").returncode == 0
    assert peer.requests == [
        "GET /v1/containers/web/logs?tail=5&since=2026-01-31T12%3A00%3A00.5%2B01%3A00"
        "&until=2026-01-31T12%3A00%3A00.000000000Z&follow=true HTTP/1.1",
        "GET /v1/containers/web/logs HTTP/1.1",
        "GET /v1/containers/web/logs HTTP/1.1",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-n", "-2", "web"], "cannot take --tail -2"),
        (["-n", "some", "web"], "a number of lines, or the word all"),
        (["-n", "", "web"], "cannot take --tail"),
        (["--since", "yesterday", "web"], "cannot take --since yesterday: it is no time"),
        (["web", "two"], "logs takes one container"),
        ([], "no container is named"),
        (["a/b"], "neither a name nor an id"),
    ],
)
def test_what_is_asked_of_nobody(tmp_path: Path, words: list[str], said: str) -> None:
    done = logs(tmp_path / "nobody", *words)
    assert (done.returncode, done.stdout) == (1, b"")
    assert said in done.stderr.decode()


def test_one_without_a_log(tmp_path: Path) -> None:
    problem = fault(
        "conflict", "409 Conflict", "cannot read the log of web: it has none", rule="no-log", hint="x"
    )
    with canned(tmp_path / "s", default=problem):
        done = logs(tmp_path / "s", "web")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"dkrctl: cannot read the log of web: it has none\n  rule: no-log\n  hint: x\n"


def test_no_daemon(tmp_path: Path) -> None:
    done = logs(tmp_path / "nobody", "web")
    assert done.returncode == 1
    assert b"there is no such socket" in done.stderr


def test_a_log_that_is_cut_off_is_told_behind_what_came(tmp_path: Path) -> None:
    with canned(tmp_path / "s", default=chunked([line("one\n")], ends=False)) as peer:
        done = logs(tmp_path / "s", "web")
    assert (done.returncode, done.stdout) == (1, b"one\n")
    assert b"closed the connection in its middle" in done.stderr
    assert len(peer.requests) == 1


def test_one_that_is_followed_is_asked_for_again_and_no_line_comes_twice(tmp_path: Path) -> None:
    """By an answer that is cut off each time it is no daemon that is there: DKR_TIMEOUT bounds that too."""
    with canned(tmp_path / "s", default=chunked([line("one\n")] * 2, ends=False)) as peer:
        done = logs(tmp_path / "s", "-f", "--tail=2", "--until", "1769860800", "web", DKR_TIMEOUT="0.3")
    assert (done.returncode, done.stdout) == (1, b"one\none\n")
    assert b"closed the connection in its middle" in done.stderr
    until = "until=2026-01-31T12%3A00%3A00.000000000Z&follow=true"
    assert peer.requests[0] == f"GET /v1/containers/web/logs?tail=2&{until} HTTP/1.1"
    again = f"GET /v1/containers/web/logs?{until}&since={TIME.replace(':', '%3A')} HTTP/1.1"
    assert set(peer.requests[1:]) == {again}
    assert len(peer.requests) >= 2  # how often within that time is the machine's affair


def test_it_is_gone_on_with_by_its_id(tmp_path: Path) -> None:
    """Its name may be another's by then."""
    head, _, rest = chunked([line("one\n")], ends=False).partition(b"\r\n")
    said = b"\r\n".join((head, b"Dkr-Container: c0ffee", rest))
    removed = fault("not-found", "404 Not Found", "cannot find c0ffee")
    answers = {
        "/v1/containers/web/logs?follow=true": said,
        "/v1/version": http({"version": VERSION, "apiVersion": API_VERSION}),
    }
    with canned(tmp_path / "s", answers, default=removed) as peer:
        done = logs(tmp_path / "s", "-f", "web")
    assert (done.returncode, done.stdout) == (1, b"one\n")
    assert b"the container was removed while the daemon was away" in done.stderr
    assert peer.requests[1].startswith("GET /v1/containers/c0ffee/logs?follow=true&since=")


def lines_at(*times: str) -> list[Line]:
    return [Line("stdout", time, b"") for time in times]


def test_a_place_in_a_log() -> None:
    place = Position({"follow": "true", "tail": "0", "since": "2100-01-01T00:00:00Z"})
    assert list(place.queries()) == [{"follow": "true", "tail": "0", "since": "2100-01-01T00:00:00Z"}]
    place.answered(0.0)
    asked = place.queries()
    first = next(asked)
    assert (first["tail"], first["since"], "follow" in first) == ("0", "2100-01-01T00:00:00Z", False)
    assert first["until"] < "2100"
    assert next(asked) == {
        "follow": "true",
        "since": "2100-01-01T00:00:00Z",
    }  # what lies ahead is not made earlier
    assert [one.time for one in place.take(lines_at("1", "2", "2"))] == ["1", "2", "2"]
    assert list(place.queries()) == [{"follow": "true", "since": "2"}]
    # Of an older guardian's lines several have one time; and that it was set back loses none.
    assert [one.time for one in place.take(lines_at("2", "2", "2", "1", "3"))] == ["2", "1", "3"]


def test_how_long_a_daemon_is_away() -> None:
    place = Position({"follow": "true"})
    place.answered(0.0)
    assert place.lost(10.0) == (0.0, 0.05)
    assert place.lost(10.5) == (0.5, 0.1)
    place.answered(10.6)
    assert place.lost(10.75) == (0.75, 0.2)  # it came up and fell
    place.answered(10.8)
    assert place.lost(20.0) == (0.0, 0.05)  # it was there, and nothing was written
    place.answered(20.1)
    place.take(lines_at("1"))
    assert place.lost(20.2) == (0.0, 0.05)


@pytest.mark.parametrize(
    "garbage",
    [
        b"x\n",
        b"[]\n",
        line("x", "stdin"),
        b'{"stream": "stdout", "time": "now"}\n',
        b'{"log": 5, "stream": "stdout", "time": "now"}\n',
        b'{"logBase64": "?", "stream": "stdout", "time": "now"}\n',
        line("x", when="\x1b[m"),
        line("x").rstrip(),
    ],
)
def test_what_is_no_line(tmp_path: Path, garbage: bytes) -> None:
    with canned(tmp_path / "s", default=chunked([line("one\n"), garbage])):
        done = logs(tmp_path / "s", "web")
    assert (done.returncode, done.stdout) == (1, b"one\n")
    assert b"cannot understand the daemon" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    cut = splitter()
    with pytest.raises(ProtocolError, match="does not end"):
        cut.feed(b"x" * (MAX_LINE + 1))


# following


@contextmanager
def following(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The client, once it has shown the first line; no more comes."""
    words = command(path, "-f", "web")
    pipe = subprocess.PIPE
    with (
        canned(path, default=chunked([line("one\n")], ends=False), hold=True),
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as client,
    ):
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"one\n"
            yield client
            assert client.stderr is not None
            assert client.stderr.read() == b""
        finally:
            client.kill()


def test_what_comes_is_shown_at_once_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    with following(tmp_path / "s") as client:
        client.send_signal(signal.SIGINT)
        assert client.wait() == -signal.SIGINT  # a shell says 130


def test_a_reader_that_has_seen_enough_ends_it(tmp_path: Path) -> None:
    """Though nothing more is written to it."""
    with following(tmp_path / "s") as client:
        assert client.stdout is not None
        client.stdout.close()
        assert client.wait() == -signal.SIGPIPE


def test_a_closed_output_is_not_the_connection(tmp_path: Path) -> None:
    """Whatever is opened first would get its number, and what is printed with it: a request of the container's making."""
    with canned(tmp_path / "s", default=chunked([line("one\n")])) as peer:
        words = ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command(tmp_path / "s", "-f", "web")]
        done = subprocess.run(words, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"dkrctl: cannot write the output: bad file descriptor\n")
    assert len(peer.requests) == 1


def test_an_output_that_does_not_wait_is_waited_for(tmp_path: Path) -> None:
    """Non-blocking, as whoever shares it may have made it; and it is full at times."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    said = [line("x" * 9999 + "\n")] * 100
    with canned(tmp_path / "s", default=chunked(said)):
        client = subprocess.Popen(command(tmp_path / "s", "web"), stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        got = 0
        while data := os.read(reader, 4096):
            got += len(data)
            select.select([], [], [], 0)
        os.close(reader)
        assert client.communicate()[1] == b""
    assert (client.returncode, got) == (0, 1_000_000)


# times


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00.123456789+02:00", "2026-01-31T12:00:00.123456789+02:00"),
        ("2026-01-31T12:00+02:00", "2026-01-31T10:00:00.000000Z"),
        ("1769860800", "2026-01-31T12:00:00.000000000Z"),
        ("1769860800.123456789", "2026-01-31T12:00:00.123456789Z"),
        ("0", "1970-01-01T00:00:00.000000000Z"),
        ("10m", "2026-01-31T11:50:00.250000Z"),
        ("1h30m", "2026-01-31T10:30:00.250000Z"),
        ("1.5s", "2026-01-31T11:59:58.750000Z"),
        ("2026-01-31T12:00:00", "2026-01-31T11:00:00.000000Z"),
        ("2026-01-31", "2026-01-30T23:00:00.000000Z"),
    ],
)
def test_moments(monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
    monkeypatch.setenv("TZ", "XYZ-1")
    time.tzset()
    try:
        assert moment(text, "since", NOW) == expected
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text",
    ["", "x", "5d", "-5m", "2026-13-01", "m", "1h 5m", "999999999999", "\u0661m", "now", "0001-01-01"],
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        moment(text, "since", NOW)
    assert "--since" in caught.value.message
