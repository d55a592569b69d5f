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


def stop_all(settings: Settings, log: Log) -> None:
    """Stop all containers of the daemon with these settings. Raises HostUnfit.

    Waits as long as their guardians do, which is the stop timeout of each container.
    """
    if os.geteuid() != 0:
        raise HostUnfit("cannot stop the containers: only root may", hint="sudo dkrd --stop-containers")
    # A descriptor for each container: the usual 1024 would make some wait until others have ended.
    OpenFiles().raise_soft()
    try:
        _Stopping(settings.run_dir, log).run()
    except OSError as err:
        raise HostUnfit(f"cannot stop the containers: {err.strerror}", errno=err.errno) from err


class _Stopping:
    """The containers that are still to be stopped, and what is waited for."""

    def __init__(self, run_dir: str, log: Log) -> None:
        self._run_dir = run_dir
        self._log = log
        self._to_do = adoption.live_ids(run_dir)
        self._guardians: dict[int, str] = {}  # container ids, by the pidfd of who was told
        self._inits: dict[int, str] = {}  # by the pidfd of who was killed
        self._told: set[str] = set()
        self._poll = select.poll()

    def run(self) -> None:
        """Until nothing is left. Raises OSError where not a single one can be begun."""
        self._log.info("stopping containers", containers=len(self._to_do))
        self._begin_all()
        while self._guardians or self._inits:
            for process, _ in self._poll.poll():
                self._ended(process)
            self._begin_all()

    def _begin_all(self) -> None:
        while self._to_do:
            try:
                self._begin(self._to_do[-1])
            except OSError:
                # No descriptor for it: when others have ended there will be one.
                if not self._guardians and not self._inits:
                    raise
                return
            self._to_do.pop()

    def _begin(self, container_id: str) -> None:
        """Tell its guardian, or kill what has none. OSError where no descriptor is free."""
        state = adoption.live_state(self._run_dir, container_id)
        if state is None:
            return
        if container_id not in self._told:
            guardian = pidfd.open_verified(state.get("shimPid"), state.get("shimStartTime"))
            if guardian >= 0:
                self._told.add(container_id)
                self._wait_for(guardian, signal.SIGTERM, container_id, self._guardians)
                return
        init = pidfd.open_verified(state.get("pid"), state.get("pidStartTime"))
        paths = state.get("cgroup")
        # Without a pid namespace of its own, init's end is not the end of its children: also where it has ended long ago.
        if isinstance(paths, list):
            with contextlib.suppress(OSError):
                cgroups.kill(tuple(path for path in paths if isinstance(path, str)))
        if init >= 0:
            self._log.warning("kills a container that has lost its guardian", id=container_id)
            self._wait_for(init, signal.SIGKILL, container_id, self._inits)

    def _wait_for(self, process: int, number: int, container_id: str, among: dict[int, str]) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)
        among[process] = container_id
        self._poll.register(process, select.POLLIN)

    def _ended(self, process: int) -> None:
        self._poll.unregister(process)
        os.close(process)
        told = self._guardians.pop(process, None)
        if told is not None:
            # One that was told in the first moments of its watch has died of it, and its container has not.
            self._to_do.append(told)
        # An init that was killed here is dead, though it lies there until somebody collects it.
        self._log.info("stopped", id=told or self._inits.pop(process))
