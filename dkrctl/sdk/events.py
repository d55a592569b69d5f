"""Events as typed objects."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from common.models import ExitStatus
from dkrctl.event_lines import splitter
from dkrctl.event_position import Event as Said
from dkrctl.event_position import Position
from dkrctl.sdk.following import Following
from dkrctl.sdk.logs import told

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from datetime import datetime

    from common.events import Action
    from dkrctl.sdk.transport import Transport


@dataclass(frozen=True, slots=True)
class Event:
    """What has happened to a container.

    time      when, RFC 3339 with nanoseconds; of two events never the same
    labels    of the container; empty too where it has more than 16 KiB of them
    exit      how it ended, of a `die`, or the further command, of an `exec_die`; None where nobody could learn it
    signal    of a `kill`
    took      of a `start`: seconds from the daemon's fork to the command's execution
    restarts  of a `restart` that nobody asked for: how often, since somebody has started it
    reason    of the same: `policy` or `health`
    old_name  of a `rename`
    exec      of `exec_…`: the id of the further command; `command`: its beginning, but of `exec_die`
    """

    time: str
    action: Action
    id: str
    name: str
    uid: int
    image: str
    labels: dict[str, str]
    exit: ExitStatus | None = None
    signal: int | None = None
    took: float | None = None
    restarts: int | None = None
    reason: Literal["policy", "health"] | None = None
    old_name: str | None = None
    exec: str | None = None
    command: str | None = None


async def events(
    transport: Transport,
    since: datetime | str | None,
    until: datetime | str | None,
    filters: Iterable[str],
) -> AsyncGenerator[Event]:
    """The events as they come, each once, over a restart of the daemon too. Raises DkrError, ValueError for a time that does not
    know its zone.
    """
    query = [("filter", word) for word in filters]
    query += [
        (name, told(name, time)) for name, time in (("since", since), ("until", until)) if time is not None
    ]
    async with contextlib.aclosing(_Reading(transport, query).items()) as found:
        async for said in found:
            yield _event(said)


class _Reading(Following[Said]):
    """Events that are read."""

    def __init__(self, transport: Transport, query: Iterable[tuple[str, str]]) -> None:
        self._position = Position(query)
        super().__init__(transport, self._position)

    async def answered(self) -> AsyncGenerator[list[Said]]:
        lines, query = splitter(), self._position.query()
        async with contextlib.aclosing(self._transport.stream("/v1/events", query, self.begun)) as pieces:
            async for piece in pieces:
                yield lines.feed(piece)
        lines.end()


def _event(said: dict[str, object]) -> Event:
    ended, signal, took, labels = said.get("exit"), said.get("signal"), said.get("took"), said["labels"]
    restarts, old_name = said.get("restarts"), said.get("oldName")
    execid, command = said.get("execID"), said.get("command")
    return Event(
        time=str(said["time"]),
        action=cast("Action", said["action"]),
        id=str(said["id"]),
        name=str(said["name"]),
        uid=cast("int", said["uid"]),
        image=str(said["image"]),
        labels=dict(labels) if isinstance(labels, dict) else {},
        exit=None if ended is None else ExitStatus.model_validate(ended),
        signal=signal if isinstance(signal, int) else None,
        took=took if isinstance(took, float) else None,
        restarts=restarts if isinstance(restarts, int) else None,
        reason=cast("Literal['policy', 'health'] | None", said.get("reason")),
        old_name=old_name if isinstance(old_name, str) else None,
        exec=execid if isinstance(execid, str) else None,
        command=command if isinstance(command, str) else None,
    )
