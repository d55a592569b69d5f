"""How an error crosses from a forked child to the process that waits for it: one bounded record on a
close-on-exec pipe.

End of file without a record means success: execve has closed the pipe, or the child has ended its work.
"""

from __future__ import annotations

import os

from common import frames
from common.errors import DkrError, Internal, StartFailed, from_wire

MAX_RECORD = 4096  # bytes: PIPE_BUF, so that the write is whole and never blocks

# Hints for errno values whose text says too little in the place where they appear; see the man page of the
# step's call.
HINTS = {
    ("mount", 28): "ENOSPC from a mount means the limit in /proc/sys/fs/mount-max",
    ("clone", 28): "a limit in /proc/sys/user/max_*_namespaces is reached",
    ("clone", 11): "a limit on processes is reached: pids.max of the daemon's cgroup, or kernel.pid_max",
    ("init", 11): "a limit on processes is reached: --pids-limit, with --init at least 2",
    (
        "clone",
        1,
    ): "user namespaces may be switched off: see kernel.unprivileged_userns_clone and user.max_user_namespaces",
    ("layers", 22): "the filesystem of the state directory cannot be idmapped; ext4, xfs and btrfs can",
}


START = "start the container"


def describe(error: BaseException, step: str, what: str = START) -> DkrError:
    """The DkrError for whatever went wrong in `step`; `what` cannot be done therefore."""
    if isinstance(error, DkrError):
        if error.step is None:
            error.step = step
        return error
    if isinstance(error, OSError) and error.errno is not None:
        where = f" ({error.filename})" if error.filename else ""
        return StartFailed(
            f"cannot {what}: {step}{where}: {os.strerror(error.errno).lower()}",
            step=step,
            errno=error.errno,
            hint=HINTS.get((step, error.errno)),
        )
    return Internal(f"cannot {what}: {step}: {type(error).__name__}: {error}", step=step)


def send(fd: int, error: BaseException, step: str, what: str = START) -> None:
    """Write the record for `error` to the pipe `fd`; called in the child just before it ends."""
    wire = describe(error, step, what).to_wire()
    data = frames.dumps(wire)
    if len(data) > MAX_RECORD:
        wire["message"] = str(wire["message"])[:500] + "…"
        wire.pop("fields", None)
        data = frames.dumps(wire)[:MAX_RECORD]
    os.write(fd, data)


def decode(data: bytes) -> DkrError:
    """The error of a record; a torn one is Internal."""
    try:
        return from_wire(frames.loads(data))
    except ValueError:
        return Internal("cannot start the container: its process died without a word")
