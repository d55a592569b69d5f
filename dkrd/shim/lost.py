"""A container that runs on without its guardian, which was killed: the one thing that can still be done to it, its end."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from common import frames, restarts
from dkrd.runtime import cgroups
from dkrd.shim import cleanup
from dkrd.shim.state import write_file

if TYPE_CHECKING:
    from dkrd.settings import Settings


def end(settings: Settings, container: str, state: dict[str, object]) -> None:
    """SIGKILL for all of it, also where it is paused; the launcher, which has a pidfd of its first process, reads how it ended.
    `state`: its own, whose owner has been asked for. Raises OSError where the cgroup cannot be written to.
    """
    if restarts.may_follow(state):
        # Before, so that whoever learns of the end knows that a user wanted it. Nobody else writes here: who did is gone.
        path = f"{settings.run_dir}/containers/{container}/state.json"
        with contextlib.suppress(OSError):  # a full disk: then its policy may start it again
            write_file(path, frames.dumps({**state, "stopAsked": True}))
    first = _first(state)
    try:
        cgroups.kill(cleanup.paths_of(settings, container, state))
        if first >= 0:
            # Without a freezer of v1 nothing was killed yet; with its first process go all of its namespace.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(first, signal.SIGKILL)
    finally:
        if first >= 0:
            os.close(first)


def _first(state: dict[str, object]) -> int:
    """A pidfd of its first process; -1 where that has ended."""
    number = state.get("pid")
    if not isinstance(number, int):
        return -1
    try:
        fd = os.pidfd_open(number)
    except OSError:
        return -1
    if cleanup.lives(state):  # so the number is still that process's, and the descriptor too
        return fd
    os.close(fd)
    return -1
