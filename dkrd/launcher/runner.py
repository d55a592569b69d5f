"""Jobs: short-lived children of the launcher, forked for one closed piece of work that may wait or fail.

 launcher ── fork ─► job: closes all descriptors but its pipe, does the work, writes one record, os._exit()
     ▲                │
     └──── pipe ──────┘  {"value": ...} or {"error": {...}}; an end without a record is a crash

The loop reads the pipe to its end and then reaps by pidfd: the other order hangs on a full pipe.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import traceback
from collections import deque
from dataclasses import dataclass
from functools import partial

from common import errors, frames
from common.errors import DkrError, Internal, LimitReached, Unavailable
from dkrd.runtime import signals
from dkrd.runtime.syscalls import clone3, close_range, set_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from dkrd.launcher.loop import Loop
    from dkrd.loop import Timer

    Work = Callable[[], object]
    Done = Callable[[object, DkrError | None], None]

_PARALLEL = 4  # more would only make each other slower: they unmount and delete
_QUEUE_MAX = 4096
_RECORD_MAX = 512 * 1024  # bytes
_SCARCE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
)  # of the machine, and no defect
_CHUNK = 64 * 1024  # bytes read at once: a larger buffer would be memory that all shims inherit


def fork(loop: Loop, child: Callable[[], None], cgroup: int = -1) -> int:
    """Fork `child`, which runs with all signals at their default; its pid. Raises OSError.

    cgroup  descriptor of the cgroup v2 leaf that the child is born in; -1 for the parent's

    Signals are blocked over the fork, so that none meant for the child reaches the parent's pipe.
    """
    with signals.blocked():
        pid = os.fork() if cgroup < 0 else clone3(0, cgroup)
        if pid == 0:
            _run_child(loop, child)
    return pid


def _run_child(loop: Loop, child: Callable[[], None]) -> None:
    """The child's whole life: it never returns into the launcher's code."""
    status = 1
    try:
        loop.leave_in_child()
        signals.unblock_all()
        child()
        status = 0
    except SystemExit as err:
        status = err.code if isinstance(err.code, int) else 1
    except BaseException:  # nothing may climb into the parent's stack frames
        _tell_crash()
    finally:
        os._exit(status)


def _tell_crash() -> None:
    """A defect's traceback, to the log; not through sys.stderr, whose buffer the parent has as well."""
    with contextlib.suppress(OSError):
        os.write(2, traceback.format_exc().encode(errors="replace"))


def open_child(pid: int) -> int:
    """A pidfd of a child just forked. Where there is no room for one the child is ended: nobody could guard
    it. Raises OSError.
    """
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def keep_only(descriptors: Collection[int]) -> None:
    """Close every descriptor but 0, 1, 2 and `descriptors`."""
    first = 3
    for kept in sorted(fd for fd in set(descriptors) if fd >= 3):
        if kept > first:
            close_range(first, kept - 1)
        first = kept + 1
    close_range(first)


@dataclass(slots=True)
class _Job:
    name: str
    work: Work
    done: Done
    keep: tuple[int, ...] = ()
    seconds: float | None = None
    timer: Timer | None = None
    pid: int = 0
    pidfd: int = -1
    pipe: int = -1
    data: bytes = b""


class Runner:
    """Runs jobs, a few at a time, in the order in which they came."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: deque[_Job] = deque()
        self._running = 0
        self._idle: Callable[[], None] | None = None

    def when_idle(self, call: Callable[[], None]) -> None:
        """Start no more jobs, and call `call()` once those that run are done. What waits is lost: it is found
        again when the launcher starts.
        """
        self._waiting.clear()
        self._idle = call
        if not self._running:
            call()

    def submit(
        self, name: str, work: Work, done: Done, keep: tuple[int, ...] = (), seconds: float | None = None
    ) -> None:
        """Run `work()` in a child and call `done(value, error)` from the loop; value is what JSON can carry. `keep`:
        descriptors that the work needs, which stay open until then. `seconds`: so long it may take; it is killed then, and left
        where it cannot die, so that others get its turn.

        Raises LimitReached where too many wait already.
        """
        if len(self._waiting) >= _QUEUE_MAX:
            raise LimitReached(f"cannot start job {name}: {_QUEUE_MAX} wait already")
        self._waiting.append(_Job(name, work, done, keep, seconds))
        self._start_some()

    def _start_some(self) -> None:
        while self._waiting and self._running < _PARALLEL:
            job = self._waiting.popleft()
            try:
                _spawn(self._loop, job)
            except OSError as err:
                job.done(None, _cannot_fork(job.name, err))
                continue
            self._running += 1
            self._loop.watch(job.pipe, select.EPOLLIN, partial(self._read, job))
            if job.seconds is not None:
                job.timer = self._loop.later(job.seconds, partial(self._late, job))

    def _read(self, job: _Job, events: int) -> None:
        if _read_more(job):
            return
        self._close_pipe(job)
        self._loop.watch(job.pidfd, select.EPOLLIN, partial(self._reap, job))

    def _close_pipe(self, job: _Job) -> None:
        if job.pipe >= 0:
            self._loop.forget(job.pipe)
            os.close(job.pipe)
            job.pipe = -1

    def _reap(self, job: _Job, events: int) -> None:
        self._loop.forget(job.pidfd)
        if job.timer is not None:
            job.timer.cancel()
        self._over(job, *_result(job))

    def _late(self, job: _Job) -> None:
        self._close_pipe(job)
        signal.pidfd_send_signal(job.pidfd, signal.SIGKILL)
        self._loop.watch(job.pidfd, select.EPOLLIN, partial(self._bury, job))
        self._over(
            job, None, Unavailable(f"cannot finish job {job.name}: it took more than {job.seconds:g} s")
        )

    def _bury(self, job: _Job, events: int) -> None:
        self._loop.forget(job.pidfd)
        _result(job)

    def _over(self, job: _Job, value: object, error: DkrError | None) -> None:
        self._running -= 1
        job.done(value, error)
        if self._idle is None:
            self._start_some()
        elif not self._running:
            self._idle()


def run_now(loop: Loop, name: str, work: Work, seconds: float) -> object:
    """Run `work()` in a child and wait for it: for the start-up, when nobody is served yet.

    Raises the DkrError that the job raised, Unavailable where it is not done in `seconds` (then it is
    killed).
    """
    job = _Job(name, work, lambda value, error: None)
    try:
        _spawn(loop, job)
    except OSError as err:
        raise _cannot_fork(name, err) from err
    poll = select.poll()
    poll.register(job.pipe, select.POLLIN)
    late = False
    while True:
        if not late and not poll.poll(seconds * 1000):
            late = True
            signal.pidfd_send_signal(job.pidfd, signal.SIGKILL)
        if not _read_more(job):
            break
    os.close(job.pipe)
    value, error = _result(job)
    if late:
        raise Unavailable(f"cannot finish job {name}: it took more than {seconds:g} s")
    if error is not None:
        raise error
    return value


def _spawn(loop: Loop, job: _Job) -> None:
    job.pipe, write = os.pipe2(os.O_CLOEXEC)
    try:
        job.pid = fork(loop, lambda: _work(job, write))
        job.pidfd = open_child(job.pid)
    except OSError:
        os.close(job.pipe)
        raise
    finally:
        os.close(write)


def _work(job: _Job, write: int) -> None:
    """In the child: the work, then one record."""
    # The lock files' descriptors are among those closed: a job that outlives the launcher holds no lock.
    keep_only((write, *job.keep))
    set_name(f"dkr-{job.name}")
    try:
        record = frames.dumps({"value": job.work()})
    except DkrError as err:
        record = frames.dumps({"error": err.to_wire()})
    except Exception as err:
        record = frames.dumps({"error": _failure(job.name, err).to_wire()})
    os.write(write, record[:_RECORD_MAX])


def _failure(name: str, err: Exception) -> DkrError:
    """What is told of a job that failed; of a defect the traceback goes to the log."""
    if isinstance(err, OSError) and err.errno in _SCARCE:
        hint = "the machine is out of it: disk space, memory or descriptors"
        return LimitReached(f"cannot finish job {name}: {err.strerror}", hint=hint, errno=err.errno)
    _tell_crash()
    return Internal(f"cannot finish job {name}: {err!r}")


def _read_more(job: _Job) -> bool:
    """Read once from the job's pipe; False at its end."""
    data = os.read(job.pipe, _CHUNK)
    job.data = (job.data + data)[: _RECORD_MAX + 1]
    return bool(data)


def _result(job: _Job) -> tuple[object, DkrError | None]:
    """Reap the job and read its record."""
    status = os.waitid(os.P_PIDFD, job.pidfd, os.WEXITED)
    os.close(job.pidfd)
    try:
        record = frames.loads_object(job.data)
    except ValueError:
        code = status.si_status if status is not None else -1
        return None, Internal(f"cannot finish job {job.name}: it ended without a result (status {code})")
    if "error" in record:
        return None, errors.from_wire(record["error"])
    return record.get("value"), None


def _cannot_fork(name: str, err: OSError) -> LimitReached:
    return LimitReached(
        f"cannot start job {name}: {err.strerror}",
        hint="the machine is out of processes or memory",
        errno=err.errno,
    )
