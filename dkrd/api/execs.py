"""POST /v1/containers/{container}/exec without an upgrade, GET …/execs and POST …/execs/{exec}/kill: what is executed in a container, as
its guardian tells.

Whose it is is judged by the guardian, on the client's connection. Nothing of it is kept here: what has ended is not told any more.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from common.errors import ProtocolError
from common.exec_models import Exec
from dkrd.api.asks import ask_guardian, check_runs, find
from dkrd.api.connections import evidence, on_lost
from dkrd.api.plain import Streams, outcome
from dkrd.api.sessions import Session, execute

if TYPE_CHECKING:
    from aiohttp import web

    from common.exec_models import PlainExec
    from common.models import KillRequest, RunAnswer
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer


async def plain_exec(context: Context, peer: Peer, request: web.Request, body: PlainExec) -> RunAnswer:
    """Execute a command to its end and tell what became of it. Raises DkrError where it could not be started.

    This process is in the client's place, as in a plain run: so it is refused in a container that was granted more than a tenant has.
    """
    container = await find(context, peer, request)
    check_runs(container, "execute in")
    first: dict[str, object] = {
        "type": "exec",
        "container": container.id,
        "request": body.to_request(),
        "stdio": [0, 1, 2],
        "tty": [],
    }
    with (
        contextlib.closing(Streams(body)) as streams,
        contextlib.closing(Session(f"execute in {container.name}", first, streams.theirs())) as session,
        on_lost(request, session.lost),
    ):
        streams.begin()
        execute(context, container, session, evidence(request))
        return await outcome(session, streams, "exec")


async def list_execs(context: Context, peer: Peer, request: web.Request) -> list[Exec]:
    """Those that run, the oldest first."""
    container = await find(context, peer, request)
    check_runs(container, "list what is executed in")
    value = await ask_guardian(context, request, container, {"type": "execs"})
    told = value.get("execs") if isinstance(value, dict) else None
    try:
        return [Exec.model_validate(entry, by_alias=True, strict=False) for entry in told or []]
    except ValueError as err:
        raise ProtocolError(f"cannot understand the guardian of {container.name}: {err}") from err


async def kill_exec(context: Context, peer: Peer, request: web.Request, body: KillRequest) -> None:
    """Send a signal to one of them, named by its id or the unique beginning of that."""
    container = await find(context, peer, request)
    check_runs(container, "signal what is executed in")
    ask: dict[str, object] = {"type": "exec-kill", "exec": request.match_info["exec"], "signal": body.signal}
    await ask_guardian(context, request, container, ask)
