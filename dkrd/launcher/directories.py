"""The directories of the daemon: made with their owners and modes, and verified to be root's alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

from common.errors import Conflict, HostUnfit
from common.trusted_paths import verify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dkrd.settings import Settings

_LOCK = "dkrd.lock"


def prepare(settings: Settings, api_uid: int, api_gid: int) -> None:
    """Make what is missing and correct owner and mode of what is there; raises HostUnfit.

    Real setuid files lie below layers/ and containers/, so no user may search those; the api's directory is
    the one that is not root's.
    """
    root = (
        # Searchable, since the path to the api's directory leads through it; not listable.
        (settings.state_dir, 0o711),
        (f"{settings.state_dir}/layers", 0o700),
        (f"{settings.state_dir}/containers", 0o700),
        (f"{settings.state_dir}/seccomp", 0o755),
        (settings.ids_directory, 0o700),
        (settings.run_dir, 0o755),
        (f"{settings.run_dir}/containers", 0o700),
        (f"{settings.run_dir}/copies", 0o700),
    )
    for path, mode in root:
        _make(path, mode, 0, 0)
    _make(f"{settings.state_dir}/api", 0o700, api_uid, api_gid)
    verify(os.path.dirname(settings.socket))


def _make(path: str, mode: int, uid: int, gid: int) -> None:
    parent = os.path.dirname(path)
    try:
        os.makedirs(parent, mode=0o755, exist_ok=True)
        verify(parent)
        with contextlib.suppress(FileExistsError):  # from an earlier run; what it is shows below
            os.mkdir(path, 0o700)
        # Parents are root's alone, so between these calls nobody can put another file there.
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as err:
        raise HostUnfit(f"cannot make {path}: {err.strerror}", errno=err.errno) from err
    try:
        status = os.fstat(directory)
        if (status.st_uid, status.st_gid) != (uid, gid):
            os.fchown(directory, uid, gid)
        if stat.S_IMODE(status.st_mode) != mode:
            os.fchmod(directory, mode)
    except OSError as err:
        raise HostUnfit(f"cannot set owner and mode of {path}: {err.strerror}", errno=err.errno) from err
    finally:
        os.close(directory)


def lock(directory: str) -> int:
    """The descriptor of a lock on `directory`, held as long as the daemon lives.

    Raises Conflict, naming the other one's pid, where another dkrd uses the directory.
    """
    path = f"{directory}/{_LOCK}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise Conflict(
            f"cannot start dkrd: another one (pid {holder or 'unknown'}) uses {directory}",
            hint="stop it, or give this one its own --state-dir and --run-dir",
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
