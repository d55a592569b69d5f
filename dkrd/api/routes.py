"""The API, one line a route: method, path, who may, query, body, answer, handler.

`who` is judged here for what is only shown; what is done is judged again by root's side, on the client's
connection.
"""

from __future__ import annotations

import inspect as inspection
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, get_origin

from aiohttp import web

from common.errors import BadRequest, Internal
from common.models import Container, KillRequest, Model, RunAnswer, RunRequest, Trace, VersionInfo, WaitAnswer
from dkrd.api import containers, life, version
from dkrd.api.attach import attach
from dkrd.api.connections import peer_of
from dkrd.api.run import run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

    Handler = Callable[[Context, Peer, web.Request], Awaitable[Any]]


class Who(StrEnum):
    """Who may use a route."""

    ANYONE = "anyone"  # who can connect
    OWNER = "owner"  # a user of the host, and for what is theirs; uid 0 and admins for everyone's


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the API. `body` is the model that the handler reads, `answer` the type that it returns."""

    method: str
    path: str
    who: Who
    query: frozenset[str]
    body: type[Model] | None
    answer: Any
    handler: Handler


_NONE: frozenset[str] = frozenset()

ROUTES = (
    Route("GET", "/_ping", Who.ANYONE, _NONE, None, web.Response, version.ping),
    Route("GET", "/v1/version", Who.ANYONE, _NONE, None, VersionInfo, version.version),
    Route("POST", "/v1/run", Who.OWNER, _NONE, RunRequest, RunAnswer, run),
    Route(
        "GET",
        "/v1/containers",
        Who.OWNER,
        frozenset(("all",)),
        None,
        list[Container],
        containers.list_containers,
    ),
    Route("GET", "/v1/containers/{container}", Who.OWNER, _NONE, None, Container, containers.inspect),
    Route("POST", "/v1/containers/{container}/kill", Who.OWNER, _NONE, KillRequest, None, life.kill),
    Route("POST", "/v1/containers/{container}/wait", Who.OWNER, _NONE, None, WaitAnswer, life.wait),
    Route("POST", "/v1/containers/{container}/attach", Who.OWNER, _NONE, None, web.StreamResponse, attach),
    Route("GET", "/v1/containers/{container}/explain", Who.OWNER, _NONE, None, Trace, containers.explain),
    Route("DELETE", "/v1/containers/{container}", Who.OWNER, _NONE, None, None, containers.remove),
)


def bind(route: Route, context: Context) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The aiohttp handler of `route`. Raises TypeError where its handler does not fit: at start-up, not at
    the first call.
    """
    handler = route.handler
    if not inspection.iscoroutinefunction(handler) or len(inspection.signature(handler).parameters) != 3:
        raise TypeError(
            f"{route.method} {route.path}: the handler is no coroutine of (context, peer, request)"
        )

    async def handle(request: web.Request) -> web.StreamResponse:
        peer = peer_of(request)
        if route.who is Who.OWNER:
            peer.account()
        unknown = [key for key in request.query if key not in route.query]
        if unknown or len(request.query) > len(route.query):
            path = unknown[0] if unknown else next(iter(route.query))
            fault = {"path": path[:80], "message": "unknown key" if unknown else "is given twice"}
            raise BadRequest(f"cannot read the query: {fault['path']}: {fault['message']}", fields=(fault,))
        return _answer(route, await handler(context, peer, request))

    return handle


def _answer(route: Route, value: object) -> web.StreamResponse:
    """The HTTP answer for what a handler returned; it must be what the table says (errors may be answered
    directly).
    """
    if isinstance(value, web.StreamResponse):
        return value
    if value is None and route.answer is None:
        return web.Response(status=204)
    if get_origin(route.answer) is list and isinstance(value, list):
        return _json(b"[" + b",".join(_dump(item) for item in value) + b"]")
    if isinstance(route.answer, type) and isinstance(value, route.answer) and isinstance(value, Model):
        return _json(_dump(value))
    raise Internal(f"cannot answer {route.method} {route.path}: the handler returned {type(value).__name__}")


def _dump(value: Model) -> bytes:
    return value.model_dump_json(by_alias=True, exclude_none=True).encode()


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
