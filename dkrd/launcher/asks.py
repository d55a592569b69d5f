"""What a client asks of a container: passed on to its guardian, and the answer back, without ever waiting.

    connect ─► send ─► answer ──────────────────────► done, or refused
       │ none listens     │ end without an answer
       │ (yet: again)     ▼
       └──────────────► a job says what can be said without a guardian

The shim proves the evidence anew and judges whose container it is. Here only the form was looked at, and it
is bounded how many questions are under way: each holds two descriptors.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
from collections import Counter
from dataclasses import dataclass
from functools import partial

from common import frames
from common.errors import DkrError, LimitReached, ProtocolError, Unavailable, from_wire
from dkrd.launcher import adoption, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.launcher.containers import Containers
    from dkrd.launcher.runner import Runner
    from dkrd.loop import Loop, Timer

VERSION = 1
SECONDS = 10.0  # from the question to its answer
JOB_SECONDS = 5.0  # of a job that looks at a container's processes, one of which may hold it up
MAX = 256  # under way
MAX_OF_ONE = 32  # of one user; root has no bound of its own
_BROUGHT = 3  # times that a porter is brought for one question
_AGAIN = 0.02  # seconds until a guardian that does not listen yet is looked for again


@dataclass(slots=True)
class Question:
    """One question.

    request     id of the api's request, for who logs what it does
    ask         in the api's words; the shim reads them
    connection  the client's, proven; closed once the question is answered
    given       descriptor of a socket of the api's for what is more than an answer, or -1; closed with it
    owner       the uid it counts for
    unguarded   the job for a container without a guardian: its value is the answer, or its DkrError
    direct      that job answers, whether or not there is a guardian
    bring       where that job answers that somebody else could: has a porter listen at the container's door (porters.py)
    done        called once, with a value or an error
    """

    id: str
    request: str | None
    ask: dict[str, object]
    connection: socket.socket
    given: int
    owner: int
    unguarded: Callable[[], object]
    done: Callable[[object, DkrError | None], None]
    direct: bool = False
    bring: Callable[[Callable[[DkrError | None], None]], None] | None = None
    brought: int = 0
    link: socket.socket | None = None
    timer: Timer | None = None
    over: bool = False
    in_job: bool = False  # which needs `given`, however late it is


class Asks:
    """The questions under way.

    listener  device and inode of the socket from which the clients' connections were accepted
    stands    whether a porter is there for a container that does not run
    """

    def __init__(
        self, loop: Loop, runner: Runner, containers: Containers, run_dir: str, listener: tuple[int, int]
    ) -> None:
        self._loop = loop
        self._runner = runner
        self._containers = containers
        self._run_dir = run_dir
        self._listener = list(listener)
        self._counts: Counter[int] = Counter()
        self.stands: Callable[[str], bool] = lambda container_id: False

    def begin(self, question: Question) -> None:
        """Ask. Raises LimitReached; then the descriptors stay the caller's."""
        owner = question.owner
        if self._counts.total() >= MAX or (owner != 0 and self._counts[owner] >= MAX_OF_ONE):
            raise LimitReached(
                f"cannot ask {question.id[:12]}: too many questions wait for an answer", hint="try again"
            )
        self._counts[owner] += 1
        question.timer = self._loop.later(SECONDS, partial(self._late, question))
        if question.direct:
            self._without_guardian(question)
        else:
            self._connect(question)

    def _connect(self, question: Question) -> None:
        if question.over:
            return
        link = adoption.connect(f"{self._run_dir}/containers/{question.id}")
        if link is not None:
            self._send(question, link)
        elif self._containers.is_guarded(question.id):
            # Forked just now, it does not listen yet; or so many ask it that its backlog is full.
            self._loop.later(_AGAIN, partial(self._connect, question))
        else:
            self._without_guardian(question)

    def _send(self, question: Question, link: socket.socket) -> None:
        question.link = link
        self._loop.watch(link.fileno(), select.EPOLLIN, partial(self._hear, question))
        frame = {"type": "ask", "version": VERSION, "listener": self._listener, "ask": question.ask}
        if question.request is not None:
            frame["request"] = question.request
        rights = array.array("i", [question.connection.fileno()])
        if question.given >= 0:
            rights.append(question.given)
        # Where it has ended meanwhile, reading finds the end.
        with contextlib.suppress(OSError):
            link.sendmsg(
                [frames.dumps(frame)],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)],
                socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL,
            )

    def _hear(self, question: Question, events: int) -> None:
        """The answer; before it may come the state, which every connection to a shim is told."""
        assert question.link is not None
        try:
            received = wire.receive(question.link)
        except BlockingIOError:
            return
        except (OSError, ProtocolError):
            received = None
        if received is None:
            self._unlink(question)
            if question.brought:
                self._connect(question)  # it was about to go
            else:
                self._without_guardian(question)
            return
        data, descriptors = received
        wire.close_all(descriptors)
        try:
            message = frames.loads_object(data)
        except ValueError:
            message = {}
        if message.get("type") != "answer":
            return
        if "error" in message:
            self._finish(question, None, from_wire(message["error"]))
        else:
            self._finish(question, message.get("value"), None)

    def _without_guardian(self, question: Question) -> None:
        try:
            keep = (question.given,) if question.given >= 0 else ()
            question.in_job = True
            seconds = JOB_SECONDS if question.direct else None
            self._runner.submit("ask", question.unguarded, partial(self._job_done, question), keep, seconds)
        except DkrError as err:
            self._job_done(question, None, err)

    def _job_done(self, question: Question, value: object, error: DkrError | None) -> None:
        question.in_job = False
        if error is None and question.bring is not None and not question.over:
            if question.brought < _BROUGHT:
                question.brought += 1
                question.bring(partial(self._at_door, question))
                return
            error = Unavailable(
                f"cannot {question.ask.get('type')} {question.id[:12]}: who would hold it open cannot, or dies",
                hint="the daemon's log tells why",
            )
        self._finish(question, value, error)
        self._close_given(question)

    def _at_door(self, question: Question, error: DkrError | None = None) -> None:
        if question.over:
            return
        if error is not None:
            self._finish(question, None, error)
            return
        link = adoption.connect(f"{self._run_dir}/copies/{question.id}")
        if link is not None:
            self._send(question, link)
        elif self.stands(question.id):
            self._loop.later(_AGAIN, partial(self._at_door, question))
        else:
            self._connect(question)

    def _late(self, question: Question) -> None:
        error = Unavailable(
            f"cannot ask {question.id[:12]}: its guardian did not answer within {SECONDS:g} s",
            hint="what was asked for may still happen",
        )
        self._finish(question, None, error)

    def _unlink(self, question: Question) -> None:
        if question.link is not None:
            self._loop.forget(question.link.fileno())
            question.link.close()
            question.link = None

    @staticmethod
    def _close_given(question: Question) -> None:
        if question.given >= 0:
            os.close(question.given)
            question.given = -1

    def _finish(self, question: Question, value: object, error: DkrError | None) -> None:
        if question.over:
            return  # a job that was late
        question.over = True
        self._unlink(question)
        if question.timer is not None:
            question.timer.cancel()
        self._counts[question.owner] -= 1
        if not self._counts[question.owner]:
            del self._counts[question.owner]
        question.connection.close()
        if not question.in_job:
            self._close_given(question)
        question.done(value, error)
