"""The end of a container on the host: everything of it goes, in an order that can be cut off anywhere and
begun again.

    cgroups ─► the container's directory ─► its id range ─► its run directory

The id range is freed after the directory whose files carry its ids; the run directory, by which a restarted
launcher finds what is left to do, goes last. Used by the guardian itself, and by the launcher's jobs for
containers whose guardian is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common import frames, restarts
from common.clock import timestamp
from common.errors import Conflict, NotFound
from dkrd import ids, removal
from dkrd.runtime import cgroup_tree, cgroups
from dkrd.shim.container import layout
from dkrd.shim.state import start_time, write_file

if TYPE_CHECKING:
    from dkrd.policy import Credentials
    from dkrd.settings import Settings
    from dkrd.shim.matter import Matter

MAX_DOCUMENT = 8 * 1024 * 1024  # bytes
_PATIENCE = 2.0  # seconds that a removal waits for a guardian that is about to end
_HEX = frozenset("0123456789abcdef")


def check_id(container: str) -> str:
    """`container` if it is a full id, the only form that ever becomes part of a path. Raises NotFound."""
    if len(container) != 64 or not _HEX.issuperset(container):
        raise NotFound(f"cannot find the container {container[:80]!r}: that is no container id")
    return container


def remove_cgroups(paths: tuple[str, ...]) -> None:
    """Remove the cgroups, killing what a container without a pid namespace of its own has left in them."""
    if cgroups.remove(paths, deadline=0.05):
        cgroups.kill(paths)
        cgroups.remove(paths)


def remove_run_directory(directory: str) -> None:
    for name in ("shim.sock", "state.json", "state.json.new"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{directory}/{name}")
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(directory)


def remove_all(
    settings: Settings, pool: ids.Pool, container: str, claim: ids.Claim | None, paths: tuple[str, ...]
) -> None:
    """Remove what is left of a container that has ended. `claim` is its id range, locked by us, or None."""
    remove_cgroups(paths)
    # The tree's content was the container's: no link in it is followed.
    with contextlib.suppress(FileNotFoundError):
        removal.remove_tree(f"{settings.state_dir}/containers/{container}")
    if claim is not None:
        ids.release(pool, claim)
    remove_run_directory(f"{settings.run_dir}/containers/{container}")


def keep_stopped(
    settings: Settings, container: str, state: dict[str, object], paths: tuple[str, ...]
) -> None:
    """A container that has ended and is kept: its state moves beside its files; cgroup and run directory
    go.
    """
    remove_cgroups(paths)
    write_file(f"{settings.state_dir}/containers/{container}/state.json", frames.dumps(state))
    remove_run_directory(f"{settings.run_dir}/containers/{container}")


def document(path: str) -> dict[str, object]:
    """A JSON object of root's own; empty where it is missing or torn."""
    try:
        with open(path, "rb") as file:
            return frames.loads_object(file.read(MAX_DOCUMENT))
    except (FileNotFoundError, ValueError):
        return {}


def read_state(settings: Settings, container: str) -> dict[str, object]:
    """The last state written for `container`, live or kept; empty where there is none."""
    for directory in (settings.run_dir, settings.state_dir):
        state = document(f"{directory}/containers/{container}/state.json")
        if state:
            return state
    return {}


def paths_of(settings: Settings, container: str, state: dict[str, object]) -> tuple[str, ...]:
    """Its cgroups: as written down, or those it would have where its guardian died before it wrote."""
    paths = state.get("cgroup")
    if isinstance(paths, list) and paths:
        return tuple(p for p in paths if isinstance(p, str))
    host = layout()
    if host.kind == "v2":
        found = cgroup_tree.find(f"{host.unified}/{settings.cgroup_parent.strip('/')}", container)
        return tuple(f"{path}/{cgroup_tree.LEAF}" for path in found)
    return cgroups.places(host, settings.cgroup_parent, container)


def _known(settings: Settings, container: str) -> dict[str, object]:
    """Whose `container` is (`uid`) and which range of ids it has (`slot`): its grant says it, or, of one that is not kept, its
    state; empty where it has neither.
    """
    grant = document(f"{settings.state_dir}/containers/{container}/grant.json")
    return grant or read_state(settings, container)


def _adopt(pool: ids.Pool, settings: Settings, container: str) -> ids.Claim | None:
    """The container's claim, if it has one; Conflict where its guardian still holds it."""
    known = _known(settings, container)
    slot = known.get("slot") if known else _slot_of(pool, container)
    if not isinstance(slot, int):
        return None
    try:
        return ids.adopt(pool, slot)
    except NotFound:
        return None


def _adopt_soon(settings: Settings, pool: ids.Pool, container: str) -> ids.Claim | None:
    """As `_adopt`, but waits for who is about to let go of the lock."""
    ends = time.monotonic() + _PATIENCE
    while True:
        try:
            return _adopt(pool, settings, container)
        except Conflict:
            if time.monotonic() >= ends:
                raise
        time.sleep(0.005)


def _slot_of(pool: ids.Pool, container: str) -> int | None:
    """The slot that was claimed for a container whose guardian died before it wrote down which. What it may have left if it died
    while it claimed one is removed.
    """
    for name in filter(str.isdecimal, os.listdir(pool.directory)):
        record = document(f"{pool.directory}/{name}")
        if record.get("id") == container:
            return int(name)
        if not record:
            ids.drop_unfinished(pool, int(name))
    return None


def cut_off(settings: Settings, container: str) -> dict[str, object]:
    """The state of a container that a power cut ended and that is to be kept; empty for any other.

    Its run directory, and with it its state, was lost with the machine's memory; a guardian removes that
    directory only after everything else.
    """
    directory = f"{settings.state_dir}/containers/{container}"
    if os.path.lexists(f"{settings.run_dir}/containers/{container}"):
        return {}
    dkr = document(f"{directory}/config.json").get("dkr")
    grant = document(f"{directory}/grant.json")
    if not isinstance(dkr, dict) or dkr.get("rm") is not False or not grant:
        return {}
    return {
        **dict.fromkeys(("pid", "pidStartTime", "shimPid", "shimStartTime"), 0),
        **dict.fromkeys(("started", "finished", "exit")),
        "version": 1,
        "id": container,
        "name": dkr.get("name"),
        "uid": grant.get("uid"),
        "status": "running",
        "slot": grant.get("slot"),
        "cgroup": [],
        "rm": False,
        "created": timestamp(os.stat(f"{directory}/config.json").st_mtime_ns),
        **({"restart": dkr["restart"], "restarts": 0} if "restart" in dkr else {}),
    }


def collect(
    settings: Settings, pool: ids.Pool, container: str, exit_: dict[str, object]
) -> dict[str, object] | None:
    """Finish a container whose guardian died, after its init has ended with `exit_`: remove it, or keep it
    as stopped.

    Returns the state of one that is kept, None for one that is gone. Raises DkrError, OSError.
    """
    check_id(container)
    state = read_state(settings, container)
    lost = not state
    state = state or cut_off(settings, container)
    if state.get("status") == "created" and document(
        f"{settings.state_dir}/containers/{container}/grant.json"
    ):
        # Its start did not get far enough to be one.
        remove_cgroups(paths_of(settings, container, state))
        remove_run_directory(f"{settings.run_dir}/containers/{container}")
        return state
    kept = not state.get("rm", True) and state.get("status") in ("running", "paused", "restarting", "stopped")
    if not kept or not os.path.isdir(f"{settings.state_dir}/containers/{container}"):
        paths = paths_of(settings, container, state)
        remove_cgroups(
            paths
        )  # a build that its guardian's death cut off holds the claim's lock until it ends
        remove_all(settings, pool, container, _adopt_soon(settings, pool, container), paths)
        return None
    if lost:
        state = restarts.cut_off(state, exit_)
    elif state.get("status") not in ("restarting", "stopped"):
        state = restarts.ended(state, exit_, settings.restart_first_seconds, settings.restart_max_seconds)
    keep_stopped(settings, container, state, paths_of(settings, container, state))
    return state


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for something: the uid they count for (None: nobody), and whether they are an admin."""

    owner: int | None
    admin: bool

    def may_touch(self, uid: object) -> bool:
        """Whether a container of `uid` is theirs."""
        return self.owner is not None and (self.admin or uid == self.owner)


def asker(pool: ids.Pool, credentials: Credentials, admin_gid: int | None) -> Asker:
    """Whose these credentials are."""
    owner = ids.owner_of(credentials.uid, pool, ids.read_subids())
    admin = owner == 0 or (admin_gid is not None and admin_gid in (credentials.gid, *credentials.groups))
    return Asker(owner, admin)


def is_theirs(settings: Settings, container: str, who: Asker) -> bool:
    """Whether `container`, an id, stands and is theirs who ask, or they are admins."""
    known = _known(settings, container)
    return bool(known) and who.may_touch(known.get("uid"))


def remove(matter: Matter) -> None:
    """`rm` of a stopped container on behalf of who asks; another's container is not found. Raises DkrError."""
    settings, pool, container = matter.settings, matter.pool, matter.id
    matter.check_owner()
    claim = take_over(settings, pool, container, "remove")
    # What copies has ended by then, and nobody else asks for it here.
    os.close(take_alone(settings, container, "remove"))
    state = read_state(settings, container)
    remove_all(settings, pool, container, claim, paths_of(settings, container, state))


def lives(state: dict[str, object]) -> bool:
    """Whether the container of this state runs."""
    return state.get("status") != "stopped" and _lives(state, "pid", "pidStartTime")


def _lives(state: dict[str, object], pid: str, begun: str) -> bool:
    """Whether the process lives that `state` names by these two keys."""
    number = state.get(pid)
    try:
        return isinstance(number, int) and start_time(number) == state.get(begun)
    except OSError:
        return False


def take_over(settings: Settings, pool: ids.Pool, container: str, verb: str) -> ids.Claim | None:
    """The claim of a stopped container, to `verb` it. A client hears of the end before its guardian has cleaned up: that is
    waited for.

    Raises Conflict where the container has not stopped.
    """
    ends = time.monotonic() + _PATIENCE
    while os.path.isdir(f"{settings.run_dir}/containers/{container}"):
        state = read_state(settings, container)
        # A full disk may have kept the last status from being written.
        if lives(state):
            raise Conflict(
                f"cannot {verb} {container[:12]}: it is running",
                hint="stop it first, or use force: dkrctl rm -f",
            )
        if time.monotonic() >= ends:
            if not _lives(state, "shimPid", "shimStartTime"):
                break  # dead, and the launcher could not finish its work: a full disk
            raise Conflict(f"cannot {verb} {container[:12]}: its guardian is still at work", hint="try again")
        time.sleep(0.005)
    return _adopt_soon(settings, pool, container)


def take_alone(settings: Settings, container: str, verb: str) -> int:
    """A container that does not run to `verb` it, as nobody else's who mounts its files: the descriptor that locks it. What a porter
    (porter.py) has left that was killed is removed.

    Raises NotFound where it is gone, Conflict where somebody has it and does not let go of it in time.
    """
    path = f"{settings.state_dir}/containers/{container}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"cannot find {container[:12]}: there is no such container") from None
    try:
        _lock(fd, f"cannot {verb} {container[:12]}")
        close_door(settings, container, verb)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock(fd: int, what: str) -> None:
    ends = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends:
                raise _mounted(what) from None
        else:
            return
        time.sleep(0.005)


def _mounted(what: str) -> Conflict:
    return Conflict(f"{what}: its files are still mounted", rule="mounted", hint="try again")


def close_door(settings: Settings, container: str, verb: str) -> None:
    """Remove what holds a container open for copies: its processes, its cgroup, its run directory. For who has it alone. Raises Conflict
    where one of those cannot be ended.
    """
    directory = f"{settings.run_dir}/copies/{container}"
    if not os.path.lexists(directory):
        return
    paths = paths_of(settings, container, {})
    if cgroups.remove(paths, deadline=0.05):
        cgroups.kill(paths)
        if cgroups.remove(paths):
            raise _mounted(f"cannot {verb} {container[:12]}")
    remove_run_directory(directory)
