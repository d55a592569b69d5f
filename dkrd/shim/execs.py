"""Further commands in a container: who may have them, how many there are, what is told of them.

The api cannot have another command executed, nor in another container, than its client wants: the client's first frame says it,
past the api. As in a start the lesser of the two credentials counts. Over plain HTTP the frame is the api's own; so there nothing
is executed in a container that has anything beyond a tenant's defaults, as nothing is started (policy.judge_http).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from common.errors import BadRequest, Conflict, DkrError, LimitReached, NotFound, ProtocolError
from dkrd import policy
from dkrd.runtime import cgroups, failure, joining
from dkrd.shim import callers, exec_request
from dkrd.shim.awaited import Awaited
from dkrd.shim.clients import is_integer
from dkrd.shim.descriptors import close_all
from dkrd.shim.executed import Executed

if TYPE_CHECKING:
    from dkrd.policy import Credentials
    from dkrd.shim.asks import Ask
    from dkrd.shim.inside import Place
    from dkrd.shim.session import Session

MAX_EXECS = 64  # of one container, at a time; each holds a few descriptors here


class Execs:
    """Those of one container. `owner` has it."""

    def __init__(self, place: Place, owner: int) -> None:
        self._place = place
        self._owner = owner
        self._running: list[Executed] = []
        self._awaited = Awaited(place.loop, place.task, f"execute in {place.name}", self._hear)

    def ask(self, ask: Ask) -> dict[str, object]:
        """Answer `{"type": "exec"}`: the session is on its way to the client. Raises DkrError."""
        if set(ask.body) != {"type"}:
            raise BadRequest("cannot read the ask: exec has no further keys")
        self._check_room()
        self._awaited.take(ask)
        return {}

    def list(self, ask: Ask) -> dict[str, object]:
        """Answer `{"type": "execs"}`: those that run. Raises BadRequest."""
        if set(ask.body) != {"type"}:
            raise BadRequest("cannot read the ask: execs has no further keys")
        return {"execs": [executed.describe() for executed in self._running]}

    def kill(self, ask: Ask) -> dict[str, object]:
        """Answer `{"type": "exec-kill", "exec": "<id or its beginning>", "signal": 15}`. Raises BadRequest, NotFound, Conflict."""
        number, wanted = ask.body.get("signal"), ask.body.get("exec")
        if set(ask.body) != {"type", "exec", "signal"} or not is_integer(number, 1, 64):
            raise BadRequest(
                "cannot read the ask: exec-kill has an id and a signal's number, and no further keys"
            )
        if not isinstance(wanted, str) or not wanted:
            raise BadRequest("cannot read the ask: exec is the id of one, or its beginning")
        found = [executed for executed in self._running if executed.id.startswith(wanted)]
        if not found:
            raise NotFound(
                f"cannot find exec {wanted[:12]!r} in {self._place.name}: nothing of this id is executed there",
                hint="it may have ended",
            )
        if len(found) > 1:
            raise Conflict(
                f"cannot tell which exec {wanted[:12]!r} is: {len(found)} ids begin so",
                hint="give more of it",
            )
        found[0].signal(number)
        self._place.task.log.audit(
            "exec signalled", id=self._place.task.id, uid=ask.who.uid, exec=found[0].id, signal=number
        )
        return {}

    def end(self) -> None:
        """The container has ended."""
        name = self._place.name
        self._awaited.end(Conflict(f"cannot execute in {name}: it has ended", rule="ended"))
        for executed in list(self._running):
            executed.end()

    def _check_room(self) -> None:
        name = self._place.name
        if self._place.state.values["status"] == "paused":
            raise Conflict(
                f"cannot execute in {name}: it is paused", rule="paused", hint="dkrctl unpause lets it go on"
            )
        if len(self._running) >= MAX_EXECS:
            raise LimitReached(
                f"cannot execute in {name}: {MAX_EXECS} commands are executed in it already",
                hint="wait for some to end, or end them",
            )
        if cgroups.is_full(self._place.container.cgroup.paths):
            raise self._full()

    def _hear(self, session: Session, connection: Credentials, plain: bool) -> None:
        task, config, uid = self._place.task, self._place.config, connection.uid
        descriptors: list[int] = []
        try:
            frame, descriptors, credentials = session.hello()
            # In the place of a client that speaks plain HTTP the api has sent the frame.
            who = callers.weigh(task, connection, connection if plain else credentials)
            uid = who.uid
            callers.check_owner(who, self._owner, task.id)
            if plain:
                policy.judge_http(who, config.spec, http_lifts=task.settings.http_lifts)
            wanted = exec_request.read(frame, descriptors, (task.id, self._place.name), config)
            self._check_room()
        except BlockingIOError:
            return
        except (DkrError, OSError) as err:
            close_all(descriptors)
            error = err if isinstance(err, DkrError) else ProtocolError(f"cannot go on: {err.strerror}")
            self._refuse(session, uid, error)
            return
        executed = Executed(self._place, session, wanted, uid, self._running.remove)
        try:
            executed.begin()
        except OSError as err:
            self._refuse(session, uid, self._unforked(err))
            return
        self._awaited.admit(session)
        self._running.append(executed)

    def _full(self) -> LimitReached:
        return LimitReached(
            f"cannot execute in {self._place.name}: it has as many processes as it may have",
            hint="--pids-limit is for all that runs in it",
        )

    def _unforked(self, err: OSError) -> DkrError:
        """Why there is no process for it."""
        if err.errno == errno.EAGAIN:
            return self._full()  # of the v2 cgroup, or of one above it
        if isinstance(err, ProcessLookupError):
            return Conflict(f"cannot execute in {self._place.name}: it has ended", rule="ended")
        return failure.describe(err, "clone", joining.WHAT)

    def _refuse(self, session: Session, uid: int, error: DkrError) -> None:
        task = self._place.task
        task.log.audit(
            "not executed", id=task.id, uid=uid, code=error.code, rule=error.rule, cause=error.message
        )
        self._awaited.refuse(session, error)
