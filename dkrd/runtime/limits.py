"""A container's bounds: `linux.resources` of the OCI runtime spec, and the files of cgroup v1 and v2 that hold them; cgroups(7).

First a list of what is written where, then it is written, before anybody is in the cgroup. A bound only takes away: those of the
cgroups above hold as well, whatever stands here.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import HostUnfit, StartFailed
from common.oci import CPU_PERIOD, MAX_CPUS, MAX_MEMORY, MAX_PIDS, MIN_MEMORY
from dkrd.runtime import cgroup_tree
from dkrd.runtime.document import refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkrd.runtime.cgroups import Layout
    from dkrd.runtime.document import Reader

UNLIMITED = -1
MIN_QUOTA = 1000  # microseconds: min_cfs_quota_period in kernel/sched/core.c
PERIODS = 1000, 1000000
# By what the limits are called in a request: which controller sets one, and how people say it.
CONTROLLERS = {"memory": "memory", "swap": "memory", "cpus": "cpu", "pidsLimit": "pids"}
_WHAT = {"memory": "memory", "swap": "swap", "cpus": "processor time", "pidsLimit": "the number of processes"}
_SWAP_FILES = ("memory.swap.max", "memory.memsw.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Resources:
    """linux.resources. None: nothing is said; UNLIMITED: outright no bound, of swap and pids; of memory and quota where one is taken
    away.

    memory   bytes
    swap     bytes of memory and swap together
    quota    microseconds of processor time in each period
    period   microseconds
    pids     processes and threads
    unasked  names of limits that nobody asked for: where the host cannot set them, they are left out
    """

    memory: int | None = None
    swap: int | None = None
    quota: int | None = None
    period: int | None = None
    pids: int | None = None
    unasked: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Write:
    """One file, and what is written to it.

    key      the limit that it belongs to, as the request calls it
    unasked  nobody asked for this one
    """

    path: str
    text: str
    key: str
    unasked: bool = False


def read(reader: Reader) -> Resources:
    """The resources of the spec's object. Raises BadRequest with the path of what does not fit."""
    memory = swap = quota = period = pids = None
    if reader.has("memory"):
        part = reader.child("memory")
        memory = part.integer("limit", MIN_MEMORY, MAX_MEMORY)
        if part.has("swap"):
            swap = part.integer("swap", UNLIMITED, 2 * MAX_MEMORY)
            if UNLIMITED < swap < memory:
                refuse(part.where("swap"), "is of memory and swap together, and less than the memory")
        part.done()
    if reader.has("cpu"):
        part = reader.child("cpu")
        period = part.integer("period", *PERIODS)
        quota = part.integer("quota", MIN_QUOTA, MAX_CPUS * PERIODS[1])
        part.done()
    if reader.has("pids"):
        part = reader.child("pids")
        pids = part.integer("limit", UNLIMITED, MAX_PIDS)
        if pids == 0:
            refuse(part.where("limit"), f"is 0, with which nothing runs; {UNLIMITED} is no bound")
        part.done()
    reader.done()
    return Resources(memory, swap, quota, period, pids)


def plan(
    layout: Layout,
    paths: tuple[str, ...],
    wanted: Resources,
    there: frozenset[str] | None = None,
    *,
    lifts: bool = False,
) -> tuple[Write, ...]:
    """What is written for `wanted` into the cgroup whose directories `paths` are (cgroups.places), in this order.

    there  the controllers that containers have on cgroup v2; without, that turns out by the writing
    lifts  there may be bounds already: outright no bound is written too

    Raises HostUnfit where a controller is missing.
    """
    found: list[Write] = []
    for key, files in _files(wanted, v2=layout.kind == "v2", lifts=lifts):
        directory = _directory(layout, paths, CONTROLLERS[key], there)
        if directory is not None:
            found += [Write(f"{directory}/{n}", text, key, key in wanted.unasked) for n, text in files]
        elif key not in wanted.unasked:
            raise missing(key, v2=layout.kind == "v2")
    return tuple(found)


def _directory(
    layout: Layout, paths: tuple[str, ...], controller: str, there: frozenset[str] | None
) -> str | None:
    """Where the controller's files are; None where there is none."""
    if layout.kind == "v2":
        return paths[0] if there is None or controller in there else None
    mount_point = dict(layout.controllers).get(controller)
    return next((p for p in paths if mount_point is not None and p.startswith(f"{mount_point}/")), None)


def _files(wanted: Resources, *, v2: bool, lifts: bool) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """For each limit that is one its name, and the names of its files with what belongs in them."""
    memory, swap = wanted.memory, wanted.swap
    if memory is not None:
        yield "memory", _memory(memory, v2=v2)
        # Behind the memory: of both together less than of the memory alone is refused by v1.
        if swap is not None and (lifts or swap != UNLIMITED):
            bound = swap != UNLIMITED
            yield (
                "swap",
                (
                    ("memory.swap.max", f"{swap - memory}" if bound else "max")
                    if v2
                    else ("memory.memsw.limit_in_bytes", f"{swap}"),
                ),
            )
    if wanted.quota is not None:
        yield "cpus", _cpus(wanted.quota, wanted.period or CPU_PERIOD, v2=v2)
    if wanted.pids is not None and (lifts or wanted.pids != UNLIMITED):
        yield "pidsLimit", (("pids.max", "max" if wanted.pids == UNLIMITED else f"{wanted.pids}"),)


def _memory(memory: int, *, v2: bool) -> tuple[tuple[str, str], ...]:
    unbounded = memory == UNLIMITED
    if not v2:
        return (("memory.limit_in_bytes", f"{memory}"),)
    # A container that has lost one of its processes is of no use to anybody: all or none of them.
    return (
        ("memory.max", "max" if unbounded else f"{memory}"),
        ("memory.oom.group", "0" if unbounded else "1"),
    )


def _cpus(quota: int, period: int, *, v2: bool) -> tuple[tuple[str, str], ...]:
    if v2:
        return (("cpu.max", f"{'max' if quota == UNLIMITED else quota} {period}"),)
    return (("cpu.cfs_period_us", f"{period}"), ("cpu.cfs_quota_us", f"{quota}"))


def apply(writes: tuple[Write, ...], *, v2: bool) -> tuple[str, ...]:
    """Write them. Returns the files that are not there, of limits that nobody asked for.

    Raises HostUnfit where one is not there that somebody did ask for, StartFailed where the kernel does not take it.
    """
    lacking = []
    for write in writes:
        try:
            cgroup_tree.write(write.path, write.text)
        except FileNotFoundError:
            if not write.unasked:
                raise missing(write.key, v2=v2) from None
            lacking.append(write.path)
        except OSError as err:
            raise StartFailed(
                f"cannot limit {_WHAT[write.key]}: {write.path}: {os.strerror(err.errno or 0).lower()}",
                step="limits",
                errno=err.errno,
                hint=_ABOVE if (write.key, err.errno) == ("cpus", errno.EINVAL) else None,
            ) from err
    return tuple(lacking)


_ABOVE = "on cgroup v1 it cannot be more than the cgroup above has: look at its cpu.cfs_quota_us"


def missing(key: str, *, v2: bool) -> HostUnfit:
    """Why a limit cannot be had: the limit by its name in a request."""
    controller = CONTROLLERS[key]
    if key == "swap":
        cause, hint = "this kernel does not count it", "boot with swapaccount=1, or leave the option away"
    else:
        cause = f"containers have no cgroup controller {controller} on this host"
        hint = (
            f"enable it for them: Delegate=yes in dkr-containers.service; {controller} must stand in /sys/fs/cgroup/cgroup.controllers"
            if v2
            else f"mount -t cgroup -o {controller} cgroup /sys/fs/cgroup/{controller}, then restart dkrd; or boot with cgroup v2 alone"
        )
    return HostUnfit(
        f"cannot limit {_WHAT[key]}: {cause}",
        step="limits",
        hint=hint,
        fields=({"path": key, "message": "cannot be had on this host"},),
    )
