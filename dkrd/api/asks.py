"""Questions to root's side about a container, with the client's connection as evidence: what it answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from common.errors import Conflict, DkrError, NotFound, Unavailable, from_wire
from dkrd.api import request_ids
from dkrd.api.connections import evidence

if TYPE_CHECKING:
    from aiohttp import web

    from common.models import Container
    from dkrd.api.channel import Answer
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

ASK_SECONDS = 15.0  # the launcher gives a guardian 10, and a job may follow
NEWS_SECONDS = 1.0  # for which an answer waits, where the launcher is busy, for what it may have to tell


async def find(context: Context, peer: Peer, request: web.Request) -> Container:
    """The container that the path names, by id, name or unique beginning of its id, if it is there for
    `peer`. Raises NotFound, Conflict.

    What a guardian has told its client is true here too, though it may come later: that the container was made, that it runs.
    """
    reference = request.match_info["container"]
    scope = peer.scope()

    async def look() -> Container:
        return await context.index.ask(lambda index: index.find(reference, scope, peer.owner))

    with contextlib.suppress(NotFound):
        container = await look()
        if container.status == "running":
            request_ids.concerns(container.id)
            return container
    await context.channel.catch_up(NEWS_SECONDS)
    container = await look()
    request_ids.concerns(container.id)
    return container


def check_runs(container: Container, verb: str) -> None:
    """Raise Conflict where `container` does not run, as far as is known here."""
    if container.status == "stopped":
        raise Conflict(f"cannot {verb} {container.name}: it has ended", rule="ended")
    check_begun(container, verb)


def check_begun(container: Container, verb: str) -> None:
    """Raise Conflict where `container` has never been started, as far as is known here."""
    if container.status == "created":
        raise Conflict(
            f"cannot {verb} {container.name}: it has not been started",
            rule="not-started",
            hint="start it first",
        )


async def ask_guardian(
    context: Context, request: web.Request, container: Container, ask: dict[str, object], *given: int
) -> object:
    """What the guardian of `container` answers to `ask` (docs/protocol.md, section 6). Raises the DkrError
    that it answers instead, or Unavailable. `given` goes along, a socket for what is more than an answer; it is closed.
    """
    message: dict[str, object] = {"type": "ask", "id": container.id, "ask": ask}
    what = f"{ask['type']} {container.name}"
    return (await ask_about(context, request, container, message, what, ASK_SECONDS, *given)).get("value")


async def ask_about(
    context: Context,
    request: web.Request,
    container: Container,
    message: dict[str, object],
    what: str,
    patience: float,
    *given: int,
) -> dict[str, object]:
    """As `ask_root`, of `container`, which is called by its name in errors."""
    try:
        return await ask_root(context, request, message, what, patience, *given)
    except DkrError as err:
        naming(err, container)
        raise


def naming(error: DkrError, container: Container) -> DkrError:
    """`error` with the name of `container` in place of its id: root's side does not know more of one that nobody guards."""
    error.message = error.message.replace(container.id[:12], container.name)
    return error


async def ask_root(
    context: Context,
    request: web.Request,
    message: dict[str, object],
    what: str,
    patience: float,
    *given: int,
) -> dict[str, object]:
    """The launcher's answer to `message`, within `patience` seconds. Raises the DkrError of a refusal, or
    Unavailable. `what` is what then cannot be done: "remove happy_ada". `given` goes along with the evidence, and is
    closed.
    """
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def on_answer(answer: Answer) -> None:
        if not answered.done():
            answered.set_result(answer)

    with contextlib.ExitStack() as undo:
        for fd in given:
            undo.callback(os.close, fd)
        fds = (evidence(request), *given)
        undo.pop_all()
    context.channel.ask(message, fds, on_answer)
    try:
        async with asyncio.timeout(patience):
            answer = await answered
    except TimeoutError:
        raise Unavailable(
            f"cannot {what}: no answer within {patience:g} s", hint="it may still happen"
        ) from None
    if isinstance(answer, DkrError):
        raise answer
    if answer.get("type") == "refused":
        raise from_wire(answer.get("error"))
    return answer
