"""Starts: of a container to be made, and of one that stands. Who asks is proven, then there is room for it, then a shim is forked."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass, replace
from functools import partial

from common import frames
from common.errors import BadRequest, Conflict, DkrError, LimitReached, NotFound, NotPermitted
from dkrd import evidence, ids
from dkrd.launcher import shims
from dkrd.launcher.adoption import live_state, read_grant
from dkrd.launcher.containers import is_id
from dkrd.launcher.spare import Spare
from dkrd.shim.task import ShimTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from dkrd.launcher.api_process import Message
    from dkrd.launcher.containers import Containers
    from dkrd.launcher.leaves import Leaves
    from dkrd.launcher.loop import Loop
    from dkrd.launcher.requests import Answer, Host
    from dkrd.launcher.turns import Call
    from dkrd.log import Log
    from dkrd.policy import Credentials

_PATIENCE = 2.0  # seconds that a start waits for the guardian of before to finish its work


def prove(host: Host, connection: socket.socket) -> tuple[Credentials, int]:
    """The client's credentials and the uid it counts for. Raises NotPermitted."""
    credentials = evidence.prove(connection, host.listener)
    if credentials.uid == host.api_uid:
        raise NotPermitted("cannot act for the api itself: it is nobody at this socket", rule="evidence-api")
    owner = ids.owner_of(credentials.uid, host.pool, host.subids)
    if owner is None:
        raise NotPermitted(
            f"cannot act for uid {credentials.uid}: it is an id inside a container", rule="evidence-pool"
        )
    return credentials, owner


def is_admin(host: Host, credentials: Credentials, asker: int) -> bool:
    """Whether who asks may do anything."""
    groups = (credentials.gid, *credentials.groups)
    return asker == 0 or (host.admin_gid is not None and host.admin_gid in groups)


def owner_of(host: Host, container: str, credentials: Credentials, asker: int) -> int:
    """The uid whose `container` is, if `asker` may touch it. Raises NotFound."""
    try:
        # Of one that runs with `rm` there is no grant: its state tells (shim/cleanup.py does the same).
        state_dir, run_dir = host.settings.state_dir, host.settings.run_dir
        known = read_grant(state_dir, container) or live_state(run_dir, container) or {}
        uid = known.get("uid")
    except OSError as err:
        raise LimitReached(
            f"cannot find out whose {container[:12]} is: {err.strerror}", hint="try again", errno=err.errno
        ) from err
    if not isinstance(uid, int) or (uid != asker and not is_admin(host, credentials, asker)):
        raise NotFound(f"cannot find {container[:12]}: there is no such container")
    return uid


def request_of(message: Message) -> str | None:
    """The id by which the api tells of this request; None where it has none, or no text that may stand in a log."""
    value = message.body.get("request")
    fits = isinstance(value, str) and len(value) <= 32 and value.isascii() and value.isalnum()
    return str(value) if fits else None


def check_descriptors(limits: shims.OpenFiles, what: str) -> None:
    """Raise LimitReached where only the last descriptors are left, which what stands needs."""
    if limits.are_low():
        raise LimitReached(
            f"cannot {what}: the daemon is almost out of descriptors",
            hint="end some containers, or raise LimitNOFILE= of dkrd.service (RLIMIT_NOFILE)",
        )


@dataclass(slots=True)
class _Start:
    """One start: who asks, with which session of the api's own (-1: none), and who is answered."""

    host: Host
    seq: int
    request: str | None
    answer: Answer
    plain: int
    log: Log
    connection: socket.socket | None = None
    uid: int | None = None

    def prove(self, descriptor: int) -> tuple[Credentials, int]:
        self.connection = evidence.open_connection(descriptor)
        credentials, owner = prove(self.host, self.connection)
        self.uid = credentials.uid
        return credentials, owner

    def refuse(self, err: DkrError) -> None:
        self.log.audit(
            "refused",
            seq=self.seq,
            request=self.request,
            uid=self.uid,
            code=err.code,
            rule=err.rule,
            cause=err.message,
        )
        # Only to a connection that is proven: into any other socket root would be made to write for the
        # api. To one that speaks plain HTTP the api answers.
        if self.connection is not None and self.uid is not None and self.plain < 0:
            _tell(self.connection, err)
        self.answer({"type": "refused", "seq": self.seq, "error": err.to_wire()})
        self.close()

    def accept(self, container: str, owner: int) -> None:
        self.log.audit(
            "accepted",
            seq=self.seq,
            request=self.request,
            uid=self.uid,
            owner=owner if owner != self.uid else None,
            id=container,
        )
        self.answer({"type": "accepted", "seq": self.seq, "id": container})
        self.close()

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        if self.plain >= 0:
            os.close(self.plain)
            self.plain = -1


class Starts:
    """Forks shims. `shim`: what they do; `when_alone`: calls when nobody else has a container that stands (Porters)."""

    def __init__(
        self,
        loop: Loop,
        log: Log,
        containers: Containers,
        shim: Callable[[ShimTask], None],
        rehearse: Callable[[ShimTask], None],
        leaves: Leaves,
        limits: shims.OpenFiles,
        when_alone: Callable[[str, float, Call], None],
    ) -> None:
        self._loop = loop
        self._log = log
        self._containers = containers
        self._when_alone = when_alone
        self._shim = shim
        self._leaves = leaves
        self._limits = limits
        self._spare = Spare(loop, limits, shim, rehearse)
        # Begins anywhere: after a restart the low slots are taken by what lived on, and every claim would
        # try them.
        self._slot_hint = int.from_bytes(os.urandom(4), "big")

    def start(self, host: Host, seq: int, message: Message, answer: Answer) -> None:
        """A container to be made."""
        start = self._begin(host, seq, message, answer)
        try:
            _, owner = start.prove(message.descriptors[0])
            self._check_kept(host, owner)
            self._fork(start, owner, os.urandom(32).hex(), message.rest)
        except DkrError as err:
            start.refuse(err)

    def launch(
        self, host: Host, seq: int, message: Message, answer: Answer, removing: Collection[str]
    ) -> None:
        """One that stands. Where its guardian of before is still at work, that is waited for."""
        start = self._begin(host, seq, message, answer)
        container = message.body["id"]
        try:
            credentials, asker = start.prove(message.descriptors[0])
            if not isinstance(container, str) or not is_id(container):
                raise BadRequest("cannot start a container: its id must be 64 hex digits")
            owner = owner_of(host, container, credentials, asker)
            self._when_alone(
                container, _PATIENCE, partial(self._launch_free, start, owner, container, removing)
            )
        except DkrError as err:
            start.refuse(err)

    def relaunch(
        self, host: Host, container: str, owner: int, unasked: str, removing: Collection[str]
    ) -> None:
        """One that stands, for its restart policy: nobody asks, and its guardian judges by the grant alone. Raises DkrError."""
        if container in removing:
            raise Conflict(f"cannot restart {container[:12]}: it is being removed")
        self._check_budget(host, owner)
        task = replace(self._task(host), id=container, unasked=unasked)
        self._log.audit("restarts", id=container, uid=owner, why=unasked)
        leaf = self._leaves.make(owner, container)
        self._guard(task, owner, leaf, None)

    def _launch_free(
        self, start: _Start, owner: int, container: str, removing: Collection[str], error: DkrError | None
    ) -> None:
        try:
            if error is not None:
                raise error
            if container in removing:
                raise Conflict(f"cannot start {container[:12]}: it is being removed")
            self._fork(start, owner, container, None)
        except DkrError as err:
            start.refuse(err)

    def _begin(self, host: Host, seq: int, message: Message, answer: Answer) -> _Start:
        plain = message.descriptors[1] if len(message.descriptors) > 1 else -1
        return _Start(host, seq, request_of(message), answer, plain, self._log)

    def _check_budget(self, host: Host, owner: int) -> None:
        check_descriptors(self._limits, "start a container")
        bound = host.settings.containers_per_user
        if owner != 0 and self._containers.live_of(owner) >= bound:
            raise LimitReached(
                f"cannot start a container: uid {owner} has {bound} already",
                hint="end some, or have containers_per_user raised in dkrd.toml",
            )

    def _check_kept(self, host: Host, owner: int) -> None:
        """Each has a range of ids, of which the host has some thousands."""
        bound = host.settings.kept_per_user
        if owner != 0 and self._containers.kept.of(owner) >= bound:
            raise LimitReached(
                f"cannot make a container: uid {owner} has {bound} that do not run",
                hint="remove some: dkrctl rm $(dkrctl ps -aq --filter status=stopped)",
            )

    def _fork(self, start: _Start, owner: int, container: str, bundle: bytes | None) -> None:
        host = start.host
        assert start.connection is not None
        self._check_budget(host, owner)
        task = replace(
            self._task(host),
            id=container,
            connection=start.connection.fileno(),
            session=start.plain,
            bundle=bundle,
            request=start.request or "",
        )
        leaf = self._leaves.make(owner, container)
        self._guard(task, owner, leaf, self._spare.take(host, task) if leaf < 0 else None)
        start.accept(container, owner)
        # When what is asked now has been done: others need not wait for it.
        self._loop.later(0.0, partial(self.prepare, host))

    def _task(self, host: Host) -> ShimTask:
        self._slot_hint += 1
        return replace(self.blank(host), slot_hint=self._slot_hint, begun=time.monotonic_ns())

    def _guard(self, task: ShimTask, owner: int, leaf: int, pid: int | None) -> None:
        """Have a guardian, one that was ahead or a new one, in `leaf`. Raises LimitReached."""
        try:
            if pid is None:
                pid = shims.start(self._loop, task, self._shim, self._limits, leaf)
            self._containers.add_child(task.id, owner, pid, stood=task.bundle is None)
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

    def prepare(self, host: Host) -> None:
        """Have a guardian wait for the next start, where that is possible."""
        if not self._leaves.are_there and not self._limits.are_low():
            self._spare.prepare(host, self.blank(host))

    def blank(self, host: Host) -> ShimTask:
        """What is known of a start before anybody has asked for it."""
        return ShimTask(
            id="",
            connection=-1,
            session=-1,
            bundle=None,
            settings=host.settings,
            listener=host.listener,
            reports=self._containers.reports_end.fileno(),
            pool=host.pool,
            slot_hint=0,
            subids=host.subids,
            api_uid=host.api_uid,
            admin_gid=host.admin_gid,
            seccomp=host.seccomp,
            layers=host.layers,
            log=self._log.of("shim"),
            begun=0,
        )


def _tell(connection: socket.socket, error: DkrError) -> None:
    """The hand-over record with an error, to the client; one that does not take it at once does without."""
    record = frames.record({"type": "error", "error": error.to_wire()})
    with contextlib.suppress(OSError):
        connection.send(record, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
