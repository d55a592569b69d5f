"""What the client has to watch what happens, and to tidy up: a part of Client, in a room of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from common.usage import Change, DiskUsage, Pruned
from dkrctl.daemon import target
from dkrctl.sdk.answers import model
from dkrctl.sdk.events import events

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from datetime import datetime

    from dkrctl.sdk.events import Event
    from dkrctl.sdk.transport import Transport


_PRUNED = TypeAdapter(Pruned)
_USAGE = TypeAdapter(DiskUsage)
_CHANGES = TypeAdapter(list[Change])


class Housekeeping:
    """Part of Client."""

    _transport: Transport

    def events(
        self,
        *,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        filters: Iterable[str] = (),
    ) -> AsyncGenerator[Event]:
        """What happens to containers, each event once and in order: `async for event in dkr.events():`; left as `logs`.

        since    what has happened from then on as well, as far as it is kept; times as of `logs`
        until    the end; without, it goes on
        filters  `container=`, `event=`, `label=`, `type=`, as of `dkrctl events --filter`

        A question, asked again until its answer begins. Raises BadRequest, LimitReached where it was read too slowly and events are lost,
        Unavailable where the daemon is restarted: ask again with the last event's time as `since`, which gives that one once more.
        """
        return events(self._transport, since, until, filters)

    async def disk_usage(self) -> DiskUsage:
        """What the caller's containers and logs (an admin's: everybody's) take of the disk, and the layers below them."""
        return model(_USAGE, await self._transport.ask("GET", "/v1/system/df"))

    async def diff(self, container: str) -> list[Change]:
        """What a container has changed of its root: paths that it added (`A`), changed (`C`) or deleted (`D`), in order.

        Raises NotFound, LimitReached where there are more than 50000.
        """
        return model(_CHANGES, await self._transport.ask("GET", target(container, "/diff")))

    async def prune(self, *, filters: Iterable[str] = (), dry_run: bool = False) -> Pruned:
        """Remove the caller's containers (an admin's: everybody's) that do not run: which were removed, and the bytes they had.

        filters  `until=` (RFC 3339: made before it), `label=`, `label!=`; all must match
        dry_run  remove nothing

        An act, never sent twice. What could not be removed is in `failed`. Raises BadRequest.
        """
        body = {"filter": list(filters), "dryRun": dry_run}
        return model(_PRUNED, await self._transport.ask("POST", "/v1/containers/prune", body))
