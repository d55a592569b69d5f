"""Copies from and to a container, which runs or is held open for them (porter.py): who may have them, how many there are, and one
process inside for each.

As of an exec the client's first frame says what is wanted, past the api, and the lesser of the two credentials counts. Over plain HTTP
the frame is the api's own; so there nothing is written into a container that has anything beyond a tenant's defaults
(policy.judge_http). Reading is as logs are.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from typing import TYPE_CHECKING

from common import frames
from common.copies import TOP, Source
from common.errors import (
    BadRequest,
    Conflict,
    DkrError,
    LimitReached,
    ProtocolError,
    StartFailed,
    from_wire,
)
from common.tar import MAX_PATH
from dkrd import policy
from dkrd.runtime import capabilities, cgroups, copying, errands, failure
from dkrd.runtime.document import Reader
from dkrd.shim import callers
from dkrd.shim.awaited import Awaited
from dkrd.shim.descriptors import close_all
from dkrd.shim.exec_request import check_container
from dkrd.shim.session import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.loop import Timer
    from dkrd.policy import Credentials
    from dkrd.shim.asks import Ask
    from dkrd.shim.inside import Place
    from dkrd.shim.session import Session

MAX_COPIES = 16  # of one container, at a time
GRACE = 2.0  # seconds that a process has to end in after its client has gone, which it sees by the pipe
_KEYS = {"type", "version", "container", "copy"}
_AGAIN = 0.05  # seconds


class Copies:
    """Those of one container. `owner` has it."""

    def __init__(self, place: Place, owner: int) -> None:
        self._place = place
        self._owner = owner
        self._running: list[_Copy] = []
        self._awaited = Awaited(place.loop, place.task, f"copy from or to {place.name}", self._hear)

    def ask(self, ask: Ask) -> dict[str, object]:
        """Answer `{"type": "copy"}`: the session is on its way to the client. Raises DkrError."""
        if set(ask.body) != {"type"}:
            raise BadRequest("cannot read the ask: copy has no further keys")
        self._check_room()
        self._awaited.take(ask)
        return {}

    @property
    def are_wanted(self) -> bool:
        """Whether one is under way, or a client is about to say which it wants."""
        return bool(self._running) or self._awaited.are_there

    def end(self, error: DkrError | None = None) -> None:
        """They end by `error`; None: the container has ended."""
        error = error or self._ended()
        self._awaited.end(error)
        for copy in list(self._running):
            copy.end(error)

    def _ended(self) -> Conflict:
        return Conflict(f"cannot copy from or to {self._place.name}: it has ended", rule="ended")

    def _check_room(self) -> None:
        name = self._place.name
        if self._place.state.values["status"] == "paused":
            raise Conflict(
                f"cannot copy from or to {name}: it is paused",
                rule="paused",
                hint="dkrctl unpause lets it go on",
            )
        if len(self._running) >= MAX_COPIES:
            raise LimitReached(
                f"cannot copy from or to {name}: {MAX_COPIES} copies are under way", hint="try again"
            )
        if cgroups.is_full(self._place.container.cgroup.paths):
            raise self._full()

    def _full(self) -> LimitReached:
        return LimitReached(
            f"cannot copy from or to {self._place.name}: it has as many processes as it may have",
            hint="--pids-limit is for all that runs in it",
        )

    def _hear(self, session: Session, connection: Credentials, plain: bool) -> None:
        task, config = self._place.task, self._place.config
        descriptors: list[int] = []
        uid = connection.uid
        try:
            frame, descriptors, credentials = session.hello()
            who = callers.weigh(task, connection, connection if plain else credentials)
            uid = who.uid
            callers.check_owner(who, self._owner, task.id)
            wanted = read(frame, descriptors, task.id, self._place.name)
            if plain and not wanted.outward:
                policy.judge_http(who, config.spec, http_lifts=task.settings.http_lifts)
            self._check_room()
            copy = _Copy(self._place, session, wanted, uid, self._running.remove)
            copy.begin(descriptors[0] if descriptors else -1)
        except BlockingIOError:
            return
        except (DkrError, OSError) as err:
            self._refuse(session, uid, self._described(err))
            return
        finally:
            close_all(descriptors)
        self._awaited.admit(session)
        self._running.append(copy)
        copy.watch()

    def _described(self, err: DkrError | OSError) -> DkrError:
        if isinstance(err, DkrError):
            return err
        if isinstance(err, ProcessLookupError):
            return self._ended()
        if isinstance(err, BlockingIOError):
            return self._full()
        return failure.describe(err, "clone", copying.WHAT)

    def _refuse(self, session: Session, uid: int, error: DkrError) -> None:
        task = self._place.task
        task.log.audit(
            "not copied", id=task.id, uid=uid, code=error.code, rule=error.rule, cause=error.message
        )
        self._awaited.refuse(session, error)


class _Copy:
    """One of them, from its fork to its end."""

    def __init__(
        self, place: Place, session: Session, wanted: copying.Wanted, uid: int, gone: Callable[[_Copy], None]
    ) -> None:
        self._place = place
        self._session = session
        self._wanted = wanted
        self._uid = uid
        self._gone = gone
        self._sync: socket.socket | None = None
        self._pid = 0
        self._pidfd = -1
        self._timer: Timer | None = None
        self._last: dict[str, object] | None = None
        self._ooms = cgroups.oom_kills(place.container.cgroup.paths)

    def begin(self, data: int) -> None:
        """Fork its process. Raises OSError; what was made is undone then. `data` stays the caller's."""
        place = self._place
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            cgroup = cgroups.reopen(place.container.cgroup.paths)
            theirs.callback(cgroup.close)
            self._sync, sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self._sync.close)
            theirs.callback(sync.close)
            self._sync.setblocking(False)
            self._pid = copying.fork(
                copying.Task(
                    self._wanted,
                    data,
                    place.config.spec.process,
                    place.config.spec.namespaces,
                    place.built.pid,
                    place.built.pidfd,
                    cgroup,
                    capabilities.last_cap(),
                    sync,
                )
            )
            undo.callback(self._abandon)
            self._pidfd = os.pidfd_open(self._pid)
            undo.pop_all()

    def _abandon(self) -> None:
        """Where there is no descriptor to hold it by: nobody could guard it."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def watch(self) -> None:
        """Pass on what it says, from now on; and see whether its client is there."""
        assert self._sync is not None
        loop, task = self._place.loop, self._place.task
        loop.watch(self._sync.fileno(), select.EPOLLIN, lambda _events: self._hear())
        loop.watch(self._pidfd, select.EPOLLIN, lambda _events: self._reap())
        loop.watch(self._session.fileno(), select.EPOLLIN, lambda _events: self._look())
        direction = "out" if self._wanted.outward else "in"
        task.log.audit("copy", id=task.id, uid=self._uid, direction=direction, path=self._wanted.path)

    def _hear(self) -> None:
        while self._sync is not None:
            try:
                data = self._sync.recv(copying.MAX_RECORD)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._place.loop.forget(self._sync.fileno())
                self._sync.close()
                self._sync = None
                return
            self._said(frames.loads_object(data))

    def _said(self, record: dict[str, object]) -> None:
        if record.get("type") == "stat":
            self._session.send({"type": "copying", "stat": record.get("stat")})
        elif record.get("type") == "done":
            self._last = {"type": "copied", "notes": record.get("notes")}
        else:
            # Read and written anew: whatever it is, it is an error.
            self._last = {"type": "error", "error": from_wire(record.get("error")).to_wire()}

    def _look(self) -> None:
        """A client has nothing more to say: it is gone, or no client."""
        try:
            if self._session.next() is not None:
                self._session.close()
        except BlockingIOError:
            return
        except DkrError:
            self._session.close()
        if not self._session.open:
            self._timer = self._place.loop.later(GRACE, self._kill)

    def _kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def end(self, error: DkrError) -> None:
        """The container has ended, and this with it. Waits until it has, which may take 2 s."""
        self._kill()
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        ended.poll(errands.PATIENCE * 1000)
        self._hear()
        self._last = self._last or {"type": "error", "error": error.to_wire()}
        self._reap()
        if self._pidfd >= 0:
            self._over()  # whatever it still waits for

    def _reap(self) -> None:
        self._hear()  # what it said last comes first
        pid, _ = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            self._over()
        else:
            self._place.loop.forget(self._pidfd)
            self._timer = self._place.loop.later(_AGAIN, self._reap)

    def _over(self) -> None:
        loop = self._place.loop
        loop.forget(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        if self._timer is not None:
            self._timer.cancel()
        if self._session.open:
            loop.forget(self._session.fileno())
            self._session.send(self._last or {"type": "error", "error": self._died().to_wire()})
            self._session.close()
        self._gone(self)

    def _died(self) -> DkrError:
        starved = cgroups.oom_kills(self._place.container.cgroup.paths) > self._ooms
        cause = "was killed for want of memory" if starved else "was killed"
        return StartFailed(
            f"cannot copy from or to {self._place.name}: the process that copies {cause}",
            hint="the container's --memory is for all that runs in it" if starved else None,
        )


def read(frame: dict[str, object], descriptors: list[int], container: str, name: str) -> copying.Wanted:
    """What the first frame wants. Raises ProtocolError, BadRequest."""
    body = frame.get("copy")
    if (
        set(frame) != _KEYS
        or (frame["type"], frame["version"]) != ("copy", VERSION)
        or not isinstance(body, dict)
    ):
        raise ProtocolError(
            f"cannot read the first frame: it is not a version {VERSION} copy",
            hint="use a dkrctl of the daemon's release",
        )
    check_container(frame["container"], container, name, "copy from or to")
    reader = Reader(body, "")
    outward = reader.one_of("direction", ("out", "in")) == "out"
    path = reader.text("path", "")
    if not path or "\0" in path or len(os.fsencode(path)) >= MAX_PATH:
        raise BadRequest("cannot read the request: path: is empty, or longer than a path can be")
    if outward:
        wanted = copying.Wanted(True, path, follow=reader.flag("follow", False))
    else:
        wanted = copying.Wanted(False, path, keep_ids=reader.flag("keepIds", False), source=_source(reader))
    reader.done()
    if len(descriptors) > 1 or not (descriptors or outward):
        raise ProtocolError("cannot read the first frame: a copy brings one pipe")
    if not all(copying.is_pipe(fd) for fd in descriptors):
        raise BadRequest("cannot read the request: what came along is no pipe")
    return wanted


def _source(reader: Reader) -> Source | None:
    if not reader.has("source"):
        return None
    child = reader.child("source")
    name, directory = os.fsencode(child.text("name", "")), child.flag("directory", False)
    child.done()
    if not name or b"/" in name or b"\0" in name or name == b".." or (name == TOP and not directory):
        raise BadRequest("cannot read the request: source.name: is no name of a file")
    return Source(name, directory)
