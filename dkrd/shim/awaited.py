"""Sessions of a running container whose clients have yet to say what they want: bounded in number, and in time.

ask ─► session socket to the client, or the one that the api has made ─► its first frame ─► `on_first`
       "done" to the launcher
"""

from __future__ import annotations

import select
from functools import partial
from typing import TYPE_CHECKING

from common.errors import DkrError, LimitReached, ProtocolError, Unavailable
from dkrd.shim.session import FIRST_FRAME_SECONDS, Session, offer

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.loop import Loop, Timer
    from dkrd.policy import Credentials
    from dkrd.shim.asks import Ask
    from dkrd.shim.task import ShimTask

    # The session, whose connection it came from, and whether the api has sent the frame in the place of a client.
    OnFirst = Callable[[Session, Credentials, bool], None]

MAX_PENDING = 16  # sessions without a first frame


class Awaited:
    """Those of one kind.

    what      cannot be done for who is refused: "attach to web"
    on_first  called when a first frame is there to be read; it has to `admit` or to `refuse`, or is called again
    """

    def __init__(self, loop: Loop, task: ShimTask, what: str, on_first: OnFirst) -> None:
        self._loop = loop
        self._task = task
        self._what = what
        self._on_first = on_first
        self._pending: dict[Session, Timer] = {}

    @property
    def are_there(self) -> bool:
        """Whether any is awaited."""
        return bool(self._pending)

    def take(self, ask: Ask) -> None:
        """Put the session of `ask` on its way to the client. Raises LimitReached, Unavailable."""
        if len(self._pending) >= MAX_PENDING:
            raise LimitReached(f"cannot {self._what}: too many clients are about to", hint="try again")
        given = ask.take_socket()
        try:
            session = Session(given or offer(ask.connection, self._task.id))
        except OSError as err:
            raise Unavailable(f"cannot {self._what}: the client takes no session: {err.strerror}") from err
        fd = session.fileno()
        session.on_close = lambda: self._loop.forget(fd)
        self._loop.watch(
            fd, select.EPOLLIN, lambda _events: self._first(session, ask, plain=given is not None)
        )
        self._pending[session] = self._loop.later(FIRST_FRAME_SECONDS, partial(self._late, session))

    def _first(self, session: Session, ask: Ask, *, plain: bool) -> None:
        self._task.log.request = ask.request
        try:
            self._on_first(session, ask.credentials, plain)
        finally:
            self._task.log.request = None

    def admit(self, session: Session) -> None:
        """Its first frame was good: it is another's from here on."""
        self._pending.pop(session).cancel()
        self._loop.forget(session.fileno())

    def refuse(self, session: Session, error: DkrError) -> None:
        """Tell the client why it is not served."""
        self._pending.pop(session).cancel()
        session.send({"type": "error", "error": error.to_wire()})
        session.close()

    def end(self, error: DkrError) -> None:
        """Nobody is served any more."""
        for session in list(self._pending):
            self.refuse(session, error)

    def _late(self, session: Session) -> None:
        self.refuse(
            session,
            ProtocolError(f"cannot go on: the client sent no first frame within {FIRST_FRAME_SECONDS:.0f} s"),
        )
