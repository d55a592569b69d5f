"""New bounds for a container that stands: what bounds it now, and what is kept for its next start. All of it, or nothing.

judged ─► its cgroup (if it runs) ─► config.json ─► grant.json
             ▲                          │ cannot be written
             └── as it was before ──────┘
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common import bundle, frames
from common.errors import BadRequest, Conflict, LimitReached, NotFound, StartFailed
from dkrd import policy
from dkrd.runtime import cgroup_tree, cgroups, limits, usage
from dkrd.runtime.document import Reader
from dkrd.shim import bounds, cleanup
from dkrd.shim import config as configs
from dkrd.shim.container import layout
from dkrd.shim.state import write_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkrd.policy import Caller
    from dkrd.runtime.limits import Resources
    from dkrd.settings import Settings
    from dkrd.shim.called import Called
    from dkrd.shim.config import Config
    from dkrd.shim.matter import Matter
    from dkrd.shim.task import ShimTask

_KEYS = frozenset(limits.CONTROLLERS)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What bounds a container.

    asked  what was asked for, as linux.resources of its spec
    pids   how many processes it was given; None or below 0: no bound
    """

    asked: Resources
    pids: int | None

    def told(self) -> dict[str, object]:
        """As the state tells them."""
        return bounds.told(bounds.whole(self.asked, self.pids))


@dataclass(frozen=True, slots=True)
class Change:
    """From what was to what is to be. `resources`: the new linux.resources; `differs`: the bounds that were named."""

    new: Bounds
    resources: dict[str, object]
    differs: Resources


class Bounding:
    """Of a container that runs. `directory`: where its files are, if it is kept."""

    def __init__(
        self, task: ShimTask, directory: str, config: Config, paths: tuple[str, ...], name: Called
    ) -> None:
        self._task = task
        self._directory = directory
        self._paths = paths
        self._name = name
        self._bounds = Bounds(config.spec.resources, config.limits.pids)

    def take(self, body: dict[str, object], who: Caller) -> dict[str, object]:
        """Bound it by these keys of a request; what bounds it then, for the state. Raises DkrError; then all is as it was."""
        change = _change(self._bounds, body, who, self._task.settings)
        memory, used = change.differs.memory, usage.measure(self._paths).memory
        if memory is not None and used is not None and limits.UNLIMITED < memory < used:
            raise Conflict(
                f"cannot bound the memory of {self._name} to {memory} bytes: it uses {used}",
                rule="memory-in-use",
                hint="the kernel would end it for that",
            )
        writes = limits.plan(layout(), self._paths, change.differs, lifts=True)
        before = self._bounds.asked.memory
        if memory is not None and (memory == limits.UNLIMITED or memory > (before or memory)):
            # v1 wants the bound of both together above that of the memory alone at each moment.
            writes = tuple(reversed(writes))
        with contextlib.ExitStack() as undo:
            undo.callback(_restore, [(write.path, cgroup_tree.read(write.path)) for write in writes])
            try:
                limits.apply(writes, v2=layout().kind == "v2")
            except StartFailed as err:
                raise Conflict(err.message, hint=err.hint, step=err.step, errno=err.errno) from err
            with _written_down(self._directory, change):
                undo.pop_all()
        self._bounds = change.new
        self._task.log.audit("updated", id=self._task.id, uid=who.uid, **body)
        return change.new.told()


@contextlib.contextmanager
def bounded_kept(matter: Matter, body: dict[str, object]) -> Iterator[dict[str, object]]:
    """The same for one that does not run, and is nobody else's meanwhile; if the block fails, all is as it was. Raises NotFound for
    another's.
    """
    settings, asker, directory = matter.settings, matter.asker(), matter.directory
    if asker.owner is None:
        raise NotFound(f"cannot find {matter.short}: there is no such container")
    who = policy.Caller(asker.owner, matter.credentials.gid, asker.admin)
    grant = cleanup.document(f"{directory}/grant.json")
    config = configs.read(f"{directory}/config.json")
    pids = grant.get("pids", settings.pids_per_container)
    before = Bounds(config.spec.resources, pids if isinstance(pids, int) else None)
    change = _change(before, body, who, settings)
    # What the host cannot do is refused now, not at the next start.
    group = cgroup_tree.group_of(asker.owner)
    places = cgroups.places(layout(), settings.cgroup_parent, matter.id, group)
    there = cgroups.controllers(layout(), settings.cgroup_parent)
    limits.plan(layout(), places, change.differs, there, lifts=True)
    with _written_down(directory, change):
        yield change.new.told()


def _change(before: Bounds, named: dict[str, object], who: Caller, settings: Settings) -> Change:
    """What is to be. Raises BadRequest, NotPermitted."""
    if not named or not _KEYS.issuperset(named):
        raise BadRequest(
            f"cannot read the ask: update has some of {', '.join(sorted(_KEYS))}, and no further keys"
        )
    lifted = _lifted(before.asked, named)
    wanted = {**bounds.request_of(before.asked), **named}
    wanted = {key: value for key, value in wanted.items() if key not in lifted}
    try:
        resources = bundle.resources(wanted)
    except TypeError as err:
        raise BadRequest(f"cannot read the ask: {err}") from None
    asked = limits.read(Reader(resources, "resources"))
    pids = before.pids
    if "pidsLimit" in named:
        pids = _judged(who, asked.pids, before.pids, settings)
    whole = bounds.whole(asked, pids)
    memory, swap = (whole.memory, whole.swap) if {"memory", "swap"} & named.keys() else (None, None)
    if "memory" in lifted:
        memory = swap = limits.UNLIMITED
    differs = limits.Resources(
        memory=memory,
        swap=swap,
        quota=limits.UNLIMITED if "cpus" in lifted else whole.quota if "cpus" in named else None,
        period=whole.period if "cpus" in named else None,
        pids=whole.pids if "pidsLimit" in named else None,
        # Where the host has no files for one that is taken away there was none.
        unasked=(whole.unasked & {"swap"}) | lifted,
    )
    return Change(Bounds(asked, pids), resources, differs)


def _lifted(asked: Resources, named: dict[str, object]) -> frozenset[str]:
    """The bounds that are to be none, besides that of processes, which is somebody's to judge. Without one of memory there is none of
    swap, which lies beside it. Raises Conflict where one is wanted.
    """
    lifted = {key for key in ("memory", "cpus") if named.get(key) == limits.UNLIMITED}
    if "memory" in lifted or (asked.memory is None and "memory" not in named):
        if named.get("swap", limits.UNLIMITED) != limits.UNLIMITED:
            raise Conflict(
                "cannot bound swap: the memory is not bounded, beside which it would be",
                rule="swap",
                hint="bound the memory as well",
            )
        lifted.add("swap")
    return frozenset(lifted)


def _judged(who: Caller, wanted: int | None, given: int | None, settings: Settings) -> int | None:
    """How many processes it may have. Whoever's it is may take away; more than it has is judged as a request over plain HTTP."""
    unbounded = given is None or given < 0
    if wanted is not None and (unbounded or (given is not None and 0 <= wanted <= given)):
        return wanted
    return policy.bound_pids(who, wanted, settings.pids_per_container, proven=settings.http_lifts)


def _restore(before: list[tuple[str, str | None]]) -> None:
    for path, text in reversed(before):
        if text is not None:
            with contextlib.suppress(OSError):
                cgroup_tree.write(path, text)


@contextlib.contextmanager
def _written_down(directory: str, change: Change) -> Iterator[None]:
    """For its next start, where it is kept; if the block fails, as it was. Raises LimitReached."""
    document = cleanup.document(f"{directory}/config.json")
    spec = document.get("spec")
    if not isinstance(spec, dict):
        yield  # of a run with `rm`
        return
    linux = {**spec["linux"], "resources": change.resources}
    grant = cleanup.document(f"{directory}/grant.json")
    with contextlib.ExitStack() as undo:
        try:
            _exchange(f"{directory}/config.json", {**document, "spec": {**spec, "linux": linux}})
            undo.callback(_put_back, f"{directory}/config.json", document)
            _exchange(f"{directory}/grant.json", {**grant, "pids": change.new.pids})
            undo.callback(_put_back, f"{directory}/grant.json", grant)
        except OSError as err:
            raise LimitReached(
                f"cannot write down the new bounds: {err.strerror}",
                hint="make room on the disk",
                errno=err.errno,
            ) from err
        yield
        undo.pop_all()


def _put_back(path: str, document: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        _exchange(path, document)


def _exchange(path: str, document: dict[str, object]) -> None:
    write_file(path, frames.dumps(document))
