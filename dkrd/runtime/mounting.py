"""Who fills the container's mount namespace M: the guardian itself, or a helper where the kernel wants one.

Both are host root in M, join init's net and ipc namespaces, and carry out the same plan. A proc filesystem shows the pid
namespace of whoever mounts it, so before Linux 6.18 that must be a process born in there: the helper. Since 6.18 the
namespace can be named (fsconfig "pidns"), and the guardian does it without another fork, a quarter of a start.

While it works in M the guardian opens nothing by name but what root's own code names, and afterwards it is back in the host's
namespaces with the host's root.
"""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from common.errors import Internal
from dkrd.runtime import errands, failure, syscalls
from dkrd.runtime.operations import MountFilesystem, PivotRoot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dkrd.runtime.operations import Operation, Stage
    from dkrd.runtime.steps import Log, Steps

_AWAIT = 'recvfrom(sync) = "ready"'
_JOINED = (("network", "net", syscalls.CLONE_NEWNET), ("ipc", "ipc", syscalls.CLONE_NEWIPC))


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be mounted, where, for whom.

    plan          from mounts.plan()
    directory     the container's own on the host
    namespaces    the spec's
    pidfd         of init
    stage         what the operations share
    ready         returns when init has its net and ipc namespaces and needs the host's tree no more
    keep          descriptors that `ready` needs
    """

    plan: tuple[Operation, ...]
    directory: str
    namespaces: frozenset[str]
    pidfd: int
    stage: Stage
    ready: Callable[[], None]
    keep: tuple[int, ...] = ()


@functools.cache
def proc_names_namespace() -> bool:
    """Whether a proc mount can be told its pid namespace (Linux 6.18); asked once, by trying."""
    fs = syscalls.fsopen("proc")
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.fsconfig_fd(fs, "pidns", own)
    except OSError:
        return False
    finally:
        os.close(own)
        os.close(fs)
    return True


def fill_here(work: Work, steps: Steps) -> None:
    """Fill M in this process, which is in M. Raises OSError, DkrError."""
    umask = os.umask(0)
    stage = work.stage
    try:
        with contextlib.ExitStack() as joined:
            os.chdir(work.directory)
            waited = False
            for operation in work.plan:
                if not waited and _waits_for_init(operation):
                    steps.begin("await init", _AWAIT)
                    work.ready()
                    steps.begin("join", partial(_describe_join, work))
                    joined.enter_context(_joined(work))
                    waited = True
                steps.begin(operation.step, partial(operation.describe, stage))
                operation.execute(stage)
                if stage.note:
                    steps.note(stage.note)
                    stage.note = ""
    finally:
        os.umask(umask)
        stage.close()


def _waits_for_init(operation: Operation) -> bool:
    """Whether init must have its namespaces before `operation`, or be done with the host's tree."""
    if isinstance(operation, MountFilesystem):
        return operation.type in ("mqueue", "sysfs")
    return isinstance(operation, PivotRoot)


def _describe_join(work: Work, note: str) -> str:
    joined = "|".join(f"CLONE_NEW{file.upper()}" for name, file, _ in _JOINED if name in work.namespaces)
    return f"setns(pidfd, {joined})" if joined else "nothing to join: both are the host's"


@contextlib.contextmanager
def _joined(work: Work) -> Iterator[None]:
    """Init's net and ipc namespaces for the block, then our own again."""
    own: list[tuple[int, int]] = []
    try:
        join = 0
        for name, file, flag in _JOINED:
            if name in work.namespaces:
                own.append((os.open(f"/proc/self/ns/{file}", os.O_RDONLY | os.O_CLOEXEC), flag))
                join |= flag
        if join:
            syscalls.setns(work.pidfd, join)
        try:
            yield
        finally:
            for fd, flag in own:
                syscalls.setns(fd, flag)
    finally:
        for fd, _ in own:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Helper:
    """A forked helper at work: its pid, its pidfd and the read end of its error pipe."""

    pid: int
    pidfd: int
    errors: int

    def join(self, read_to_end: Callable[[int], bytes]) -> None:
        """Wait for it: its error pipe to the end first (a full pipe would hold it), then its exit."""
        late = True
        try:
            data = read_to_end(self.errors)
            late = False
        finally:
            os.close(self.errors)
            status = errands.end(self.pid, self.pidfd, kill=late)
            os.close(self.pidfd)
        if data:
            raise failure.decode(data)
        if status:
            raise Internal(
                f"cannot start the container: the mounting helper ended with status {status}", step="mount"
            )


def describe(work: Work, place: int, name: str, note: str) -> str:
    """The helper's step at `place`, by its guardian, who knows the plan."""
    if name == "await init":
        return _AWAIT
    if name == "join":
        return _describe_join(work, note)
    # Those two stand before the first operation that waits.
    waiting = next(i for i, operation in enumerate(work.plan) if _waits_for_init(operation))
    return work.plan[place if place < waiting else place - 2].describe(work.stage, note)


def fill_by_helper(work: Work, log: Log) -> Helper:
    """Fork a helper into init's pid namespace to fill M, which writes its steps to `log`. Raises OSError."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        if "pid" in work.namespaces:
            syscalls.setns(work.pidfd, syscalls.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                os.close(read)
                _help(work, write, log)
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWPID)
    except OSError:
        os.close(read)
        raise
    finally:
        os.close(own)
        os.close(write)
    return Helper(pid, os.pidfd_open(pid), read)


def _help(work: Work, error: int, log: Log) -> NoReturn:
    try:
        errands.keep_only((error, work.pidfd, *work.keep, *work.stage.descriptors))
        fill_here(work, log)
    except BaseException as err:
        failure.send(error, err, log.current or "mount")
        os._exit(1)
    os._exit(0)
