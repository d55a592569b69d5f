"""`dkrd --stop-containers`: have every container stopped by its guardian, and wait until all are.

What dkr-containers.service runs when it stops, so that at a shutdown containers end in order while the filesystems are
still there, and the host does not wait for processes that ignore SIGTERM, as the first process of a container does.
No daemon is needed. A container without a guardian is killed: nobody is left who knows its stop signal.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

from common.errors import HostUnfit
from dkrd.launcher import adoption, pidfd
from dkrd.launcher.shims import OpenFiles
from dkrd.runtime import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dkrd.log import Log
    from dkrd.settings import Settings


def stop_all(settings: Settings, log: Log) -> int:
    """Stop all containers of the daemon with these settings; how many there were. Raises HostUnfit.

    Waits as long as their guardians do, which is the stop timeout of each container.
    """
    if os.geteuid() != 0:
        raise HostUnfit("cannot stop the containers: only root may", hint="sudo dkrd --stop-containers")
    # A descriptor for each container: with the usual 1024 some would be passed over as if they had ended.
    OpenFiles().raise_soft()
    waiting: dict[int, str] = {}
    guarded: set[str] = set()
    for container_id, state in adoption.live_states(settings.run_dir):
        guardian = pidfd.open_verified(state.get("shimPid"), state.get("shimStartTime"))
        if guardian >= 0:
            _signal(guardian, signal.SIGTERM)
            waiting[guardian] = container_id
            guarded.add(container_id)
        else:
            _kill_orphan(container_id, state, waiting, log)
    count = len(waiting)
    log.info("stopping containers", containers=count)
    poll = select.poll()
    while waiting:
        for process in waiting:
            poll.register(process, select.POLLIN)
        for process, _ in poll.poll():
            poll.unregister(process)
            os.close(process)
            container_id = waiting.pop(process)
            log.info("stopped", id=container_id)
            if container_id not in guarded:
                continue  # killed here: dead, though it lies there until somebody collects it
            guarded.remove(container_id)
            # One that was told in the first moments of its watch has died of it, and its container has not.
            left = adoption.live_state(settings.run_dir, container_id)
            if left is not None:
                _kill_orphan(container_id, left, waiting, log)
    return count


def _kill_orphan(container_id: str, state: dict[str, object], waiting: dict[int, str], log: Log) -> None:
    """Kill what still runs of a container that has no guardian, and have its init's end waited for."""
    init = pidfd.open_verified(state.get("pid"), state.get("pidStartTime"))
    paths = state.get("cgroup")
    # Without a pid namespace of its own, init's end is not the end of its children: also where it has ended long ago.
    if isinstance(paths, list):
        with contextlib.suppress(OSError):
            cgroups.kill(tuple(path for path in paths if isinstance(path, str)))
    if init < 0:
        return
    log.warning("kills a container that has lost its guardian", id=container_id)
    _signal(init, signal.SIGKILL)
    waiting[init] = container_id


def _signal(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, number)
