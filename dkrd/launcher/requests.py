"""What the api may ask of the launcher: a closed list, each with its descriptors, each judged here.

The evidence's form and the user's budget are looked at before anything is forked. Whether the container is
allowed is not asked here: that is the shim's, by policy, on what the client itself says.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import partial

from common.errors import BadRequest, Conflict, DkrError, LimitReached, ProtocolError
from dkrd import evidence
from dkrd.launcher import adoption, shims, starts, wire
from dkrd.launcher.asks import Asks, Question
from dkrd.launcher.containers import is_id
from dkrd.launcher.measures import Measures
from dkrd.launcher.porters import Porters
from dkrd.launcher.restarts import HELD_BACK_BY, Restarts
from dkrd.launcher.starts import Starts
from dkrd.shim.matter import Matter

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from dkrd import ids
    from dkrd.launcher.api_process import Message
    from dkrd.launcher.containers import Containers
    from dkrd.launcher.leaves import Leaves
    from dkrd.launcher.loop import Loop
    from dkrd.launcher.runner import Runner
    from dkrd.launcher.turns import Call
    from dkrd.log import Log
    from dkrd.policy import Credentials
    from dkrd.settings import Settings
    from dkrd.shim.task import ShimTask

    Answer = Callable[[dict[str, object]], None]
    Unguarded = Callable[[Matter, dict[str, object], int], object]

_SEQ_MAX = 2**53
_PATIENCE = 2.0  # seconds that an answer waits for a guardian which has nothing left to do
KEYS: Mapping[str, set[str]] = {
    "start": {"type", "seq"},
    "launch": {"type", "seq", "id"},
    "remove": {"type", "seq", "id"},
    "ask": {"type", "seq", "id", "ask"},
    "measure": {"type", "seq", "ids"},
    "diff": {"type", "seq", "id"},
}
_MEASURED = 256  # containers that are measured at once
_COPY = "copy"  # the ask for which a container that does not run is opened


def _nobody(*_of: object) -> None:
    """Where nothing holds containers open."""


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
    rehearse   what a guardian does that was forked ahead, so that it need not do it when it is asked
    remove     `rm` of a stopped container; None
    measure    bytes on the disk of these containers, as far as they are theirs who ask; of the layers, where none is named
    diff       what a container has changed of its root; it is told the layers by name, and the descriptor to write it to
    collect    the end of a container whose shim died: its state where it is kept, None where nothing is left
    seccomp    path of the compiled filter
    asks       what clients may ask of a container: kind -> what is answered where it has no shim (any more); it is told the
               ask, and the descriptor that came along (or -1)
    looks      the same for what is only looked at, which a job answers whether or not there is a shim
    layers     built-in root -> name of its layer; no start without that of the root `host`
    directory  looks at the directory that the setting `default_root` names; raises why containers cannot have it
    porter     holds a container open that does not run, for copies, and removes what one has left that was killed (porters.py)
    prime      what the shims remember of the host, looked up once before the first fork
    """

    shim: Callable[[ShimTask], None]
    rehearse: Callable[[ShimTask], None]
    remove: Callable[[Matter], None]
    measure: Callable[[Settings, ids.Pool, list[str], Credentials, int | None], dict[str, object]]
    diff: Callable[[Matter, Mapping[str, str | DkrError], int], dict[str, object]]
    collect: Callable[[Settings, ids.Pool, str, dict[str, object]], object]
    seccomp: Callable[[Settings], str]
    asks: Mapping[str, Unguarded]
    layers: Mapping[str, Callable[[Settings], str]]
    directory: Callable[[Settings], None]
    prime: Callable[[], None]
    looks: Mapping[str, Unguarded] = field(default_factory=dict)
    porter: tuple[Callable[[ShimTask, int], None], Callable[[Settings, str], None]] = (_nobody, _nobody)


@dataclass(slots=True)
class _Request:
    """What is asked of one container. `uid`: who asks, once that is proven; `request`: the id by which the api tells of it."""

    kind: str
    seq: int
    request: str | None
    id: str
    answer: Answer
    uid: int | None = None


class Requests:
    """Answers `start`, `launch`, `remove`, `measure`, `diff` and `ask`."""

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
        self._log = log
        self._runner = runner
        self._containers = containers
        self._work = work
        self._limits = shims.OpenFiles()
        self._limits.raise_soft()
        self.host = host
        self._asks = Asks(loop, runner, containers, host.settings.run_dir, host.listener)
        self.porters = Porters(loop, log, runner, containers, leaves, self._limits, work.porter)
        self._asks.stands = self.porters.stands
        alone = self.porters.when_alone
        self._starts = Starts(loop, log, containers, work.shim, work.rehearse, leaves, self._limits, alone)
        self._measures = Measures(runner)
        self._removing: set[str] = set()
        self.restarts = Restarts(loop, log, containers, lambda: self.host.settings, self._relaunch)
        self.restarts.when_free = alone

    def _relaunch(self, container: str, owner: int, unasked: str) -> None:
        self._starts.relaunch(self.host, container, owner, unasked, self._removing)

    def prepare(self) -> None:
        """Be ready for the first start."""
        self._starts.prepare(self.host)

    def handle(self, message: Message, answer: Answer) -> None:
        """Do what a message of KEYS asks; raises ProtocolError for what an honest api does not send."""
        kind = str(message.body.get("type"))
        seq = message.body.get("seq")
        fits = message.body.keys() - {"request"} == KEYS[kind] and type(seq) is int and 0 <= seq < _SEQ_MAX
        most = 1 if kind in ("remove", "measure") else 2
        if not fits or not 1 <= len(message.descriptors) <= most or bool(message.rest) != (kind == "start"):
            wire.close_all(message.descriptors)
            raise ProtocolError(f"its {kind} has other keys, bytes or descriptors than it must")
        assert type(seq) is int
        if kind == "start":
            self._starts.start(self.host, seq, message, answer)
        elif kind == "launch":
            self._starts.launch(self.host, seq, message, answer, self._removing)
        elif kind == "remove":
            self._remove(seq, message, answer)
        elif kind == "measure":
            self._measure(seq, message, answer)
        elif kind == "diff":
            self._diff(seq, message, answer)
        else:
            self._ask(seq, message, answer)

    # --- remove, measure, diff, ask

    def _remove(self, seq: int, message: Message, answer: Answer) -> None:
        request = _Request("remove", seq, starts.request_of(message), _id_of(message), answer)
        try:
            with evidence.open_connection(message.descriptors[0]) as connection:
                credentials, owner = starts.prove(self.host, connection)
            request.uid = credentials.uid
            work = self._for_container(self._work.remove, request, credentials)
            if self._containers.is_being_built(request.id):
                starts.owner_of(self.host, request.id, credentials, owner)
                raise Conflict(
                    f"cannot remove {request.id[:12]}: it is being started",
                    hint="try again when it runs, by force: dkrctl rm -f",
                )
            if self.porters.stands(request.id):
                starts.owner_of(self.host, request.id, credentials, owner)  # whose copies are ended by that
            self._removing.add(request.id)
            self.porters.end(request.id, partial(self._remove_alone, request, work))
        except DkrError as err:
            self._refuse(request, err)

    def _remove_alone(self, request: _Request, work: Callable[[], object]) -> None:
        try:
            self._runner.submit("remove", work, partial(self._removed, request))
        except DkrError as err:
            self._removed(request, None, err)

    def _removed(self, request: _Request, value: object, error: DkrError | None) -> None:
        self._removing.discard(request.id)
        if error is not None:
            self._refuse(request, error)
            return
        self._log.audit("removed", seq=request.seq, request=request.request, uid=request.uid, id=request.id)
        request.answer({"type": "done", "seq": request.seq})
        self._containers.removed(request.id)

    def _measure(self, seq: int, message: Message, answer: Answer) -> None:
        wanted = message.body["ids"]
        if not isinstance(wanted, list) or len(wanted) > _MEASURED or not all(map(is_id, wanted)):
            wire.close_all(message.descriptors)
            raise ProtocolError("what it wants to be measured is no list of containers")
        request = _Request("measure", seq, starts.request_of(message), "", answer)
        host = self.host
        try:
            with evidence.open_connection(message.descriptors[0]) as connection:
                credentials, owner = starts.prove(host, connection)
            request.uid = credentials.uid
            work = partial(self._work.measure, host.settings, host.pool, wanted, credentials, host.admin_gid)
            self._measures.begin(owner, work, partial(self._asked, request))
        except DkrError as err:
            self._refuse(request, err)

    def _diff(self, seq: int, message: Message, answer: Answer) -> None:
        if len(message.descriptors) != 2:
            wire.close_all(message.descriptors)
            raise ProtocolError("its diff has no descriptor to write to")
        request = _Request("diff", seq, starts.request_of(message), _id_of(message), answer)
        given = message.descriptors[1]

        def done(value: object, error: DkrError | None) -> None:
            os.close(given)
            self._asked(request, value, error)

        try:
            with evidence.open_connection(message.descriptors[0]) as connection:
                credentials, owner = starts.prove(self.host, connection)
            request.uid = credentials.uid
            work = self._for_container(self._work.diff, request, credentials, self.host.layers, given)
            self._measures.begin(owner, work, done, (given,))
        except DkrError as err:
            done(None, err)

    def _ask(self, seq: int, message: Message, answer: Answer) -> None:
        ask = message.body["ask"]
        kind = ask.get("type") if isinstance(ask, dict) else None
        answers = {**self._work.asks, **self._work.looks}
        if not isinstance(ask, dict) or not isinstance(kind, str) or kind not in answers:
            wire.close_all(message.descriptors)
            raise ProtocolError("it asks a container for what nobody can be asked for")
        request = _Request(kind, seq, starts.request_of(message), _id_of(message), answer)
        given = message.descriptors[1] if len(message.descriptors) > 1 else -1
        connection: socket.socket | None = None
        let_go: Callable[[], None] = _nothing
        try:
            connection = evidence.open_connection(message.descriptors[0])
            credentials, owner = starts.prove(self.host, connection)
            request.uid = credentials.uid
            unguarded = self._for_container(answers[kind], request, credentials, ask, given)
            starts.check_descriptors(self._limits, f"{kind} {request.id[:12]}")
            done = partial(self._asked, request)
            if kind in HELD_BACK_BY:
                uid = 0 if starts.is_admin(self.host, credentials, owner) else owner
                let_go = self.restarts.hold(request.id, uid)
                done = partial(self._said, request, let_go)
            direct, bring = kind in self._work.looks, None
            if kind == _COPY:
                bring = partial(self._bring, request.id)
            question = Question(
                request.id, request.request, ask, connection, given, owner, unguarded, done, direct, bring
            )
            self._asks.begin(question)
        except DkrError as err:
            let_go()
            if connection is not None:
                connection.close()
            if given >= 0:
                os.close(given)
            self._refuse(request, err)

    def _bring(self, container: str, call: Call) -> None:
        """Have somebody answer for a container that does not run: a job has said that it may be copied from and to."""
        try:
            grant = adoption.read_grant(self.host.settings.state_dir, container)
            uid = grant.get("uid")
            task = replace(self._starts.blank(self.host), id=container)
            self.porters.bring(task, uid if isinstance(uid, int) else 0, self._removing, call)
        except OSError as err:
            call(LimitReached(f"cannot copy from or to {container[:12]}: {err.strerror}", hint="try again"))

    def _said(
        self, request: _Request, let_go: Callable[[], None], value: object, error: DkrError | None
    ) -> None:
        """What was asked of a container may have changed what only the disk knows: whether it is restarted, its name, its bounds."""
        told = partial(self._looked, request, let_go, value, error)
        known = self._containers
        changes = request.kind in ("rename", "update")
        waits = known.is_leaving(request.id) if changes else known.may_be_restarted(request.id)
        if error is None and waits:
            # Its guardian may have done all but end.
            self._containers.when_free(request.id, _PATIENCE, told)
        else:
            told(None)

    def _looked(
        self,
        request: _Request,
        let_go: Callable[[], None],
        value: object,
        error: DkrError | None,
        guarded: DkrError | None,
    ) -> None:
        state = self.restarts.look(request.id) if error is None and guarded is None else None
        if state is not None:
            self._containers.tell_state(state)
        let_go()
        self._asked(request, value, error)

    def _asked(self, request: _Request, value: object, error: DkrError | None) -> None:
        if error is not None:
            self._refuse(request, error)
        else:
            if value == {"unguarded": True}:
                self._log.audit(
                    "killed without its guardian", request=request.request, uid=request.uid, id=request.id
                )
            request.answer({"type": "done", "seq": request.seq, "value": value})

    def _for_container(
        self,
        work: Callable[..., object],
        request: _Request,
        credentials: Credentials,
        *further: object,
    ) -> Callable[[], object]:
        """`work` as a job; BadRequest unless the request names a container by its id."""
        if not is_id(request.id):
            raise BadRequest(f"cannot {request.kind} a container: its id must be 64 hex digits")
        host = self.host
        matter = Matter(host.settings, host.pool, request.id, credentials, host.admin_gid)
        return partial(work, matter, *further)

    def _refuse(self, request: _Request, error: DkrError) -> None:
        self._log.audit(
            "refused",
            seq=request.seq,
            request=request.request,
            uid=request.uid,
            id=request.id[:64],
            to=request.kind,
            code=error.code,
            rule=error.rule,
            cause=error.message,
        )
        request.answer({"type": "refused", "seq": request.seq, "error": error.to_wire()})


def _nothing() -> None:
    """Where nothing is held back."""


def _id_of(message: Message) -> str:
    """The id as the api gave it; nothing where it is no text."""
    value = message.body["id"]
    return value if isinstance(value, str) else ""
