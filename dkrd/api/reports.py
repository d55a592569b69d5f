"""What the launcher reports of containers (docs/protocol.md, section 4), and what is made of it: index, names, and who waits.

Each report has a number. It is written down once, and then the launcher is told, which keeps it until then for the next api.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from common.filters import ACTIONS
from common.models import ContainerState
from dkrd.api.containers import forget
from dkrd.api.log import about

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dkrd.api.context import Context
    from dkrd.state.events import Event
    from dkrd.state.index import Index

    Message = dict[str, object]

log = logging.getLogger("dkr.api")

NOTE_SECONDS = 0.25  # from a report that is written down to the word of it: one word for many


def parse_state(value: object) -> ContainerState | None:
    """A shim's report. One that does not fit is logged and left out: it must not keep the others from being
    served.
    """
    try:
        return ContainerState.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as err:
        where = ".".join(str(part) for part in err.errors()[0]["loc"])
        container = str(value.get("id")) if isinstance(value, dict) else ""
        log.error(
            "a container's state cannot be read: %s: %s",
            where,
            err.errors()[0]["msg"],
            extra=about(container),
        )
        return None


def replay(index: Index, epoch: str, unheard: Iterable[Message]) -> None:
    """Write down what was reported while there was no api, or was not written down by the one before."""
    index.listen(epoch)
    for message in unheard:
        writing = _writing(message)
        if writing is not None and index.hear(_number(message)):
            writing(index)


def take(context: Context, message: Message) -> None:
    """`state`, `gone`, `event`, `failed` or `steps`."""
    kind, number = message.get("type"), _number(message)
    if kind == "gone":
        container, time = str(message.get("id")), _text(message.get("time"))
        context.endings.removed(container)
        forget(context, container, time, number)
        return
    if kind == "steps":
        context.metrics.stepped(message.get("steps"))
        return
    if kind == "failed":
        context.metrics.start_failed(str(message.get("code")))
        context.index.post(lambda index: index.hear(number))
        return
    state = parse_state(message.get("state")) if kind == "state" else None
    if state is not None:
        _know(context, state)
    writing = _writing(message, state)
    if writing is not None:
        context.index.post(lambda index: index.hear(number) and writing(index))
    if state is not None and state.status == "stopped":
        context.endings.stopped(state.id, state.exit)
    elif state is not None and state.status == "running":
        context.endings.begun(state.id)


def _know(context: Context, state: ContainerState) -> None:
    if state.rm and state.status == "stopped":
        # Only its removal is left, for which nobody waits: who starts the next one may have the name.
        context.names.forget(state.id)
    else:
        context.names.bind(state.uid, state.name, state.id)


def _writing(message: Message, state: ContainerState | None = None) -> Callable[[Index], object] | None:
    """What is to be written down of a report; None where it cannot be read."""
    kind, container, time = message.get("type"), str(message.get("id")), _text(message.get("time"))
    if kind == "gone":
        return lambda index: index.remove(container, time)
    if kind == "state":
        known = state or parse_state(message.get("state"))
        return None if known is None else lambda index: index.report(known)
    if kind == "failed":
        return lambda index: None
    action, signal = message.get("action"), message.get("signal")
    if time is None or action not in ACTIONS:
        log.error("an event cannot be read", extra=about(container))
        return None
    more: Message = {"signal": signal} if type(signal) is int else {}
    more |= {key: message[key] for key in ("execID", "command", "exit") if key in message}
    # Of a further command that comes to nothing nothing is told; of another both at once, as Docker has them.
    actions = ("exec_create", "exec_start") if action == "exec_start" else (str(action),)

    def note(index: Index) -> None:
        for each in actions:
            index.events.note(container, each, time, more)

    return note


def _number(message: Message) -> int | None:
    number = message.get("number")
    return number if type(number) is int else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


class Noting:
    """Tells the launcher which reports are written down, and readers what has happened."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._noted = 0
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, events: list[Event], heard: int) -> None:
        """These events and the reports up to this number are on the disk."""
        self._context.feed.add(events)
        self._context.metrics.happened(events)
        if heard != self._noted and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(NOTE_SECONDS, self._say)
        self._noted = heard

    def _say(self) -> None:
        self._timer = None
        said: dict[str, Any] = {"type": "noted", "number": self._noted}
        self._context.channel.post(said)
