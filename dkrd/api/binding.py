"""From the table to aiohttp: what comes in is read by its line before the handler sees it, what goes out is held against it.

A handler that does not fit its line is refused when the api starts, not at its first call.
"""

from __future__ import annotations

import inspect
from itertools import groupby
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from aiohttp import web

from common.errors import BadRequest, DkrError, Internal
from common.model_base import Model, list_of
from dkrd.api import bodies, problems
from dkrd.api.connections import peer_of
from dkrd.api.context import Context
from dkrd.api.peers import Peer
from dkrd.api.route import Json, Lines, Plain, Route, Switched, Tar, Who
from dkrd.api.upgrade import asked_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    Bound = Callable[[web.Request], Awaitable[web.StreamResponse]]

_METHODS = ("HEAD", "GET", "POST", "PUT", "DELETE")
_BY_HAND = {
    Switched: web.StreamResponse,
    Plain: web.Response,
    Json: web.Response,
    Tar: web.StreamResponse,
    Lines: web.StreamResponse,
}


def bind(routes: Iterable[Route], context: Context) -> Iterator[tuple[str, str, Bound]]:
    """(method, path, handler of aiohttp) of all lines. Raises TypeError where a handler does not fit its line, or a line
    is none.
    """
    seen: set[str] = set()
    places: set[tuple[str, str]] = set()
    for (method, path), lines in groupby(routes, lambda route: (route.method, route.path)):
        several = tuple(lines)
        if (method, path) in places:
            raise TypeError(
                f"{several[0].name}: it is in the table twice, or not beside the others of its path"
            )
        places.add((method, path))
        for route in several:
            if route.name in seen:
                raise TypeError(f"{route.name}: it is in the table twice")
            seen.add(route.name)
            check(route)
        yield method, path, _handle(several, context)


# --- at the start


def check(route: Route) -> None:
    """Raise TypeError, which says what, where the handler of `route` does not fit it, or the line itself is wrong."""
    complaint = _of_line(route) or _of_handler(route)
    if complaint:
        raise TypeError(f"{route.name}: {complaint}")


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Model)


def _outer(answer: Any) -> Any:  # noqa: ANN401  # as they come from a line
    """`Lines` of Lines[LogLine], `list` of list[Container], what it is of all else."""
    return get_origin(answer) or answer


def _of_line(route: Route) -> str | None:
    if route.method not in _METHODS:
        return f"its method is none of {', '.join(_METHODS)}"
    if not route.path.startswith("/"):
        return "its path does not begin with /"
    if not route.summary:
        return "it has no summary"
    if route.query is not None and not _is_model(route.query):
        return "its query is no model"
    if route.body is not None and (not _is_model(route.body) or route.method not in ("POST", "PUT")):
        return "its body is no model, or its method takes none"
    if route.stream and (route.body is not None or route.method != "PUT"):
        return "its body is an archive and something else, or its method takes none"
    if route.optional and (
        route.body is None or any(field.is_required() for field in route.body.model_fields.values())
    ):
        return "its body cannot be left out"
    several = _outer(route.answer) in (list, Lines)
    answer = next(iter(get_args(route.answer)), None) if several else route.answer
    if several and not _is_model(answer):
        return "its answer is of no model"
    if answer is not None and answer not in _BY_HAND and not _is_model(answer):
        return "its answer is none that can be sent"
    if (route.upgrade is not None) != (route.answer is Switched):
        return "it answers 101 without an upgrade, or has one and answers something else"
    if route.made and (not _is_model(route.answer) or "id" not in route.answer.model_fields):
        return "what it makes has no id"
    if not all(issubclass(error, DkrError) for error in route.errors):
        return "its errors are no classes of common/errors.py"
    return None


def _of_handler(route: Route) -> str | None:
    handler = route.handler
    if not inspect.isfunction(handler) or not inspect.iscoroutinefunction(handler):
        return "the handler is no coroutine function"
    wanted: dict[str, Any] = {"context": Context, "peer": Peer, "request": web.Request}
    if route.query is not None:
        wanted["query"] = route.query
    if route.body is not None:
        wanted["body"] = route.body
    parameters = inspect.signature(handler).parameters
    if list(parameters) != list(wanted):
        return f"the handler takes ({', '.join(parameters)}), not ({', '.join(wanted)})"
    odd = [
        p.name
        for p in parameters.values()
        if p.kind is not p.POSITIONAL_OR_KEYWORD or p.default is not p.empty
    ]
    if odd:
        return f"the handler's {odd[0]} is no ordinary parameter without a default"
    wanted["return"] = _BY_HAND.get(_outer(route.answer), route.answer)
    return _of_types(handler, wanted)


def _of_types(handler: Callable[..., object], wanted: dict[str, Any]) -> str | None:
    # Handlers import for their annotations only where a type checker reads them: the names are ours here.
    known = {kind.__name__: kind for kind in _classes(wanted.values())}
    try:
        found = get_type_hints(handler, localns={**known, "web": web})
    except NameError as err:
        return f"the handler's annotations name what the line does not: {err.name}"
    for name, kind in wanted.items():
        expected = type(None) if kind is None else kind
        if name not in found:
            return f"the handler's {name} has no annotation"
        if found[name] != expected:
            return f"the handler's {name} is {_shown(found[name])}, not {_shown(expected)}"
    return None


def _classes(kinds: Iterable[Any]) -> Iterator[type]:
    for kind in kinds:
        yield from (part for part in (kind, *get_args(kind)) if isinstance(part, type) and not get_args(part))


def _shown(kind: Any) -> str:  # noqa: ANN401  # whatever somebody wrote there
    return str(kind) if get_args(kind) else str(getattr(kind, "__name__", kind))


# --- at each request


def _handle(lines: tuple[Route, ...], context: Context) -> Bound:
    by_upgrade = {route.upgrade: route for route in lines}
    [only] = lines if len(lines) == 1 else [None]

    async def handle(request: web.Request) -> web.StreamResponse:
        route = only if only is not None and only.upgrade is None else _chosen(by_upgrade, request)
        if route is None:
            return _upgrade_required(by_upgrade)
        peer = peer_of(request)
        if route.who is Who.OWNER:
            peer.account()
        elif route.who is Who.ADMIN:
            peer.check_admin()
        given: list[Model] = []
        if route.query is not None:
            given.append(bodies.query(request, route.query))
        elif request.query:
            raise bodies.no_query(request)
        if route.body is not None:
            given.append(await bodies.body(request, route.body, optional=route.optional))
        elif not route.stream and request.can_read_body and await bodies.read(request):
            raise BadRequest("cannot read the request: it has a body, and none is wanted")
        return answer(route, await route.handler(context, peer, request, *given))

    return handle


def _chosen(by_upgrade: dict[str | None, Route], request: web.Request) -> Route | None:
    """The line that a request means; None where it must ask for another protocol, or for one."""
    if "Upgrade" not in request.headers and None in by_upgrade:
        return by_upgrade[None]
    for protocol in asked_for(request):
        if protocol in by_upgrade:
            return by_upgrade[protocol]
    return None


def _upgrade_required(by_upgrade: dict[str | None, Route]) -> web.Response:
    protocols = [protocol for protocol in by_upgrade if protocol]
    verb = next(iter(by_upgrade.values())).path.rpartition("/")[2]
    error = BadRequest(
        f"cannot {verb}: the connection must be upgraded to {' or '.join(protocols)}",
        hint=f"use dkrctl {verb}",
    )
    return problems.response(error, 426, {"Upgrade": ", ".join(protocols), "Connection": "Upgrade"})


def answer(route: Route, value: object) -> web.StreamResponse:
    """The HTTP answer for what a handler returned. Raises Internal where it is not what the table says."""
    if value is None and route.answer is None:
        return web.Response(status=204)
    if _outer(route.answer) in _BY_HAND and isinstance(value, web.StreamResponse):
        return value
    if get_origin(route.answer) is list and isinstance(value, list):
        [kind] = get_args(route.answer)
        if all(isinstance(item, kind) for item in value):
            return _json(route, list_of(kind).dump_json(value, by_alias=True, exclude_none=True))
    if _is_model(route.answer) and isinstance(value, route.answer):
        return _json(route, _dump(value), {"Location": f"{route.path}/{value.id}"} if route.made else None)
    raise Internal(f"cannot answer {route.name}: the handler returned {type(value).__name__}")


def _dump(value: Model) -> bytes:
    return value.model_dump_json(by_alias=True, exclude_none=True).encode()


def _json(route: Route, body: bytes, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=route.status, content_type="application/json", headers=headers)
