"""The log of a container over HTTP, against a real daemon."""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import Lines, Stream, create, lines, logged, made, remove, sh, start, wait
from tests.reliability.support import (
    Counts,
    ask,
    ask_bytes,
    assert_same,
    eventually,
    held,
    let_go,
    listed,
    the_shim,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, at_rest: Counts) -> Iterator[Counts]:
    """What launcher, api and machine hold, and which containers there are, is the same behind each test."""
    there = listed(daemon, every=True)
    yield at_rest
    eventually(lambda: listed(daemon, every=True) == there, "what removes itself is removed")
    assert_same(daemon, at_rest)
    assert "Traceback" not in daemon.log


def texts(found: list[dict[str, Any]]) -> list[str]:
    return [line["log"] for line in found]


def test_both_outputs_with_their_times(daemon: Daemon) -> None:
    with made(daemon, *sh("echo one; sleep 0.1; echo two >&2; sleep 0.1; printf three")) as name:
        wait(daemon, name)
        found = lines(daemon, name)
        assert [(line["log"], line["stream"]) for line in found] == [
            ("one\n", "stdout"),
            ("two\n", "stderr"),
            ("three", "stdout"),
        ]
        times = [line["time"] for line in found]
        assert times == sorted(times)
        assert all(len(time) == 30 for time in times)
        assert texts(lines(daemon, name, "?stdout=false")) == ["two\n"]
        assert texts(lines(daemon, name, "?stderr=false")) == ["one\n", "three"]
        assert texts(lines(daemon, name, f"?since={times[1]}")) == ["two\n", "three"]
        assert texts(lines(daemon, name, f"?until={times[1]}")) == ["one\n", "two\n"]
        assert texts(lines(daemon, name, f"?since={times[1]}&until={times[1]}")) == ["two\n"]
        assert texts(lines(daemon, name, "?tail=2")) == ["two\n", "three"]
        assert texts(lines(daemon, name, "?tail=0")) == []
        assert texts(lines(daemon, name, "?tail=1&stdout=false")) == ["two\n"]
        assert texts(lines(daemon, name, "?follow=true")) == texts(found)


def test_bytes_that_are_no_text(daemon: Daemon) -> None:
    with made(daemon, *sh(r"printf '\377\000\n\344\n'; printf 'ä\n'")) as name:
        wait(daemon, name)
        first, second, third = lines(daemon, name)
        assert base64.b64decode(first["logBase64"]) == b"\xff\0\n"
        assert base64.b64decode(second["logBase64"]) == b"\xe4\n"
        assert third["log"] == "ä\n"
        assert "log" not in first


def test_much_output(daemon: Daemon) -> None:
    with made(daemon, *sh("seq 50000")) as name:
        wait(daemon, name)
        assert texts(lines(daemon, name)) == [f"{n}\n" for n in range(1, 50001)]
        assert texts(lines(daemon, name, "?tail=20000"))[0] == "30001\n"
        status, data = ask_bytes(daemon, "GET", f"/v1/containers/{name}/logs?tail=3")
        assert (status, data.count(b"\n")) == (200, 3)


def test_a_line_that_is_long(daemon: Daemon) -> None:
    with made(daemon, *sh("head -c 100000 /dev/zero | tr '\\0' x; echo end")) as name:
        wait(daemon, name)
        assert "".join(texts(lines(daemon, name))) == "x" * 100000 + "end\n"


@pytest.mark.parametrize(("open_stdin", "end"), [(True, "\r\n"), (False, "\n")])
def test_a_terminals_output(daemon: Daemon, open_stdin: bool, end: str) -> None:
    """One that nothing can be typed at is for output only, and makes no line ends of its own."""
    line = "echo out; echo err >&2"
    with made(daemon, *sh(line), terminal=True, openStdin=open_stdin) as name:
        wait(daemon, name)
        found = lines(daemon, name)
        assert "".join(texts(found)) == f"out{end}err{end}"
        assert {line["stream"] for line in found} == {"stdout"}


def test_of_several_starts(daemon: Daemon) -> None:
    with made(daemon, *sh("echo up")) as name:
        wait(daemon, name)
        start(daemon, name)
        wait(daemon, name)
        assert texts(lines(daemon, name)) == ["up\n", "up\n"]


def test_the_files_are_bounded(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(limits={"log_max_size": 20000, "log_max_files": 3})
    with made(daemon, *sh("seq 50000")) as name:
        wait(daemon, name)
        found = texts(lines(daemon, name))
        assert found[-1] == "50000\n"
        assert 400 < len(found) < 20000
        assert found == [f"{n}\n" for n in range(50001 - len(found), 50001)]
        assert texts(lines(daemon, name, "?tail=400")) == found[-400:]


# --- follow


def test_lines_as_they_come(daemon: Daemon) -> None:
    with made(daemon, *sh("echo up; read a; echo $a; read b; exit 3"), openStdin=True, begin=False) as name:
        start(daemon, name)
        with Lines(daemon, name) as following:
            first = following.line()
            assert first is not None
            assert first["log"] == "up\n"
            type_in(daemon, name, b"word\n")
            second = following.line()
            assert second is not None
            assert second["log"] == "word\n"
            type_in(daemon, name, b"end\n")
            assert following.line() is None
        assert wait(daemon, name)["code"] == 3


def type_in(daemon: Daemon, name: str, data: bytes) -> None:
    """A client that types, and leaves."""
    with Stream(daemon, f"{name}/attach") as stream:
        stream.until("attached")
        stream.send(0, data)
        stream.say(type="detach")
        while stream.frame() is not None:
            pass


def test_it_is_followed_over_many_files(make_daemon: MakeDaemon) -> None:
    """Who reads as fast as it is written misses nothing."""
    daemon = make_daemon(limits={"log_max_size": 30000, "log_max_files": 5})
    line = "i=0; while [ $i -lt 60 ]; do seq $((i * 50 + 1)) $((i * 50 + 50)); i=$((i + 1)); sleep 0.02; done"
    with made(daemon, *sh(f"read a; {line}"), openStdin=True) as name, Lines(daemon, name) as following:
        type_in(daemon, name, b"\n")
        found = []
        while (got := following.line()) is not None:
            found.append(got["log"])
        assert found == [f"{n}\n" for n in range(1, 3001)]


def test_a_reader_that_goes(daemon: Daemon) -> None:
    with made(daemon, *sh("echo up; sleep 600")) as name:
        before = held(daemon)
        logged(daemon, name, "up\n")
        readers = [Lines(daemon, name) for _ in range(10)]
        for reader in readers:
            assert reader.line() is not None
            reader.__exit__()
        let_go(daemon, before)


def test_a_reader_that_does_not_read_holds_nobody(daemon: Daemon) -> None:
    with made(daemon, *sh("read a; seq 100000; exit 7"), openStdin=True) as name, Lines(daemon, name) as slow:
        type_in(daemon, name, b"\n")
        assert wait(daemon, name)["code"] == 7
        remove(daemon, name)
        # What is open is read to its end, though nothing of the container is left.
        found = []
        while (got := slow.line()) is not None:
            found.append(got["log"])
        assert found == [f"{n}\n" for n in range(1, 100001)]


def test_of_one_that_has_ended_and_one_that_was_only_made(daemon: Daemon) -> None:
    with made(daemon, "/bin/true", begin=False) as name:
        assert lines(daemon, name, "?follow=true") == []
        start(daemon, name)
        wait(daemon, name)
        assert lines(daemon, name, "?follow=true") == []


# --- what there is none of


def test_one_whose_output_went_to_its_caller(root: Caller) -> None:
    client = root.daemon.popen("run", "--name", "own", "/bin/sleep", "600")
    root.command("sleep")
    status, problem = ask(root.daemon, "GET", "/v1/containers/own/logs")
    assert (status, problem["rule"]) == (409, "no-log")
    root.daemon.dkrctl("kill", "own", check=True)
    client.wait(SHELL_SECONDS)
    status, problem = ask(root.daemon, "GET", "/v1/containers/own/logs")
    assert (status, problem["rule"]) == (409, "no-log")
    remove(root.daemon, "own")


def test_a_guardian_that_is_killed(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    name = str(create(daemon, *sh("echo up; sleep 600"))["id"])
    start(daemon, name)
    logged(daemon, name, "up\n")
    with Lines(daemon, name) as following:
        assert following.line() is not None
        host.kill(the_shim(daemon))
        assert following.line() is None  # the end of what can be known
    assert texts(lines(daemon, name)) == ["up\n"]
    for process in daemon.processes():
        if process.comm == "sleep":
            host.kill(process)
    with contextlib.suppress(AssertionError):
        wait(daemon, name)
    remove(daemon, name)


def test_after_a_restart_of_the_daemon(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with made(daemon, *sh("echo up; sleep 600")) as name:
        logged(daemon, name, "up\n")
        daemon.restart()
        assert texts(lines(daemon, name)) == ["up\n"]
        with Lines(daemon, name) as following:
            assert following.line() is not None
            remove(daemon, name)
            assert following.line() is None
