"""The fork of a shim: from the launcher's process to the guardian of one container."""

from __future__ import annotations

import os
import resource

from dkrd.launcher import runner
from dkrd.runtime.syscalls import set_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.launcher.loop import Loop
    from dkrd.shim.task import ShimTask


_RESERVE = 24  # descriptors kept for the next api, for messages and for jobs


class OpenFiles:
    """The bound of open files: raised for the launcher, given back to what it forks.

    A container keeps two descriptors here, so the usual 1024 are soon too few; but a command that was
    started with a raised soft limit breaks where it uses select(2).
    """

    def __init__(self) -> None:
        self._original = resource.getrlimit(resource.RLIMIT_NOFILE)

    def raise_soft(self) -> None:
        """Raise the soft limit to the hard one."""
        hard = self._original[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    @staticmethod
    def are_low() -> bool:
        """Whether so few descriptors are left that they must be kept for what stands."""
        # The lowest that is free: all below it are taken.
        try:
            free = os.dup(2)
        except OSError:
            return True
        os.close(free)
        return free >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVE

    def restore(self) -> None:
        """Set the limits that the launcher was started with."""
        resource.setrlimit(resource.RLIMIT_NOFILE, self._original)


def start(
    loop: Loop, task: ShimTask, run: Callable[[ShimTask], None], limits: OpenFiles, cgroup: int = -1
) -> int:
    """Fork the shim of `task`, into the cgroup of that descriptor; its pid. Raises OSError where the machine has no
    room for it.
    """
    return runner.fork(loop, lambda: _become(task, run, limits), cgroup)


def _become(task: ShimTask, run: Callable[[ShimTask], None], limits: OpenFiles) -> None:
    """In the child. Its own session: what is sent to the launcher's process group is not meant for it."""
    os.setsid()
    # Not the listener, the channel, the locks, the loop: a guardian lives on when the launcher ends, and what
    # it kept open would still be locked or listening then.
    runner.keep_only((task.connection, task.session, task.reports))
    limits.restore()
    set_name("dkr-shim")
    run(task)
