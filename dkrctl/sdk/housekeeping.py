"""What the client has to watch what happens, and to tidy up: a part of Client, in a room of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkrctl.sdk.events import events

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from datetime import datetime

    from dkrctl.sdk.events import Event
    from dkrctl.sdk.transport import Transport


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
