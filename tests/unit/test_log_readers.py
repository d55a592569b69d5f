"""Who follows a log at its guardian: the files that it gets, however slow it is."""

from __future__ import annotations

import json
import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from common import frames
from dkrd.loop import Loop
from dkrd.shim.log_file import LogFile
from dkrd.shim.logs import MAX_BEHIND, Readers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dkrd.shim.asks import Ask
    from dkrd.shim.called import Called


class Follower:
    """One, and the container's log."""

    def __init__(self, directory: Path) -> None:
        self.loop = Loop()
        self.log = LogFile(str(directory), 4096, 3, lambda cause: None)
        self.readers = Readers(self.loop, str(directory), cast("Called", "one"), self.log)
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(20)
        ask = SimpleNamespace(body={"type": "logs", "follow": True}, take_socket=lambda: theirs)
        self.readers.ask(cast("Ask", ask))
        assert self.hears()[0] == {"type": "log"}
        self.written = 0

    def write(self, files: int) -> None:
        """As many as fill so many files, each its own."""
        for _ in range(files):
            self.log.put("stdout", b"%04000d\n" % self.written)
            self.written += 1

    def asks(self) -> None:
        self.sock.send(frames.dumps({"type": "next"}))
        self.loop.turn(0)

    def hears(self) -> tuple[dict[str, object], list[int]]:
        """The next word, and what the files hold that came with it."""
        data, fds, _, _ = socket.recv_fds(self.sock, 4096, 10)
        found = []
        for fd in fds:
            with os.fdopen(fd, "rb") as file:
                found += [int(json.loads(line)["log"]) for line in file]
        return (frames.loads_object(data) if data else {}), found

    def close(self) -> None:
        self.readers.end()
        self.sock.close()
        self.log.close()


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[Follower]:
    made = Follower(tmp_path)
    yield made
    made.close()


def test_one_that_is_slow_gets_each_file(follower: Follower) -> None:
    follower.write(1 + MAX_BEHIND)
    for number in range(1, 1 + MAX_BEHIND):
        follower.asks()
        assert follower.hears() == ({"type": "rotated"}, [number])


def test_one_that_is_too_slow_hears_how_many_it_misses(follower: Follower) -> None:
    before = len(os.listdir("/proc/self/fd"))
    follower.write(1 + MAX_BEHIND + 5)
    assert len(os.listdir("/proc/self/fd")) == before + MAX_BEHIND
    follower.asks()
    assert follower.hears() == ({"type": "rotated", "missed": 5}, [6])
    follower.write(2)
    follower.asks()
    assert follower.hears() == ({"type": "rotated", "missed": 1}, [8])
    follower.asks()
    assert follower.hears() == ({"type": "rotated"}, [9])


def test_all_that_is_left_is_given_at_the_end(follower: Follower) -> None:
    follower.write(1 + MAX_BEHIND + 2)
    follower.readers.end()
    assert follower.hears() == ({"type": "rotated", "missed": 2}, [3])
    for number in range(4, 3 + MAX_BEHIND):
        assert follower.hears() == ({"type": "rotated"}, [number])
    assert follower.hears() == ({}, [])
