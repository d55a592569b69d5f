"""What a pidfd tells about a process that is not our child."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from common.kernel_probes import release
from dkrd.shim import state

# <linux/pidfd.h>: _IOWR(0xFF, 11, struct pidfd_info) with the first version of the structure, 64 bytes
# (Linux 6.13; exit information from 6.15).
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_SIZE = 64
_PID_MAX = 1 << 22  # PID_MAX_LIMIT of <linux/threads.h>
_EXIT_CODE = 60  # offset of exit_code, a wait status


def open_process(pid: int) -> int:
    """A pidfd of the process, or -1 where there is none. Raises OSError where that cannot be told: EMFILE,
    ENFILE, ENOMEM.
    """
    try:
        return os.pidfd_open(pid)
    except OSError as err:
        # EINVAL: a thread that is not its process's first
        if err.errno in (errno.ESRCH, errno.EINVAL):
            return -1
        raise


def open_verified(pid: object, start_time: object) -> int:
    """A pidfd of the process that has this pid *and* start time (clock ticks, proc(5) stat), or -1 where it has
    ended. Raises OSError where that cannot be told, for want of a descriptor (it takes two) or of memory: to
    take such a process for ended would have its container collected while it runs.

    The descriptor comes first: if the start time read after that fits, it was this process that was opened,
    because it had started before its pid and start time were written down.
    """
    if type(pid) is not int or type(start_time) is not int or not 0 < pid <= _PID_MAX:
        return -1
    descriptor = open_process(pid)
    if descriptor < 0:
        return -1
    try:
        if state.start_time(pid) == start_time:
            return descriptor
    except (FileNotFoundError, ProcessLookupError, ValueError):
        pass  # it has ended: not the one, or no longer
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return -1


def _info(descriptor: int, mask: int) -> tuple[int, int]:
    """(mask of what was given, wait status); OSError."""
    buffer = bytearray(_SIZE)
    struct.pack_into("Q", buffer, 0, mask)
    fcntl.ioctl(descriptor, _PIDFD_GET_INFO, buffer)
    return struct.unpack_from("Q", buffer, 0)[0], struct.unpack_from("i", buffer, _EXIT_CODE)[0]


def tells_exits() -> bool:
    """Whether this kernel gives the exit of a process to whoever holds its pidfd."""
    own = os.pidfd_open(os.getpid())
    try:
        _info(own, _PIDFD_INFO_EXIT)
    except OSError as err:
        return err.errno not in (errno.ENOTTY, errno.EINVAL)
    finally:
        os.close(own)
    return release(os.uname().release) >= (6, 15)


def exit_of(descriptor: int) -> dict[str, object] | None:
    """How the process ended, as the exit of state.json; None where the kernel does not tell, or not yet.

    It tells from the moment on when the process was reaped, which poll(2) shows as POLLHUP.
    """
    try:
        given, status = _info(descriptor, _PIDFD_INFO_EXIT)
    except OSError:
        return None
    if not given & _PIDFD_INFO_EXIT:
        return None
    if os.WIFSIGNALED(status):
        return {"code": None, "signal": os.WTERMSIG(status), "cause": "signalled"}
    return {"code": os.WEXITSTATUS(status), "signal": None, "cause": "exited"}
