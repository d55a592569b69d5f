"""One container's things on the host: made here in an order that can be undone, given to the runtime to
build.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from common import frames, oci
from common.errors import DkrError
from dkrd import ids, removal
from dkrd.runtime import (
    build,
    capabilities,
    cgroup_tree,
    cgroups,
    limits,
    mounting,
    mounts,
    operations,
    seccomp_bpf,
    spec,
)
from dkrd.shim import bounds, host_binds, roots, told
from dkrd.shim.state import write_file

if TYPE_CHECKING:
    from dkrd.runtime.steps import Recorder
    from dkrd.shim.config import Config
    from dkrd.shim.task import ShimTask


@functools.cache
def layout() -> cgroups.Layout:
    """The host's cgroup layout, read once."""
    return cgroups.read_layout()


def prime() -> None:
    """Learn, once and before any fork, what every start needs to know of the host; children inherit it."""
    host_binds.present()
    layout()
    capabilities.last_cap()
    build.oom_score()
    mounting.proc_names_namespace()
    operations.overlay_takes_detached()
    # A rehearsal: what is planned for nearly every container is remembered (mounts.py, lru_cache).
    rehearsal = spec.parse(oci.default_spec(["/bin/true"], [], oci.DEFAULT_HOSTNAME, ["mount", "uts"]))
    mounts.plan(rehearsal, mounts.Root("", (), True, roots.of_the_host()), 0)


@dataclass(slots=True)
class Container:
    """What stands on the host for one container.

    directory  state_dir/containers/<id>
    claim      its id range, or None with the host's user namespace
    mounts     descriptor of the running container's mount namespace, or -1
    program    its seccomp filter, once it is started: what is executed in it later has the same, whatever the daemon has by then
    """

    id: str
    directory: str
    claim: ids.Claim | None
    cgroup: cgroups.Cgroup
    mounts: int = -1
    program: bytes = b""

    def let_mounts_go(self) -> None:
        """Let the mounts of a container that has ended go: the kernel takes them down when the last descriptor closes.

        Without a descriptor of ours it does so in the dying init, before anybody hears of the end.
        """
        if self.mounts >= 0:
            os.close(self.mounts)
            self.mounts = -1

    @property
    def base(self) -> int:
        """Host id of the container's id 0."""
        return self.claim.first if self.claim else 0


def make(task: ShimTask, config: Config, owner: int, asks: frozenset[str], recorder: Recorder) -> Container:
    """Make the container's directory, id range, files and cgroup. What was made is undone where a step
    fails.
    """
    claim = lay(task, config, owner, recorder)
    with contextlib.ExitStack() as undo:
        undo.callback(unlay, task, claim)
        if not config.rm:
            # For when it has stopped. Of one that is never kept state.json tells whose it is and which ids are its own.
            keep(task, config, owner, asks, claim)
        container = enter(task, config, owner, claim, recorder)
        undo.pop_all()
    return container


def directory_of(task: ShimTask) -> str:
    """Where the container's files are."""
    return f"{task.settings.state_dir}/containers/{task.id}"


def lay(task: ShimTask, config: Config, owner: int, recorder: Recorder) -> ids.Claim | None:
    """Make the container's directory, id range and layer; the claim, if it has one. What was made is undone where a step
    fails.
    """
    settings = task.settings
    directory = directory_of(task)
    with contextlib.ExitStack() as undo:
        recorder.begin("directory", f'mkdir("{directory}", 0700)')
        os.mkdir(directory, 0o700)
        undo.callback(_remove_tree, directory)
        claim = None
        if "user" in config.spec.namespaces:
            recorder.begin("id range", partial(told.claim, task.pool.directory))
            claim = ids.claim(task.pool, owner, task.id, settings.state_dir, task.slot_hint)
            undo.callback(ids.release, task.pool, claim)
            recorder.note(f"{claim.slot} {claim.first}")
        base = claim.first if claim else 0
        recorder.begin("files", partial(told.files, directory, base, config))
        for name in ("upper", "work"):
            os.mkdir(f"{directory}/{name}", 0o755)
        os.chown(f"{directory}/upper", base, base)
        if not config.root_has_etc:
            _write_etc(f"{directory}/upper", config, base)
        undo.pop_all()
    return claim


def unlay(task: ShimTask, claim: ids.Claim | None) -> None:
    """Undo `lay`."""
    if claim is not None:
        ids.release(task.pool, claim)
    _remove_tree(directory_of(task))


def keep(task: ShimTask, config: Config, owner: int, asks: frozenset[str], claim: ids.Claim | None) -> None:
    """Write down what the container is; then whose, and what it was allowed, without which it is none."""
    write_file(f"{directory_of(task)}/config.json", frames.dumps(config.document))
    document = {"version": 1, "uid": owner, "asks": sorted(asks), "slot": claim.slot if claim else None}
    document["pids"] = config.limits.pids
    write_file(f"{directory_of(task)}/grant.json", frames.dumps(document))


def enter(
    task: ShimTask, config: Config, owner: int, claim: ids.Claim | None, recorder: Recorder
) -> Container:
    """Make the cgroup in which a container of these files runs, and bound it. Raises DkrError, OSError."""
    place = task.settings.cgroup_parent, task.id, cgroup_tree.group_of(owner)
    paths = cgroups.places(layout(), *place)
    recorder.begin("cgroup", partial(told.cgroup, layout().kind, paths))
    writes = limits.plan(layout(), paths, config.limits)
    cgroup = cgroups.create(layout(), *place)
    if writes:
        recorder.begin("limits", partial(told.limits, writes))
        try:
            recorder.note(" ".join(limits.apply(writes, v2=layout().kind == "v2")))
        except BaseException:
            cgroup.close()
            cgroups.remove(cgroup.paths, deadline=0)
            raise
    return Container(task.id, directory_of(task), claim, cgroup)


def _remove_tree(path: str) -> None:
    with contextlib.suppress(OSError):
        removal.remove_tree(path)


def _write_etc(upper: str, config: Config, base: int) -> None:
    """hostname, hosts and resolv.conf, as every engine gives them; laid in the upper layer before anybody
    runs inside.
    """
    files = oci.etc_files(config.spec.hostname or os.uname().nodename)
    if "network" not in config.spec.namespaces:
        files |= {name: _host_file(f"/etc/{name}") for name in ("hosts", "resolv.conf")}
    etc = f"{upper}/etc"
    os.mkdir(etc, 0o755)
    os.chown(etc, base, base)
    for name, text in files.items():
        fd = os.open(f"{etc}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, text.encode("utf-8", "surrogateescape"))
            os.fchmod(fd, 0o644)
            os.fchown(fd, base, base)
        finally:
            os.close(fd)


def _host_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(65536)
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Passed:
    """The descriptors that the command gets, and whether there is one: as build.Task has them."""

    stdio: dict[int, int]
    tty: tuple[int, ...] = ()
    preserved: tuple[int, ...] = ()
    notify: bool = False
    rests: bool = False


def start(
    task: ShimTask,
    config: Config,
    root: mounts.Root,
    container: Container,
    passed: Passed,
    recorder: Recorder,
) -> build.Built:
    """Build the container and execute its command, unless that rests. Raises DkrError."""
    recorder.begin("plan", partial(told.plan, task.seccomp))
    container.program = seccomp_bpf.read_program(task.seccomp)
    plan = mounts.plan(config.spec, root, container.base)
    recorder.note(str(len(plan)))
    what = build.Task(
        spec=config.spec,
        plan=plan,
        directory=container.directory,
        base=container.base,
        cgroup=container.cgroup,
        deadline=time.monotonic() + task.settings.start_seconds,
        user=config.user,
        reaper=config.init,
        stdio=passed.stdio,
        tty=passed.tty,
        preserved=passed.preserved,
        program=container.program,
        last_cap=capabilities.last_cap(),
        tree=root.tree,
        notify=passed.notify,
        rests=passed.rests,
    )
    try:
        return build.build(what, recorder)
    except DkrError as err:
        raise bounds.cause_of(err, container) from None
