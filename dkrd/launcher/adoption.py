"""What stands when the launcher starts: shims that lived on, containers whose shims died, remains."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from typing import NamedTuple

from common import frames
from dkrd.launcher import pidfd, wire
from dkrd.launcher.containers import Container, Containers, is_id
from dkrd.launcher.shims import OpenFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_STATE_MAX = 64 * 1024  # bytes of a state.json


class Adoption(NamedTuple):
    """What has come of it: how many were adopted, how many could not be looked at."""

    adopted: int
    unseen: int


def adopt(containers: Containers, run_dir: str, state_dir: str, *, settled: bool) -> Adoption:
    """Guard over every container found that `containers` does not know yet.

    settled  whether a build that began before this launcher must be over by now. Until then a directory
             that no
             socket and no state speak for may belong to a shim that has just begun, and is left alone.

    One that cannot be looked at for want of descriptors or memory is left alone too: it may run.
    """
    found = unseen = 0
    live = set(_ids(f"{run_dir}/containers"))
    for container_id in live:
        if container_id in containers:
            continue
        try:
            container = _inspect(f"{run_dir}/containers/{container_id}", container_id)
        except OSError:
            unseen += 1
            continue
        if container is not None:
            containers.adopt(container)
            found += 1
        elif settled:
            containers.collect_remains(container_id)
    kept = _ids(f"{state_dir}/containers") if settled else []
    for container_id in kept:
        if container_id in live or container_id in containers:
            continue
        try:
            # A state that a power cut has torn is none, and without a grant the making was cut off.
            directory = f"{state_dir}/containers/{container_id}"
            if _read_state(directory, container_id) is None or not read_grant(state_dir, container_id):
                containers.collect_remains(container_id)
        except OSError:
            unseen += 1
    return Adoption(found, unseen)


def kept_states(containers: Containers, state_dir: str) -> Iterator[dict[str, object]]:
    """The states of those that were made and not started, or have stopped and are kept, and that `containers` does not know."""
    for container_id in _ids(f"{state_dir}/containers"):
        if container_id in containers:
            continue
        state = None
        with contextlib.suppress(OSError):
            state = kept_state(state_dir, container_id)
        if state is not None:
            yield state


def kept_state(state_dir: str, container_id: str) -> dict[str, object] | None:
    """The state of one of them, or None. Raises OSError as `_read_state`."""
    state = _read_state(f"{state_dir}/containers/{container_id}", container_id)
    return state if state is not None and read_grant(state_dir, container_id) else None


def live_ids(run_dir: str) -> list[str]:
    """The containers that have a run directory; none without a run_dir."""
    try:
        return _ids(f"{run_dir}/containers")
    except FileNotFoundError:
        return []


def live_state(run_dir: str, container_id: str) -> dict[str, object] | None:
    """The state in a container's run directory, or None. Raises OSError as `_read_state`."""
    return _read_state(f"{run_dir}/containers/{container_id}", container_id)


def read_grant(state_dir: str, container_id: str) -> dict[str, object]:
    """Whose a container is and what it was allowed; empty where there is no such container. Raises OSError as
    `_read_state`.
    """
    return _document(f"{state_dir}/containers/{container_id}/grant.json") or {}


def _ids(directory: str) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries if is_id(entry.name) and entry.is_dir(follow_symlinks=False)]


def _inspect(directory: str, container_id: str) -> Container | None:
    """What the container is, or None where nothing speaks for it. Raises OSError where that cannot be told."""
    if OpenFiles.are_low():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))  # before half of it could be seen
    with contextlib.ExitStack() as undo:
        state = _read_state(directory, container_id) or {}
        link = connect(directory)
        shim = pidfd.open_verified(state.get("shimPid"), state.get("shimStartTime"))
        if link is not None:
            undo.callback(link.close)
            if shim < 0:
                shim = _peer(link)
        if shim >= 0:
            undo.callback(os.close, shim)
        elif not state:
            return None
        init = -1
        if state.get("status") != "stopped":
            init = pidfd.open_verified(state.get("pid"), state.get("pidStartTime"))
        if shim >= 0:
            undo.pop_all()
        else:
            link = None  # it ended this moment
    owner = state.get("uid")
    uid = owner if isinstance(owner, int) else -1
    return Container(container_id, uid, shim, init=init, state=state or None, link=link)


def _read_state(directory: str, container_id: str) -> dict[str, object] | None:
    """The state.json of `directory`, or None where it is missing or is not that container's. Raises OSError for
    want of descriptors or memory: there may be one.
    """
    state = _document(f"{directory}/state.json")
    return state if state is not None and state.get("id") == container_id else None


def _document(path: str) -> dict[str, object] | None:
    """A JSON object of root's own; None where it is missing or torn. Raises OSError as `_read_state`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as err:
        if err.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return frames.loads_object(os.read(fd, _STATE_MAX))
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def connect(directory: str) -> socket.socket | None:
    """A connection to the shim of `directory`, or None where none listens, or none can be made just now."""
    with contextlib.ExitStack() as stack:
        try:
            place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            stack.callback(os.close, place)
            flags = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            sock = socket.socket(socket.AF_UNIX, flags)
        except OSError:
            return None
        try:
            # Through the descriptor: the directory's own path may be longer than a socket's may be.
            sock.connect(f"/proc/self/fd/{place}/shim.sock")
            wire.widen(sock)
        except OSError:
            sock.close()
            return None
    return sock


def _peer(link: socket.socket) -> int:
    """A pidfd of the process that listens at the other end (root's directory: it is a shim), or -1. Raises OSError
    as pidfd.open_process.
    """
    pid, uid, _ = struct.unpack("iII", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pidfd.open_process(pid) if uid == 0 else -1
