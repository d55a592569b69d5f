"""A caller's own file whose filesystem never answers its close: the guardian goes on, whoever else has it open waits."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import host, trees
from tests.reliability.support import ask, eventually, null_stdio, settle, start_raw
from tests.sessions import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon

pytestmark = pytest.mark.root

SERVER = Path(trees.__file__).with_name("fuse.py")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """The file, and its server, which answers two closes, init's, and no more."""
    place, ready = tmp_path / "place", tmp_path / "ready"
    place.mkdir()
    subprocess.run(["/usr/bin/python3", "-IS", SERVER, place, "two-closes", ready], check=True)
    eventually(ready.exists, "it is mounted")
    pid = int(ready.read_text())
    try:
        yield place / "file", pid
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
        assert host.wait_gone(pid, 10)
        subprocess.run(["umount", "--lazy", place], check=True)


def test_the_guardian_of_such_a_file_answers(daemon: Daemon, server: tuple[Path, int]) -> None:
    """Init's are answered, the guardian's never: it watches all the same."""
    settle(daemon)
    file, pid = server
    descriptor = os.open(file, os.O_RDONLY)
    with null_stdio() as (null, _, _):
        client = start_raw(
            daemon, (descriptor, null, null), args=["/bin/sleep", "600"], name="hangs", rm=True
        )
        frame = client.frame()
    assert frame is not None
    assert frame["type"] == "started"
    status, trace = ask(daemon, "GET", "/v1/containers/hangs/explain")
    assert (status, trace["outcome"]) == (200, "started")
    # Forked beside the thread that waits.
    [shim] = [process for process in daemon.processes() if process.comm == "dkr-shim"]
    assert len(os.listdir(f"/proc/{shim.pid}/task")) == 2
    with Client(daemon) as executing:  # by no process of ours, which would have to close the file as well
        request = {"args": ["/bin/sh", "-c", "exit 5"]}
        executing.post("/v1/containers/hangs/exec", request)
        executing.hand_over()
        first = {
            "type": "exec",
            "version": 2,
            "container": "hangs",
            "request": request,
            "stdio": [],
            "tty": [],
        }
        executing.send(first)
        assert executing.exit()["code"] == 5
    assert ask(daemon, "POST", "/v1/containers/hangs/kill", {"signal": "TERM"})[0] == 204
    os.kill(pid, signal.SIGKILL)  # the connection ends with it, and lets go of everybody
    frame = client.frame()
    assert frame == {"type": "exited", "exit": {"code": None, "signal": 15, "cause": "signalled"}}
    client.close()
    with contextlib.suppress(OSError):  # ENOTCONN; it is closed
        os.close(descriptor)
    settle(daemon)
