"""The real launcher: several that start one container, and a container that is another launcher's shim's already."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING

import pytest

from tests.unit.launcher_process import DEADLINE, Daemon, launcher

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the launcher runs as root")
ID = "ab" * 32


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with launcher() as made:
        made.start()
        stands = made.state / "containers" / ID
        stands.mkdir()
        (stands / "grant.json").write_text(json.dumps({"uid": 0}))
        (stands / "state.json").write_text(json.dumps({"id": ID, "uid": 0, "status": "created"}))
        yield made


@contextlib.contextmanager
def launches(daemon: Daemon, times: int) -> Iterator[None]:
    """A client that asks for so many at once, and stays."""
    with daemon.connect() as sock:
        sock.sendall(json.dumps({"do": "launch", "id": ID, "times": times}).encode())
        yield


def accepted(daemon: Daemon) -> int:
    return len(daemon.ask(do="seen", type="accepted"))


def test_of_several_starts_one_is_at_work(daemon: Daemon) -> None:
    gate = daemon.state / "gate"
    os.mkfifo(gate)
    with launches(daemon, 3):
        assert daemon.told("accepted", ID)
        for begun in (1, 2, 3):
            with open(gate, "w"):  # a shim is there
                assert accepted(daemon) == begun
            while begun < 3 and accepted(daemon) == begun:
                pass


def test_who_waits_too_long_is_told(daemon: Daemon) -> None:
    gate = daemon.state / "gate"
    os.mkfifo(gate)
    with launches(daemon, 3), open(gate, "w"):
        refused = daemon.told("refused", ID[:12])
        while len(refused) < 2:
            refused = daemon.ask(do="seen", type="refused")
    messages = {str(message["error"]["message"]) for message in refused}
    assert messages == {f"cannot start {ID[:12]}: its guardian is still at work"}
    assert accepted(daemon) == 1


def test_what_another_shim_has_is_left_to_it(daemon: Daemon) -> None:
    """It was forked by the launcher before, and began late: ours does nothing, and the other is adopted."""
    run = daemon.run / "containers" / ID
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        run.mkdir()
        place = os.open(run, os.O_PATH)
        other.bind(f"/proc/self/fd/{place}/shim.sock")
        os.close(place)
        other.listen()
        other.settimeout(DEADLINE)
        with launches(daemon, 1), other.accept()[0]:
            accepted(daemon)  # a round later
            assert "adopted containers=1" in daemon.log()
            assert run.exists()
            assert not (daemon.state / "collected").exists()
