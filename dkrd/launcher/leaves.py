"""The cgroups that guardians are born in: PARENT/u<uid>/<id>/shim on cgroup v2 (runtime/cgroup_tree.py).

Born there they are never in the daemon's own cgroup: systemd could not start a service again in a cgroup below which
others are at work, and their memory would count as the daemon's. Being moved there would cost a lock of the whole
machine. A guardian cannot remove the leaf that it is in: the launcher does when it has ended.

On v1 and hybrid hosts a guardian stays where the launcher is.
"""

from __future__ import annotations

import contextlib
import os

from common.errors import DkrError, HostUnfit
from dkrd.launcher.containers import is_id
from dkrd.runtime import cgroup_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dkrd.launcher.containers import Containers
    from dkrd.log import Log
    from dkrd.runtime.cgroups import Layout

_SYSTEMD = "/run/systemd/system"  # sd_booted(3)


class Leaves:
    """Makes and removes the leaves below the cgroup PARENT of the settings."""

    def __init__(self, layout: Layout, parent: str) -> None:
        self._own = not parent.startswith("/")
        self._parent = f"{layout.unified}/{parent.strip('/')}" if layout.kind == "v2" else None

    @property
    def are_there(self) -> bool:
        """Whether guardians are born in one."""
        return self._parent is not None

    def prepare(self, log: Log) -> None:
        """Make PARENT ready, and tell of it. Where it cannot be, the daemon serves, and each start is refused with
        the cause.
        """
        if self._parent is None:
            return
        try:
            controllers = cgroup_tree.prepare(self._parent, own=self._own)
        except (OSError, DkrError) as err:
            cause, hint = (err.message, err.hint) if isinstance(err, DkrError) else (str(err), None)
            log.warning("there is no cgroup for containers", path=self._parent, cause=cause, hint=hint)
            return
        log.info("cgroup for containers", path=self._parent, controllers=sorted(controllers))
        missing = sorted(cgroup_tree.CONTROLLERS - controllers)
        if missing:
            log.warning("containers go without these controllers", controllers=missing)
        if not self._own and os.path.isdir(_SYSTEMD) and not _is_delegated(self._parent):
            log.warning(
                "systemd has not delegated this cgroup: give its unit Delegate=yes", path=self._parent
            )

    def make(self, uid: int, container_id: str) -> int:
        """Make the leaf of a guardian to be: its descriptor, -1 where guardians are in none. Raises DkrError."""
        if self._parent is None:
            return -1
        try:
            names = (cgroup_tree.group_of(uid), container_id)
            path = cgroup_tree.make_leaf(self._parent, names, cgroup_tree.SHIM, own=self._own)
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as err:
            self.remove(uid, container_id)
            raise HostUnfit(
                f"cannot make the cgroup of a container: {err.filename}: {err.strerror}",
                hint="look at cgroup.max.descendants of the cgroups above it",
                step="cgroup",
                errno=err.errno,
            ) from err

    def remove(self, uid: int, container_id: str) -> None:
        """Remove what is left of a container's cgroups, as far as nobody is in them."""
        if self._parent is not None and uid >= 0:
            group = f"{self._parent}/{cgroup_tree.group_of(uid)}"
            cgroup_tree.prune(f"{group}/{container_id}/{cgroup_tree.LEAF}")

    def sweep(self, standing: Containers) -> None:
        """Remove what guardians left that ended while no launcher was there; `standing`: ids to leave alone."""
        if self._parent is None:
            return
        for group in filter(cgroup_tree.is_group, _names(self._parent)):
            for name in filter(is_id, _names(f"{self._parent}/{group}")):
                if name not in standing:
                    _sweep(f"{self._parent}/{group}/{name}")


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:  # a user's directory goes with the guardian that leaves it last
        return []


def _sweep(path: str) -> None:
    try:
        os.rmdir(f"{path}/{cgroup_tree.SHIM}")
    except FileNotFoundError:
        pass
    except OSError:
        return  # a guardian is at work
    with contextlib.suppress(OSError):
        os.rmdir(f"{path}/{cgroup_tree.LEAF}")
    cgroup_tree.prune(f"{path}/{cgroup_tree.LEAF}")


def _is_delegated(path: str) -> bool:
    """Whether systemd says that it leaves the tree below `path` alone; systemd's CGROUP_DELEGATION.md."""
    try:
        return os.getxattr(path, "trusted.delegate") == b"1"
    except OSError:
        return False
