"""Where no descriptor is free, nobody is taken for ended."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import resource
from typing import TYPE_CHECKING, Any

import pytest

from dkrd.launcher import adoption, pidfd
from dkrd.launcher import containers as containers_module
from dkrd.launcher.containers import Container, Containers
from dkrd.launcher.loop import Loop
from dkrd.launcher.restarts import Restarts
from dkrd.launcher.runner import Runner
from dkrd.log import Log
from dkrd.settings import Settings
from dkrd.shim import state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)


@contextlib.contextmanager
def free_descriptors(count: int) -> Iterator[None]:
    """The process can open no more than `count`."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    with contextlib.ExitStack() as stack:
        while (fd := os.dup(2)) < highest:  # no number below is free, as in a launcher
            stack.callback(os.close, fd)
        os.close(fd)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd + count, limits[1]))
        yield


@pytest.mark.parametrize("count", [0, 1])
def test_a_process_that_cannot_be_looked_at_has_not_ended(count: int) -> None:
    own, since = os.getpid(), state.start_time(os.getpid())
    gc.collect()  # what other tests have left is not closed meanwhile
    before = os.listdir("/proc/self/fd")
    with free_descriptors(count), pytest.raises(OSError, match="open files") as caught:
        pidfd.open_verified(own, since)
    assert caught.value.errno == errno.EMFILE
    assert os.listdir("/proc/self/fd") == before


class Table:
    """In the place of the containers that are guarded."""

    def __init__(self) -> None:
        self.adopted: list[str] = []
        self.collected: list[str] = []

    def __contains__(self, container: object) -> bool:
        return container in self.adopted

    def adopt(self, container: Any) -> None:
        os.close(container.shim)
        self.adopted.append(container.id)

    def collect_remains(self, container: str) -> None:
        self.collected.append(container)


def test_what_cannot_be_looked_at_is_left_alone_until_it_can_be(tmp_path: Path) -> None:
    guardian = {"shimPid": os.getpid(), "shimStartTime": state.start_time(os.getpid())}
    for place, container, known in (("run", ONE, guardian), ("run", TWO, {}), ("state", THREE, {})):
        directory = tmp_path / place / "containers" / container
        directory.mkdir(parents=True)
        if known or place == "state":
            (directory / "state.json").write_text(json.dumps({"id": container, "status": "running", **known}))
            (directory / "grant.json").write_text('{"uid": 0}')
    table: Any = Table()
    for free, unseen in ((1, 2), (9, 2), (64, 0)):  # 9: fewer than the launcher keeps for itself
        with free_descriptors(free):
            told = adoption.adopt(table, str(tmp_path / "run"), str(tmp_path / "state"), settled=True)
        assert (told.adopted, told.unseen) == (0 if unseen else 1, unseen)
        assert table.collected == ([] if unseen else [TWO])
    assert table.adopted == [ONE]


def test_a_look_that_is_cut_off_keeps_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "run/containers" / ONE
    directory.mkdir(parents=True)
    since = state.start_time(os.getpid())
    known = {"shimPid": os.getpid(), "shimStartTime": since, "pid": os.getpid(), "pidStartTime": since}
    (directory / "state.json").write_text(json.dumps({"id": ONE, "status": "running", **known}))
    (tmp_path / "state/containers").mkdir(parents=True)
    opened = 0
    really = pidfd.open_verified

    def once(pid: object, start_time: object) -> int:
        nonlocal opened
        opened += 1
        if opened > 1:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
        return really(pid, start_time)

    monkeypatch.setattr(pidfd, "open_verified", once)
    before = os.listdir("/proc/self/fd")
    table: Any = Table()
    told = adoption.adopt(table, str(tmp_path / "run"), str(tmp_path / "state"), settled=True)
    assert (told, opened, table.collected) == ((0, 1), 2, [])
    assert os.listdir("/proc/self/fd") == before


def test_an_orphan_that_cannot_be_looked_at_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers_module, "_LOOK_AGAIN_SECONDS", 0.0)
    collected: list[str] = []
    loop = Loop()
    table = Containers(loop, Log("error", "text", fd=2), Runner(loop), str(tmp_path))
    table.connect(
        lambda container, how: collected.append(container),
        lambda message: None,
        lambda uid, name: None,
        lambda: None,
        Restarts(loop, Log("error", "text", fd=2), table, Settings, lambda container, uid, why: None),
    )
    known: dict[str, object] = {"pid": os.getpid(), "pidStartTime": state.start_time(os.getpid())}
    orphan = Container(ONE, 5, state={"id": ONE, "status": "running", **known})
    with free_descriptors(0):
        table.adopt(orphan)
        loop.turn(0)
    assert orphan.init < 0
    loop.turn(0)
    assert orphan.init >= 0
    assert collected == []
    loop.forget(orphan.init)
    os.close(orphan.init)
    table._reports.close()
    table.reports_end.close()
