"""GET /v1/containers, GET and DELETE /v1/containers/{container}.

Others' containers are not there (404), except for uid 0 and the admin group.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from pydantic import ValidationError

from common.clock import now
from common.errors import Conflict, NotFound, Unavailable
from common.trace import Trace
from dkrd.api.asks import NEWS_SECONDS, ask_about, ask_guardian, check_begun, find
from dkrd.api.connections import ended_when_lost
from dkrd.api.health import with_results
from dkrd.api.sizes import sizes_of

if TYPE_CHECKING:
    from aiohttp import web

    from common.detached import RemoveQuery
    from common.models import Container, ContainersQuery
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer
    from dkrd.state.index import Index

REMOVE_SECONDS = 60.0
END_SECONDS = 20.0  # from SIGKILL to the end: what waits in the kernel for something that never answers cannot be killed


async def list_containers(
    context: Context, peer: Peer, request: web.Request, query: ContainersQuery
) -> list[Container]:
    """Those that are alive, the newest first; with `all` those that have not been started or have stopped too."""
    scope = peer.scope()
    await context.channel.catch_up(NEWS_SECONDS)
    found = await context.index.ask(lambda index: index.containers(scope, query.all))
    if not query.size:
        return found
    sizes = await sizes_of(context, request, [one.id for one in found])
    return [
        one.model_copy(update={"size": size.upper, "log_size": size.log}) if size is not None else one
        for one, size in ((one, sizes.get(one.id)) for one in found)
    ]


async def inspect(context: Context, peer: Peer, request: web.Request) -> Container:
    """One container, by id, name or unique beginning of its id."""
    return await with_results(context, request, await find(context, peer, request))


async def explain(context: Context, peer: Peer, request: web.Request) -> Trace:
    """How it was started, step by step, as its guardian has recorded it."""
    container = await find(context, peer, request)
    check_begun(container, "explain")
    try:
        return Trace.model_validate(await ask_guardian(context, request, container, {"type": "explain"}))
    except ValidationError as err:
        raise Unavailable(
            f"cannot explain {container.name}: its guardian, of another release, tells it in another form",
            hint="start the container anew",
        ) from err


async def remove(context: Context, peer: Peer, request: web.Request, query: RemoveQuery) -> None:
    """Remove a container that does not run; with `force` it is killed before. Root's side judges by the client's connection,
    which is handed over.
    """
    container = await find(context, peer, request)
    if container.status == "restarting" and not query.force:
        raise Conflict(
            f"cannot remove {container.name}: it waits to be restarted",
            rule="restarting",
            hint="stop it first, or use force: dkrctl rm -f",
        )
    if (
        query.force
        and container.status not in ("created", "stopped")
        and await _end(context, request, container)
    ):
        return
    await discard(context, request, container)


async def discard(context: Context, request: web.Request, container: Container) -> None:
    """Have one removed that does not run. Raises DkrError."""
    message: dict[str, object] = {"type": "remove", "id": container.id}
    try:
        await ask_about(context, request, container, message, f"remove {container.name}", REMOVE_SECONDS)
    except NotFound:
        forget(context, container.id)  # root knows best what there is
        raise
    forget(context, container.id)


async def _end(context: Context, request: web.Request, container: Container) -> bool:
    """Kill it and wait for its end; whether nothing of it is left then."""
    with context.endings.of(container.id) as ending, ended_when_lost(request):
        try:
            await ask_guardian(context, request, container, {"type": "kill", "signal": signal.SIGKILL})
        except Conflict as err:
            if err.rule != "ended":
                raise
        waited = END_SECONDS
        try:
            async with asyncio.timeout(END_SECONDS) as limit:
                # One that had ended already may have been told of before this was asked.
                await context.channel.catch_up()
                try:
                    container = await context.index.ask(lambda index: index.find(container.id, None, None))
                except NotFound:
                    return True
                if container.status != "stopped":
                    await ending.stopped
                waited = REMOVE_SECONDS
                limit.reschedule(asyncio.get_running_loop().time() + waited)
                if container.rm:
                    await ending.removed
        except TimeoutError:
            raise Unavailable(
                f"cannot remove {container.name}: it is not gone {waited:g} s after SIGKILL",
                rule="stuck",
                hint="a process of it may wait in the kernel, as for a filesystem that does not answer (dkrctl top tells which); try again",
            ) from None
    return container.rm


def forget(context: Context, container: str, time: str | None = None, report: int | None = None) -> None:
    """Nothing of `container` is left, since `time`, or now; the report of this number says so."""
    context.names.forget(container)
    # Not when it is written: who was answered meanwhile asks for what has happened until now.
    time = time or now()

    def write(index: Index) -> None:
        if index.hear(report):
            index.remove(container, time)

    context.index.post(write)
