"""Attaching to a running container: from the ask to a client among the others.

    ask ─► session socket to the client ─► its first frame ─► judged ─► Clients
           "done" to the launcher

The api cannot send a client elsewhere: the frame names the container, and comes past it. As in a start the
lesser of the two credentials counts, the connection's and the frame's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import BadRequest, DkrError, NotPermitted, ProtocolError
from dkrd.shim import callers
from dkrd.shim.awaited import Awaited
from dkrd.shim.clients import MAX_SIZE, has_ended, is_integer
from dkrd.shim.config import DISCONNECT
from dkrd.shim.descriptors import close_all
from dkrd.shim.session import VERSION

if TYPE_CHECKING:
    from dkrd.loop import Loop
    from dkrd.policy import Caller, Credentials
    from dkrd.shim.asks import Ask
    from dkrd.shim.called import Called
    from dkrd.shim.clients import Clients
    from dkrd.shim.session import Session
    from dkrd.shim.task import ShimTask

_KEYS = {"type", "version", "container", "onDisconnect", "stdin", "height", "width"}


class Attaching:
    """Those who want to attach, until their first frame has come and was judged. `owner` has the container."""

    def __init__(self, loop: Loop, task: ShimTask, name: Called, owner: int, clients: Clients) -> None:
        self._task = task
        self._name = name
        self._owner = owner
        self._clients = clients
        self._awaited = Awaited(loop, task, f"attach to {name}", self._hear)

    def ask(self, ask: Ask) -> dict[str, object]:
        """Answer `{"type": "attach"}`: the session is on its way to the client. Raises DkrError."""
        if set(ask.body) != {"type"}:
            raise BadRequest("cannot read the ask: attach has no further keys")
        self._clients.check_attach()
        self._awaited.take(ask)
        return {}

    def end(self) -> None:
        """The container has ended: nobody can attach any more."""
        self._awaited.end(has_ended(self._name))

    def _hear(self, session: Session, connection: Credentials, plain: bool) -> None:
        uid = connection.uid
        try:
            frame, descriptors, credentials = session.hello()
            close_all(descriptors)
            if descriptors:
                raise ProtocolError("cannot read the first frame: an attach brings no descriptors")
            size = check(frame, self._task.id)
            # In the place of a client that speaks plain HTTP the api has sent the frame.
            who = callers.weigh(self._task, connection, connection if plain else credentials)
            uid = who.uid
            callers.check_owner(who, self._owner, self._task.id)
            self._clients.check_attach()
        except BlockingIOError:
            return
        except (DkrError, OSError) as err:
            error = err if isinstance(err, DkrError) else ProtocolError(f"cannot go on: {err.strerror}")
            self._task.log.audit(
                "not attached",
                id=self._task.id,
                uid=uid,
                code=error.code,
                rule=error.rule,
                cause=error.message,
            )
            self._awaited.refuse(session, error)
            return
        self._admit(session, who, frame, size)

    def _admit(self, session: Session, who: Caller, frame: dict[str, object], size: tuple[int, int]) -> None:
        self._awaited.admit(session)
        self._task.log.audit("attached", id=self._task.id, uid=who.uid, admin=who.admin or None)
        self._clients.attach(session, str(frame["onDisconnect"]), frame["stdin"] is True, size)


def admit(clients: Clients, session: Session, frame: dict[str, object]) -> None:
    """The client that starts a container and attaches to it in one; its frame has passed `check`."""
    clients.attach(session, str(frame["onDisconnect"]), frame["stdin"] is True, check(frame), first=True)


def other_container(container: str) -> NotPermitted:
    """Why a client that asked for another container is not served here."""
    return NotPermitted(
        f"cannot attach to {container[:12]}: the client asked for another container",
        rule="other-container",
        hint="the api that sent the client here was taken over, or has a defect",
    )


def check(frame: dict[str, object], container: str | None = None) -> tuple[int, int]:
    """The size that the first frame tells, after a look at all of it. Raises ProtocolError, NotPermitted."""
    if set(frame) != _KEYS or frame["type"] != "attach" or frame["version"] != VERSION:
        raise ProtocolError(
            f"cannot read the first frame: it is not a version {VERSION} attach",
            hint="use a dkrctl of the daemon's release",
        )
    if container is not None and frame["container"] != container:
        raise other_container(container)
    rows, columns = frame["height"], frame["width"]
    if not is_integer(rows, 0, MAX_SIZE) or not is_integer(columns, 0, MAX_SIZE):
        raise ProtocolError(
            "cannot read the first frame: height and width are no numbers of rows and columns"
        )
    if type(frame["stdin"]) is not bool or frame["onDisconnect"] not in DISCONNECT:
        raise ProtocolError(
            "cannot read the first frame: stdin or onDisconnect is none of the possible values"
        )
    return rows, columns
