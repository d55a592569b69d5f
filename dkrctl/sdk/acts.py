"""The client's acts on a container that stands."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from common.act_models import Stats, Top
from common.restarts import policy_from
from dkrctl.daemon import target
from dkrctl.json_lines import Splitter
from dkrctl.sdk.answers import model

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from dkrctl.sdk.transport import Transport

_TOP = TypeAdapter(Top)
_STATS = TypeAdapter(Stats)
_ALL_STATS = TypeAdapter(list[Stats])


class Acts:
    """The part of `Client` that acts on containers by plain requests, none of which is ever sent twice."""

    _transport: Transport

    async def top(self, container: str, columns: Iterable[str] | None = None) -> Top:
        """The processes of a container that runs: `titles`, and a text for each in `processes`; what is said there of a command is
        the command's own doing. `columns`: by the names that ps has for them; None: as ps -ef. Raises NotFound, Conflict, BadRequest.
        """
        query = None if columns is None else {"columns": ",".join(columns)}
        return model(_TOP, await self._transport.ask("GET", target(container, "/top"), query=query))

    async def stats(self) -> list[Stats]:
        """What each of the caller's containers that run (an admin's: everybody's) uses of the machine, the newest first."""
        return model(_ALL_STATS, await self._transport.ask("GET", "/v1/stats"))

    async def follow_stats(self, container: str) -> AsyncGenerator[Stats]:
        """What a container uses, each second anew, until it ends: `async for one in dkr.follow_stats(name):`. What it used of the
        processors is the difference of two, by that of `read`.

        Raises NotFound, Conflict (it does not run), Unavailable where it is cut off.
        """
        splitter = Splitter("the usage", partial(model, _STATS))
        stream = self._transport.stream(target(container, "/stats"), {"stream": "true"})
        async with contextlib.aclosing(stream) as pieces:
            async for piece in pieces:
                for one in splitter.feed(piece):
                    yield one
        splitter.end()

    async def stop(
        self,
        container: str,
        *,
        signal: str | int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the container's, not the call's
    ) -> None:
        """Stop a container; returns when it has ended, at once where it does not run.

        signal   what asks it to end, by name or number; else its own
        timeout  seconds until SIGKILL, 0: at once, -1: never; else its own. How long the call itself may take is another matter:
                 cancelled, it has begun the stop

        Raises NotFound, Conflict (rule `unguarded`: its guardian was killed).
        """
        await self._transport.ask("POST", target(container, "/stop"), stop_of(signal, timeout))

    async def restart(
        self,
        container: str,
        *,
        signal: str | int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the container's, not the call's
    ) -> None:
        """Stop a container as `stop` does, and start it again; one that does not run is started. Returns when its command runs.
        Cancelled before it has ended it leaves it stopped.

        Raises NotFound, Conflict (rules `unguarded`, and `descriptors` and `rm`: it cannot be started again, and runs on);
        CommandNotFound and the like where it could not be started.
        """
        await self._transport.ask("POST", target(container, "/restart"), stop_of(signal, timeout))

    async def pause(self, container: str) -> None:
        """Have none of a container's processes run, until `unpause`; returns when they stand still.

        Raises NotFound, Conflict (rule `paused`, and where it does not run), Unavailable where a process cannot be had to stand still.
        """
        await self._transport.ask("POST", target(container, "/pause"))

    async def unpause(self, container: str) -> None:
        """Let a container that is paused go on. Raises NotFound, Conflict (rule `not-paused`, and where it does not run)."""
        await self._transport.ask("POST", target(container, "/unpause"))

    async def rename(self, container: str, name: str) -> None:
        """Call a container otherwise, whether or not it runs. Raises NotFound, Conflict where the name is in use, BadRequest."""
        await self._transport.ask("POST", target(container, "/rename"), {"name": name})

    async def update(
        self,
        container: str,
        *,
        memory: int | None = None,
        swap: int | None = None,
        cpus: float | None = None,
        pids_limit: int | None = None,
        restart: str | None = None,
    ) -> None:
        """Bound a container otherwise, now and at its next starts, or have it restarted otherwise: all that is given, or nothing.

        memory      bytes, not less than it uses; -1: without bound, of swap neither
        swap        bytes beside that, -1: without bound
        cpus        processors' worth of time, -1: without bound
        pids_limit  processes and threads, -1: without bound, for who may
        restart     its restart policy from now on, as of `create`

        Raises NotFound, BadRequest, NotPermitted, Conflict (rules `memory-in-use`, `unguarded`; of `restart` `rm` and
        `descriptors`: it cannot be started again), HostUnfit.
        """
        policy = None if restart is None else policy_from(restart)
        wanted = {"restart": policy, "memory": memory, "swap": swap, "cpus": cpus, "pidsLimit": pids_limit}
        body = {key: value for key, value in wanted.items() if value is not None}
        await self._transport.ask("POST", target(container, "/update"), body)


def stop_of(signal: str | int | None, timeout: float | None) -> dict[str, object] | None:
    """How something is stopped, as the API wants it."""
    body: dict[str, object] = {}
    if signal is not None:
        body["signal"] = signal if isinstance(signal, str) else str(int(signal))
    if timeout is not None:
        body["timeout"] = timeout
    return body or None
