"""Sessions with a container that runs, to attach to it or to execute in it: find it, answer 101, hand the client's connection to its
guardian.

Who may is judged by the guardian, on that connection and on what the client says to it; so is whether there is a terminal to attach
to. What it refuses is told by us: nobody else has the client's ear.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from common.errors import DkrError, from_wire
from dkrd.api.asks import check_runs, find, naming
from dkrd.api.upgrade import tell, upgrade

if TYPE_CHECKING:
    from aiohttp import web

    from common.exec_models import ExecRequest
    from dkrd.api.channel import Answer
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

log = logging.getLogger("dkr.api")


async def attach(context: Context, peer: Peer, request: web.Request) -> web.StreamResponse:
    """Attach the client to the terminal of a running container."""
    return await hand_over(context, peer, request, "attach", "attach to")


async def execute(
    context: Context, peer: Peer, request: web.Request, body: ExecRequest
) -> web.StreamResponse:
    """Have a further command executed in a running container. The request was read here for the sake of what is told of a bad one:
    the guardian goes by what the client says to it, and is not told of this one.
    """
    return await hand_over(context, peer, request, "exec", "execute in")


async def hand_over(
    context: Context, peer: Peer, request: web.Request, ask: str, verb: str, *, runs: bool = True
) -> web.StreamResponse:
    """Answer 101 and give the client's connection to the guardian, which is asked for `ask`. `runs`: without one there is no use."""
    container = await find(context, peer, request)
    if runs:
        check_runs(container, verb)

    def give(fd: int) -> None:
        def answered(answer: Answer) -> None:
            """Called while `fd` is open."""
            if not isinstance(answer, DkrError):
                if answer.get("type") == "done":
                    return
                answer = naming(from_wire(answer.get("error")), container)
            log.info("uid %d cannot %s: %s", peer.uid, verb, answer)
            tell(fd, answer)

        message: dict[str, object] = {"type": "ask", "id": container.id, "ask": {"type": ask}}
        context.channel.ask(message, (fd,), answered)

    return await upgrade(request, give)
