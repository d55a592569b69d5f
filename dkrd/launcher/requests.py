"""What the api may ask of the launcher: a closed list, each with its descriptors, each judged here.

The evidence's form and the user's budget are looked at before anything is forked. Whether the container is
allowed is not asked here: that is the shim's, by policy, on what the client itself says.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass
from functools import partial

from common import frames
from common.errors import BadRequest, DkrError, LimitReached, NotPermitted, ProtocolError
from dkrd import evidence, ids
from dkrd.launcher import shims, wire
from dkrd.launcher.asks import Asks, Question
from dkrd.launcher.containers import is_id
from dkrd.shim.task import ShimTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dkrd.launcher.api_process import Message
    from dkrd.launcher.containers import Containers
    from dkrd.launcher.leaves import Leaves
    from dkrd.launcher.loop import Loop
    from dkrd.launcher.runner import Runner
    from dkrd.log import Log
    from dkrd.policy import Credentials
    from dkrd.settings import Settings

    Answer = Callable[[dict[str, object]], None]

_SEQ_MAX = 2**53
KEYS: Mapping[str, set[str]] = {
    "start": {"type", "seq"},
    "remove": {"type", "seq", "id"},
    "ask": {"type", "seq", "id", "ask"},
}


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

    shim       a container's guardian; returns when nothing is left to do
    remove     `rm` of a stopped container; None
    collect    the end of a container whose shim died: its state where it is kept, None where nothing is left
    seccomp    path of the compiled filter
    asks       what clients may ask of a container: kind -> what is answered where it has no shim (any more)
    layers     built-in root -> name of its layer; no start without that of the root `host`
    directory  looks at the directory that the setting `default_root` names; raises why containers cannot have it
    prime      what the shims remember of the host, looked up once before the first fork
    """

    shim: Callable[[ShimTask], None]
    remove: Callable[[Settings, ids.Pool, str, Credentials, int | None], None]
    collect: Callable[[Settings, ids.Pool, str, dict[str, object]], object]
    seccomp: Callable[[Settings], str]
    asks: Mapping[str, Callable[[Settings, ids.Pool, str, Credentials, int | None], object]]
    layers: Mapping[str, Callable[[Settings], str]]
    directory: Callable[[Settings], None]
    prime: Callable[[], None]


@dataclass(slots=True)
class _Request:
    """What is asked of one container. `uid`: who asks, once that is proven."""

    kind: str
    seq: int
    id: str
    answer: Answer
    uid: int | None = None


class Requests:
    """Answers `start`, `remove` and `ask`."""

    def __init__(
        self,
        loop: Loop,
        log: Log,
        runner: Runner,
        containers: Containers,
        work: Work,
        leaves: Leaves,
        host: Host,
    ) -> None:
        self._loop = loop
        self._leaves = leaves
        self._log = log
        self._runner = runner
        self._containers = containers
        self._work = work
        # Begins anywhere: after a restart the low slots are taken by what lived on, and every claim would
        # try them.
        self._slot_hint = int.from_bytes(os.urandom(4), "big")
        self._limits = shims.OpenFiles()
        self._limits.raise_soft()
        self.host = host
        self._asks = Asks(loop, runner, containers, host.settings.run_dir, host.listener)

    def handle(self, message: Message, answer: Answer) -> None:
        """Do what a message of KEYS asks; raises ProtocolError for what an honest api does not send."""
        kind = str(message.body.get("type"))
        seq = message.body.get("seq")
        fits = set(message.body) == KEYS[kind] and type(seq) is int and 0 <= seq < _SEQ_MAX
        most = 2 if kind == "start" else 1
        if not fits or not 1 <= len(message.descriptors) <= most or bool(message.rest) != (kind == "start"):
            wire.close_all(message.descriptors)
            raise ProtocolError(f"its {kind} has other keys, bytes or descriptors than it must")
        assert type(seq) is int
        if kind == "start":
            self._start(seq, message, answer)
        elif kind == "remove":
            self._remove(seq, message, answer)
        else:
            self._ask(seq, message, answer)

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
        # With a session of the api's own, for a client that speaks plain HTTP.
        plain = message.descriptors[1] if len(message.descriptors) > 1 else -1
        try:
            connection = evidence.open_connection(message.descriptors[0])
            credentials, owner = self._prove(connection)
            uid = credentials.uid
            self._check_budget(owner)
            container_id = self._fork(connection, plain, owner, message.rest)
        except DkrError as err:
            code, rule = err.code, err.rule
            self._log.audit("refused", seq=seq, uid=uid, code=code, rule=rule, cause=err.message)
            # Only to a connection that is proven: into any other socket root would be made to write for the
            # api. To one that speaks plain HTTP the api answers.
            if connection is not None and uid is not None and plain < 0:
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
            if plain >= 0:
                os.close(plain)

    def _check_descriptors(self, what: str) -> None:
        if self._limits.are_low():
            raise LimitReached(
                f"cannot {what}: the daemon is almost out of descriptors",
                hint="end some containers, or raise LimitNOFILE= of dkrd.service (RLIMIT_NOFILE)",
            )

    def _check_budget(self, owner: int) -> None:
        self._check_descriptors("start a container")
        bound = self.host.settings.containers_per_user
        if owner != 0 and self._containers.live_of(owner) >= bound:
            raise LimitReached(
                f"cannot start a container: uid {owner} has {bound} already",
                hint="end some, or have containers_per_user raised in dkrd.toml",
            )

    def _fork(self, connection: socket.socket, plain: int, owner: int, bundle: bytes) -> str:
        host = self.host
        self._slot_hint += 1
        task = ShimTask(
            id=os.urandom(32).hex(),
            connection=connection.fileno(),
            session=plain,
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
            begun=time.monotonic_ns(),
        )
        leaf = self._leaves.make(owner, task.id)
        try:
            pid = shims.start(self._loop, task, self._work.shim, self._limits, leaf)
            self._containers.add_child(task.id, owner, pid)
        except OSError as err:
            self._leaves.remove(owner, task.id)
            raise LimitReached(
                f"cannot fork a shim: {err.strerror}",
                hint="the machine, or the daemon's cgroup, is out of processes, memory or descriptors",
                step="fork",
                errno=err.errno,
            ) from err
        finally:
            if leaf >= 0:
                os.close(leaf)
        return task.id

    # --- remove, ask

    def _remove(self, seq: int, message: Message, answer: Answer) -> None:
        request = _Request("remove", seq, _id_of(message), answer)
        try:
            with evidence.open_connection(message.descriptors[0]) as connection:
                credentials, _ = self._prove(connection)
            request.uid = credentials.uid
            work = self._for_container(self._work.remove, request, credentials)
            self._runner.submit("remove", work, partial(self._removed, request))
        except DkrError as err:
            self._refuse(request, err)

    def _removed(self, request: _Request, value: object, error: DkrError | None) -> None:
        if error is not None:
            self._refuse(request, error)
            return
        self._log.audit("removed", seq=request.seq, uid=request.uid, id=request.id)
        request.answer({"type": "done", "seq": request.seq})
        self._containers.removed(request.id)

    def _ask(self, seq: int, message: Message, answer: Answer) -> None:
        ask = message.body["ask"]
        kind = ask.get("type") if isinstance(ask, dict) else None
        if not isinstance(ask, dict) or not isinstance(kind, str) or kind not in self._work.asks:
            wire.close_all(message.descriptors)
            raise ProtocolError("it asks a container for what nobody can be asked for")
        request = _Request(kind, seq, _id_of(message), answer)
        connection: socket.socket | None = None
        try:
            connection = evidence.open_connection(message.descriptors[0])
            credentials, owner = self._prove(connection)
            request.uid = credentials.uid
            unguarded = self._for_container(self._work.asks[kind], request, credentials)
            self._check_descriptors(f"{kind} {request.id[:12]}")
            done = partial(self._asked, request)
            self._asks.begin(Question(request.id, ask, connection, owner, unguarded, done))
        except DkrError as err:
            if connection is not None:
                connection.close()
            self._refuse(request, err)

    def _asked(self, request: _Request, value: object, error: DkrError | None) -> None:
        if error is not None:
            self._refuse(request, error)
        else:
            request.answer({"type": "done", "seq": request.seq, "value": value})

    def _for_container(
        self,
        work: Callable[[Settings, ids.Pool, str, Credentials, int | None], object],
        request: _Request,
        credentials: Credentials,
    ) -> Callable[[], object]:
        """`work` as a job; BadRequest unless the request names a container by its id."""
        if not is_id(request.id):
            raise BadRequest(f"cannot {request.kind} a container: its id must be 64 hex digits")
        host = self.host
        return partial(work, host.settings, host.pool, request.id, credentials, host.admin_gid)

    def _refuse(self, request: _Request, error: DkrError) -> None:
        self._log.audit(
            "refused",
            seq=request.seq,
            uid=request.uid,
            id=request.id[:64],
            to=request.kind,
            code=error.code,
            rule=error.rule,
            cause=error.message,
        )
        request.answer({"type": "refused", "seq": request.seq, "error": error.to_wire()})


def _id_of(message: Message) -> str:
    """The id as the api gave it; nothing where it is no text."""
    value = message.body["id"]
    return value if isinstance(value, str) else ""


def _tell(connection: socket.socket, error: DkrError) -> None:
    """The hand-over record with an error, to the client; one that does not take it at once does without."""
    record = frames.record({"type": "error", "error": error.to_wire()})
    with contextlib.suppress(OSError):
        connection.send(record, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
