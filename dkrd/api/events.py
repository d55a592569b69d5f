"""GET /v1/events: what has happened to containers, in the order in which it became known, and what happens.

A client that reads slowly is slow alone (feed.py). What it is too slow for is told it in a last line, and the answer ends.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import TYPE_CHECKING

from aiohttp import web

from common import frames
from common.clock import now
from common.errors import LimitReached
from common.filters import ACTION_WORDS, Filters, any_value, has_label, is_action, one_of
from dkrd.api.asks import NEWS_SECONDS
from dkrd.api.connections import ended_when_lost
from dkrd.api.openapi import LINES_TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.events import EventsQuery
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer
    from dkrd.state.events import Event

KEYS = {
    "container": any_value,
    "event": one_of("event", "event", ACTION_WORDS),
    "image": any_value,
    "label": any_value,
    "type": one_of("type", "type", ("container",)),
}


async def events(
    context: Context, peer: Peer, request: web.Request, query: EventsQuery
) -> web.StreamResponse:
    """The events that are wanted, the oldest first; without `until` further ones as they come."""
    scope, filters = peer.scope(), Filters(query.filter, KEYS)
    with context.feed.reader(peer.uid), ended_when_lost(request):
        await context.channel.catch_up(NEWS_SECONDS)
        past = query.since is not None or query.until is not None
        place = await context.feed.place(query.since, scope, past=past)
        reader = _Reader(context, scope, filters, query, *place)
        response = web.StreamResponse(headers={"Server": "dkr"})
        response.content_type = LINES_TYPE
        await response.prepare(request)
        while (lines := await reader.next()) is not None:
            if lines:
                await response.write(lines)
    return response


class _Reader:
    """One reader's place, and what it wants."""

    def __init__(
        self,
        context: Context,
        scope: int | None,
        filters: Filters,
        query: EventsQuery,
        place: int,
        known: Mapping[int, int],
    ) -> None:
        self._context = context
        self._feed = context.feed
        self._scope = scope
        self._filters = filters
        self._since, self._until = query.since, query.until
        self._place = place
        self._known = known
        self._time = query.since or now()  # of the last event that was read
        self._over = False

    async def next(self) -> bytes | None:
        """Lines, maybe none; None at the end."""
        if self._over:
            return None
        if await self._feed.has_lost(self._place, self._scope, self._known):
            self._over = True
            return await self._lost()
        found, place = await self._feed.after(self._place, self._scope)
        if place == self._place:
            self._over = not await self._wait()
            # What was reported until then, and is on its way.
            if self._over:
                await self._context.channel.catch_up(NEWS_SECONDS)
                return await self._rest()
            return b""
        self._place = place
        return self._lines(found)

    async def _rest(self) -> bytes:
        """What is left until `until`; few, for all before was read."""
        found, _ = await self._feed.after(self._place, self._scope)
        return self._lines(found)

    async def _wait(self) -> bool:
        """Return at the next news; False where `until` comes before."""
        if self._until is None:
            await self._feed.news(self._place, self._scope)
            return True
        try:
            async with asyncio.timeout(_seconds_to(self._until)):
                await self._feed.news(self._place, self._scope)
        except TimeoutError:
            return False
        return True

    def _lines(self, found: list[Event]) -> bytes:
        if found:
            self._time = found[-1].time
        return b"".join(event.line() for event in found if self._wants(event))

    def _wants(self, event: Event) -> bool:
        early = self._since is not None and event.time < self._since
        if early or (self._until is not None and event.time > self._until):
            return False
        return self._filters.match(
            {
                "container": lambda value: value == event.name or event.id.startswith(value),
                "event": lambda value: is_action(event.action, value),
                "image": lambda value: value == event.image,
                "label": lambda value: has_label(event.labels, value),
                "type": lambda value: True,
            }
        )

    async def _lost(self) -> bytes:
        left, _ = await self._feed.after(self._place, self._scope)
        next_one = left[0].time if left else now()
        error = LimitReached(
            f"cannot tell all events: those between {self._time} and {next_one} are lost",
            hint="they were not read for so long that they are not kept any more; read faster, or less by --filter",
        )
        return frames.dumps({"time": now(), "type": "error", "error": error.to_wire()}) + b"\n"


def _seconds_to(moment: str) -> float:
    """Until a time is over; the kernel's clock, by which events are dated, shows no less than the whole of it."""
    whole = datetime.fromisoformat(f"{moment[:19]}+00:00").timestamp() + int(moment[20:29]) / 1e9
    return max(0.0, whole - time.time())
