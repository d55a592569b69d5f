"""What stands when the launcher starts: shims that lived on, containers whose shims died, remains."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct

from common import frames
from dkrd.launcher import pidfd, wire
from dkrd.launcher.containers import Container, Containers, is_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_STATE_MAX = 64 * 1024  # bytes of a state.json


def adopt(containers: Containers, run_dir: str, state_dir: str, *, settled: bool) -> int:
    """Guard over every container found that `containers` does not know yet; how many those were.

    settled  whether a build that began before this launcher must be over by now. Until then a directory
             that no
             socket and no state speak for may belong to a shim that has just begun, and is left alone.
    """
    found = 0
    live = set(_ids(f"{run_dir}/containers"))
    for container_id in live:
        if container_id in containers:
            continue
        container = _inspect(f"{run_dir}/containers/{container_id}", container_id)
        if container is not None:
            containers.adopt(container)
            found += 1
        elif settled:
            containers.collect_remains(container_id)
    if settled:
        for container_id in _ids(f"{state_dir}/containers"):
            known = container_id in live or container_id in containers
            # A state that a power cut has torn is none, and without a grant the making was cut off.
            directory = f"{state_dir}/containers/{container_id}"
            whole = _read_state(directory, container_id) is not None and read_grant(state_dir, container_id)
            if not known and not whole:
                containers.collect_remains(container_id)
    return found


def kept_states(containers: Containers, state_dir: str) -> Iterator[dict[str, object]]:
    """The states of those that were made and not started, or have stopped and are kept, and that `containers` does not know."""
    for container_id in _ids(f"{state_dir}/containers"):
        if container_id in containers:
            continue
        state = _read_state(f"{state_dir}/containers/{container_id}", container_id)
        if state is not None and read_grant(state_dir, container_id):
            yield state


def live_states(run_dir: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Id and last state of each container that has a run directory with a state in it; none without a run_dir."""
    ids: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        ids = _ids(f"{run_dir}/containers")
    for container_id in ids:
        state = live_state(run_dir, container_id)
        if state is not None:
            yield container_id, state


def live_state(run_dir: str, container_id: str) -> dict[str, object] | None:
    """The state in a container's run directory, or None."""
    return _read_state(f"{run_dir}/containers/{container_id}", container_id)


def read_grant(state_dir: str, container_id: str) -> dict[str, object]:
    """Whose a container is and what it was allowed; empty where there is no such container."""
    return _document(f"{state_dir}/containers/{container_id}/grant.json") or {}


def _ids(directory: str) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries if is_id(entry.name) and entry.is_dir(follow_symlinks=False)]


def _inspect(directory: str, container_id: str) -> Container | None:
    """What the container is, or None where nothing speaks for it."""
    state = _read_state(directory, container_id)
    link = connect(directory)
    shim = -1
    if state is not None:
        shim = pidfd.open_verified(state.get("shimPid"), state.get("shimStartTime"))
    if shim < 0 and link is not None:
        shim = _peer(link)
    if shim < 0 and link is not None:
        link.close()  # it ended this moment
        link = None
    if state is None and shim < 0:
        return None
    init = -1
    if state is not None and state.get("status") != "stopped":
        init = pidfd.open_verified(state.get("pid"), state.get("pidStartTime"))
    uid = state.get("uid") if state is not None else None
    owner = uid if isinstance(uid, int) else -1
    return Container(container_id, owner, shim, init=init, state=state, link=link)


def _read_state(directory: str, container_id: str) -> dict[str, object] | None:
    """The state.json of `directory`, or None where it is missing or is not that container's."""
    state = _document(f"{directory}/state.json")
    return state if state is not None and state.get("id") == container_id else None


def _document(path: str) -> dict[str, object] | None:
    """A JSON object of root's own; None where it is missing or torn."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
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
    """A pidfd of the process that listens at the other end (root's directory: it is a shim), or -1."""
    pid, uid, _ = struct.unpack("iII", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        return os.pidfd_open(pid) if uid == 0 else -1
    except OSError:
        return -1
