"""A log whose disk is full: the command waits, or the lines that were dropped are counted in the log, as was asked for."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.integration.kept import lines, made, remove, sh, shown, wait
from tests.integration.test_logs_http import type_in
from tests.reliability.support import SMALL, eventually, settle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

MANY = 30_000  # lines


@contextlib.contextmanager
def small_disk(daemon: Daemon) -> Iterator[None]:
    """Has the daemon run with its state on a small filesystem, and ends it."""
    daemon.stop()
    place = daemon.state_dir
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0755", SMALL, place], check=True)
    try:
        daemon.start()
        try:
            yield
            settle(daemon)
        finally:
            daemon.stop()
    finally:
        subprocess.run(["umount", place], check=True)


def fill(daemon: Daemon) -> Path:
    path = daemon.state_dir / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return path


def told(daemon: Daemon) -> bool:
    return "cannot write the container's log" in daemon.log and "No space left on device" in daemon.log


def test_with_blocking_the_command_waits_and_nothing_is_lost(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    log = {"options": {"mode": "blocking"}}
    with (
        small_disk(daemon),
        made(daemon, *sh(f"read go; seq {MANY}; exit 3"), openStdin=True, log=log) as name,
    ):
        filler = fill(daemon)
        type_in(daemon, name, b"go\n")
        eventually(lambda: told(daemon), "a full disk is told")
        assert shown(daemon, name)["status"] == "running"
        assert len(lines(daemon, name)) < MANY
        filler.unlink()
        assert wait(daemon, name)["code"] == 3
        assert [line["log"] for line in lines(daemon, name)] == [f"{n}\n" for n in range(1, MANY + 1)]
        remove(daemon, name)


LOG = {"options": {"mode": "non-blocking", "max-buffer-size": "16k"}}
LINE = f"read go; seq {MANY}; echo done >&2; read go; echo last"


def test_without_the_command_goes_on(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with small_disk(daemon), made(daemon, *sh(LINE), openStdin=True, log=LOG) as name:
        filler = fill(daemon)
        type_in(daemon, name, b"go\ngo\n")  # it reads the second one: so it was not held up
        eventually(lambda: "lines are lost at its end" in daemon.log, "what was lost is told")
        # Of an end that nobody was waiting for the index knows when it has room to write it down.
        filler.unlink()
        assert wait(daemon, name)["code"] == 0
        remove(daemon, name)


def test_what_was_dropped_is_counted(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with small_disk(daemon), made(daemon, *sh(LINE), openStdin=True, log=LOG) as name:
        filler = fill(daemon)
        type_in(daemon, name, b"go\n")
        eventually(lambda: told(daemon), "a full disk is told")
        eventually(lambda: not any(one.comm == "seq" for one in daemon.processes()), "all was written")
        filler.unlink()
        eventually(lambda: any("dropped" in one for one in lines(daemon, name)), "what was dropped is told")
        type_in(daemon, name, b"go\n")
        assert wait(daemon, name)["code"] == 0
        found = lines(daemon, name)
        dropped = [one for one in found if "dropped" in one]
        number = dropped[0]["dropped"]
        assert dropped[0]["stream"] == "stderr"
        assert dropped[0]["log"] == f"[dkr: {number} lines dropped here: the log took nothing]\n"
        kept = [int(one["log"]) for one in found if one["log"][:-1].isdecimal()]
        assert kept == sorted(set(kept))
        others = sum(one["log"] == "done\n" for one in found)
        assert len(kept) + others + sum(one["dropped"] for one in dropped) == MANY + 1
        assert found[-1]["log"] == "last\n"
        # To a client it is a line as any other.
        assert "lines dropped here" in daemon.dkrctl("logs", name, check=True).stderr
        remove(daemon, name)
