"""The real launcher: a guardian is forked ahead of each start, for the host as it is, and nobody waits for it."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

import pytest

from dkrd.runtime import cgroups
from tests import host
from tests.unit.launcher_process import Daemon, gone, launcher, reaped

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the launcher runs as root"),
    pytest.mark.skipif(
        cgroups.read_layout().kind == "v2", reason="there guardians are born in their cgroups"
    ),
]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with launcher() as made:
        made.start()
        yield made


def spares(daemon: Daemon) -> list[int]:
    assert daemon.process is not None
    return [child.pid for child in host.children(daemon.process.pid) if child.comm == "dkr-spare"]


def spare(daemon: Daemon, *, but: int = 0) -> int:
    """The one that waits, when it has its name, and is another than `but`."""
    while True:
        found = spares(daemon)
        assert len(found) <= 2
        if len(found) == 1 and found[0] != but:
            return found[0]
        select.select([], [], [], 0.005)


def test_the_next_guardian_is_there_already(daemon: Daemon) -> None:
    waits = 0
    for _ in range(3):
        waits = spare(daemon, but=waits)
        assert daemon.run_container()["pid"] == waits
        reaped(waits)


def test_it_has_nothing_but_what_it_waits_for(daemon: Daemon) -> None:
    waits = spare(daemon)
    links = {fd: os.readlink(f"/proc/{waits}/fd/{fd}") for fd in os.listdir(f"/proc/{waits}/fd")}
    others = {fd: link for fd, link in links.items() if int(fd) > 2}
    assert len(others) == 2  # where it is told, and where it reports
    assert all(link.startswith("socket:") for link in others.values())
    assert os.getsid(waits) == waits
    ahead = daemon.run_container()
    assert ahead["pid"] == waits
    forked = daemon.run_container(pad=70000)
    assert len(ahead["fds"]) == len(forked["fds"])


def test_one_that_is_killed_is_replaced_by_a_fork(daemon: Daemon) -> None:
    for _ in range(3):
        waits = spare(daemon)
        os.kill(waits, signal.SIGKILL)
        reaped(waits)
        record = daemon.run_container()
        assert record["type"] == "session"
        assert record["pid"] != waits
        spare(daemon, but=waits)


def test_a_bundle_that_is_long_takes_a_fork(daemon: Daemon) -> None:
    waits = spare(daemon)
    assert daemon.run_container(pad=70000)["pid"] != waits
    assert spare(daemon) == waits
    # {} and so many blanks are the longest that it takes.
    assert daemon.run_container(pad=64 * 1024 - 1)["pid"] != waits
    assert spare(daemon) == waits
    assert daemon.run_container(pad=64 * 1024 - 2)["pid"] == waits


def test_settings_that_were_read_again_reach_the_next_guardian(daemon: Daemon) -> None:
    """Though the one that waits knows others, and cannot even end."""
    assert daemon.process is not None
    waits = spare(daemon)
    os.kill(waits, signal.SIGSTOP)
    (daemon.place / "no-busybox").write_text("gone")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.notified("READY=1")
    record = daemon.run_container()
    assert record["pid"] != waits
    assert record["layers"]["busybox"] == "gone"
    again = daemon.run_container()
    assert again["layers"]["busybox"] == "gone"
    os.kill(waits, signal.SIGCONT)
    reaped(waits)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_launcher(daemon: Daemon, number: signal.Signals) -> None:
    waits = spare(daemon)
    daemon.stop(number)
    gone(waits)


def test_a_rehearsal_that_fails_keeps_nobody_from_starting(daemon: Daemon) -> None:
    (daemon.place / "no-rehearsal").touch()
    first = daemon.run_container()["pid"]
    waits = spare(daemon, but=first)
    assert daemon.run_container()["pid"] == waits
