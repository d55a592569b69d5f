"""What the api may ask of the launcher: a closed list, each with its descriptors, each judged here.

The evidence's form and the user's budget are looked at before anything is forked. Whether the container is
allowed is not asked here: that is the shim's, by policy, on what the client itself says.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from functools import partial

from common import frames
from common.errors import BadRequest, DkrError, LimitReached, NotPermitted, ProtocolError
from dkrd import evidence, ids
from dkrd.launcher import shims, wire
from dkrd.launcher.containers import is_id
from dkrd.shim.task import ShimTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dkrd.launcher.api_process import Message
    from dkrd.launcher.containers import Containers
    from dkrd.launcher.loop import Loop
    from dkrd.launcher.runner import Runner
    from dkrd.log import Log
    from dkrd.policy import Credentials
    from dkrd.settings import Settings

    Answer = Callable[[dict[str, object]], None]

_SEQ_MAX = 2**53


@dataclass(frozen=True, slots=True)
class Host:
    """What requests are judged by and shims are given; replaced as a whole when settings are read again.

    Fields as in ShimTask.
    """

    settings: Settings
    pool: ids.Pool
    subids: tuple[ids.SubordinateRange, ...]
    listener: tuple[int, int]
    api_uid: int
    admin_gid: int | None
    seccomp: str
    layers: Mapping[str, str | DkrError]


@dataclass(frozen=True, slots=True)
class Work:
    """The code that the launcher forks into: what a shim does, and the jobs of the closed list.

    shim     a container's guardian; returns when nothing is left to do
    remove   `rm` of a stopped container; None
    collect  the end of a container whose shim died: its state where it is kept, None where nothing is left
    seccomp  path of the compiled filter
    layers   built-in root -> name of its layer; no start without that of the root `host`
    prime    what the shims remember of the host, looked up once before the first fork
    """

    shim: Callable[[ShimTask], None]
    remove: Callable[[Settings, ids.Pool, str, Credentials, int | None], None]
    collect: Callable[[Settings, ids.Pool, str, dict[str, object]], object]
    seccomp: Callable[[Settings], str]
    layers: Mapping[str, Callable[[Settings], str]]
    prime: Callable[[], None]


class Requests:
    """Answers `start` and `remove`."""

    def __init__(self, loop: Loop, log: Log, runner: Runner, containers: Containers, work: Work) -> None:
        self._loop = loop
        self._log = log
        self._runner = runner
        self._containers = containers
        self._work = work
        # Begins anywhere: after a restart the low slots are taken by what lived on, and every claim would
        # try them.
        self._slot_hint = int.from_bytes(os.urandom(4), "big")
        self._limits = shims.OpenFiles()
        self._limits.raise_soft()
        self.host: Host

    def handle(self, message: Message, answer: Answer) -> None:
        """Do what a `start` or `remove` asks; raises ProtocolError for what an honest api does not send."""
        kind = message.body.get("type")
        known = {"type", "seq"} if kind == "start" else {"type", "seq", "id"}
        seq = message.body.get("seq")
        fits = set(message.body) == known and type(seq) is int and 0 <= seq < _SEQ_MAX
        if not fits or len(message.descriptors) != 1 or bool(message.rest) != (kind == "start"):
            wire.close_all(message.descriptors)
            raise ProtocolError(f"its {kind} has other keys, bytes or descriptors than it must")
        assert type(seq) is int
        if kind == "start":
            self._start(seq, message, answer)
        else:
            self._remove(seq, message, answer)

    # --- who asks

    def _prove(self, connection: socket.socket) -> tuple[Credentials, int]:
        """The client's credentials and the uid it counts for; NotPermitted."""
        credentials = evidence.prove(connection, self.host.listener)
        if credentials.uid == self.host.api_uid:
            raise NotPermitted(
                "cannot act for the api itself: it is nobody at this socket", rule="evidence-api"
            )
        owner = ids.owner_of(credentials.uid, self.host.pool, self.host.subids)
        if owner is None:
            raise NotPermitted(
                f"cannot act for uid {credentials.uid}: it is an id inside a container", rule="evidence-pool"
            )
        return credentials, owner

    # --- start

    def _start(self, seq: int, message: Message, answer: Answer) -> None:
        connection: socket.socket | None = None
        uid: int | None = None
        try:
            connection = evidence.open_connection(message.descriptors[0])
            credentials, owner = self._prove(connection)
            uid = credentials.uid
            self._check_budget(owner)
            container_id = self._fork(connection, owner, message.rest)
        except DkrError as err:
            code, rule = err.code, err.rule
            self._log.audit("refused", seq=seq, uid=uid, code=code, rule=rule, cause=err.message)
            # Only to a connection that is proven: into any other socket root would be made to write for the
            # api.
            if connection is not None and uid is not None:
                _tell(connection, err)
            answer({"type": "refused", "seq": seq, "error": err.to_wire()})
        else:
            self._log.audit(
                "accepted", seq=seq, uid=uid, owner=owner if owner != uid else None, id=container_id
            )
            answer({"type": "accepted", "seq": seq, "id": container_id})
        finally:
            if connection is not None:
                connection.close()

    def _check_budget(self, owner: int) -> None:
        if self._limits.are_low():
            raise LimitReached(
                "cannot start a container: the daemon is almost out of descriptors",
                hint="end some containers, or raise LimitNOFILE= of dkrd.service (RLIMIT_NOFILE)",
            )
        bound = self.host.settings.containers_per_user
        if owner != 0 and self._containers.live_of(owner) >= bound:
            raise LimitReached(
                f"cannot start a container: uid {owner} has {bound} already",
                hint="end some, or have containers_per_user raised in dkrd.toml",
            )

    def _fork(self, connection: socket.socket, owner: int, bundle: bytes) -> str:
        host = self.host
        self._slot_hint += 1
        task = ShimTask(
            id=os.urandom(32).hex(),
            connection=connection.fileno(),
            bundle=bundle,
            settings=host.settings,
            listener=host.listener,
            reports=self._containers.reports_end.fileno(),
            pool=host.pool,
            slot_hint=self._slot_hint,
            subids=host.subids,
            api_uid=host.api_uid,
            admin_gid=host.admin_gid,
            seccomp=host.seccomp,
            layers=host.layers,
            log=self._log.of("shim"),
        )
        try:
            pid = shims.start(self._loop, task, self._work.shim, self._limits)
            self._containers.add_child(task.id, owner, pid)
        except OSError as err:
            raise LimitReached(
                f"cannot fork a shim: {err.strerror}",
                hint="the machine, or the daemon's cgroup, is out of processes, memory or descriptors",
                step="fork",
                errno=err.errno,
            ) from err
        return task.id

    # --- remove

    def _remove(self, seq: int, message: Message, answer: Answer) -> None:
        container_id = message.body["id"]
        uid: int | None = None
        try:
            with evidence.open_connection(message.descriptors[0]) as connection:
                credentials, _ = self._prove(connection)
            uid = credentials.uid
            if not isinstance(container_id, str) or not is_id(container_id):
                raise BadRequest("cannot remove a container: its id must be 64 hex digits")
            host = self.host
            work = partial(
                self._work.remove, host.settings, host.pool, container_id, credentials, host.admin_gid
            )
            self._runner.submit("remove", work, partial(self._removed, seq, container_id, uid, answer))
        except DkrError as err:
            self._refuse_removal(seq, container_id, uid, answer, err)

    def _removed(
        self, seq: int, container_id: str, uid: int, answer: Answer, value: object, error: DkrError | None
    ) -> None:
        if error is not None:
            self._refuse_removal(seq, container_id, uid, answer, error)
            return
        self._log.audit("removed", seq=seq, uid=uid, id=container_id)
        answer({"type": "done", "seq": seq})
        self._containers.removed(container_id)

    def _refuse_removal(
        self, seq: int, container_id: object, uid: int | None, answer: Answer, error: DkrError
    ) -> None:
        self._log.audit(
            "not removed", seq=seq, uid=uid, id=str(container_id)[:64], code=error.code, rule=error.rule
        )
        answer({"type": "refused", "seq": seq, "error": error.to_wire()})


def _tell(connection: socket.socket, error: DkrError) -> None:
    """The hand-over record with an error, to the client; one that does not take it at once does without."""
    record = frames.record({"type": "error", "error": error.to_wire()})
    with contextlib.suppress(OSError):
        connection.send(record, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
