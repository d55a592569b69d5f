"""The table and its handlers: what does not fit is refused at the start; what is answered is what the table says."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from common.errors import BadRequest, Internal, NotFound
from common.info import VersionInfo
from common.model_base import Model
from common.models import Container, ContainersQuery, PlainRun, RunRequest
from dkrd.api.binding import answer, bind, check
from dkrd.api.route import Json, Plain, Route, Switched, Who
from dkrd.api.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

VERSION = VersionInfo(version="1", api_version="1", os="linux", arch="x", kernel="6", python="3")


async def fits(context: Context, peer: Peer, request: web.Request) -> VersionInfo:
    return VERSION


LINE = Route("GET", "/v1/x", Who.OWNER, None, None, VersionInfo, fits, "Something")


def refusal(route: Route) -> str:
    with pytest.raises(TypeError) as caught:
        check(route)
    text = str(caught.value)
    assert text.startswith(f"{route.name}: ")
    return text.partition(": ")[2]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_line_fits(route: Route) -> None:
    check(route)


def test_this_line_fits() -> None:
    check(LINE)


# --- handlers that do not


def plain(context: Context, peer: Peer, request: web.Request) -> VersionInfo:
    return VERSION


async def fewer(context: Context, peer: Peer) -> VersionInfo:
    return VERSION


async def swapped(peer: Peer, context: Context, request: web.Request) -> VersionInfo:
    return VERSION


async def more(context: Context, peer: Peer, request: web.Request, body: RunRequest) -> VersionInfo:
    return VERSION


async def default(context: Context, peer: Peer, request: web.Request = None) -> VersionInfo:  # type: ignore[assignment]
    return VERSION


async def keyword(context: Context, peer: Peer, *, request: web.Request) -> VersionInfo:
    return VERSION


async def bare(context, peer, request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    return VERSION


async def half(context: Context, peer: Peer, request) -> VersionInfo:  # type: ignore[no-untyped-def]  # noqa: ANN001
    return VERSION


async def other_type(context: Context, peer: Context, request: web.Request) -> VersionInfo:
    return VERSION


async def other_answer(context: Context, peer: Peer, request: web.Request) -> Container:
    raise NotImplementedError


async def listed(context: Context, peer: Peer, request: web.Request) -> list[VersionInfo]:
    return [VERSION]


async def unknown(context: Context, peer: Peer, request: web.Request) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
    return VERSION


@pytest.mark.parametrize(
    ("handler", "complaint"),
    [
        (plain, "no coroutine function"),
        (functools.partial(fits), "no coroutine function"),
        (fewer, "takes (context, peer), not (context, peer, request)"),
        (swapped, "takes (peer, context, request)"),
        (more, "takes (context, peer, request, body)"),
        (default, "request is no ordinary parameter"),
        (keyword, "request is no ordinary parameter"),
        (bare, "context has no annotation"),
        (half, "request has no annotation"),
        (other_type, "peer is Context, not Peer"),
        (other_answer, "return is Container, not VersionInfo"),
        (listed, "return is list[common.info.VersionInfo], not VersionInfo"),
        (unknown, "annotations name what the line does not: Nowhere"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_handler_that_does_not_fit(handler: Callable[..., Any], complaint: str) -> None:
    assert complaint in refusal(replace(LINE, handler=handler))


async def with_query(
    context: Context, peer: Peer, request: web.Request, query: ContainersQuery
) -> VersionInfo:
    return VERSION


async def with_both(
    context: Context, peer: Peer, request: web.Request, query: ContainersQuery, body: PlainRun
) -> VersionInfo:
    return VERSION


def test_query_and_body_are_those_of_the_line() -> None:
    check(replace(LINE, handler=with_query, query=ContainersQuery))
    both = replace(LINE, method="POST", handler=with_both, query=ContainersQuery, body=PlainRun)
    check(both)
    assert "takes (context, peer, request, query)" in refusal(replace(LINE, handler=with_query))
    assert "query is ContainersQuery, not VersionInfo" in refusal(
        replace(LINE, handler=with_query, query=VersionInfo)
    )
    assert "body is PlainRun, not RunRequest" in refusal(replace(both, body=RunRequest))


# --- lines that are none


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"method": "get"}, "method"),
        ({"path": "v1/x"}, "path"),
        ({"summary": ""}, "no summary"),
        ({"query": dict}, "query is no model"),
        ({"query": "ContainersQuery"}, "query is no model"),
        ({"body": RunRequest}, "body is no model, or its method takes none"),
        ({"method": "POST", "body": str}, "body is no model"),
        ({"answer": dict}, "answer is none that can be sent"),
        ({"answer": list[str]}, "answer is of no model"),
        ({"upgrade": "dkr-session/1"}, "101 without an upgrade"),
        ({"answer": Switched}, "101 without an upgrade"),
        ({"errors": (ValueError,)}, "errors"),
    ],
    ids=str,
)
def test_a_line_that_is_none(changes: dict[str, Any], complaint: str) -> None:
    assert complaint in refusal(replace(LINE, **changes))


def bound(*routes: Route) -> list[tuple[str, str]]:
    context: Any = None  # never called
    return [(method, path) for method, path, _ in bind(routes, context)]


def test_a_line_cannot_be_there_twice_but_with_an_upgrade() -> None:
    async def switched(context: Context, peer: Peer, request: web.Request) -> web.StreamResponse:
        raise NotImplementedError

    other = replace(LINE, upgrade="dkr-session/1", answer=Switched, handler=switched)
    assert bound(LINE, other) == [("GET", "/v1/x")]
    assert len(bound(LINE, replace(LINE, path="/v1/y"))) == 2
    with pytest.raises(TypeError, match="twice"):
        bound(LINE, LINE)
    with pytest.raises(TypeError, match="twice"):
        bound(LINE, replace(LINE, path="/v1/y"), LINE)
    with pytest.raises(TypeError, match="takes"):
        bound(LINE, replace(LINE, path="/v1/y", handler=fewer))


# --- answers


def sent(kind: object, value: object) -> tuple[int, bytes]:
    made = answer(replace(LINE, answer=kind), value)
    assert isinstance(made, web.Response)
    assert isinstance(made.body, bytes | None)
    return made.status, made.body or b""


def test_answers_are_what_the_table_says() -> None:
    assert sent(None, None) == (204, b"")
    assert sent(VersionInfo, VERSION)[0] == 200
    assert sent(list[VersionInfo], [VERSION, VERSION])[1].count(b"apiVersion") == 2
    assert sent(list[VersionInfo], []) == (200, b"[]")
    assert sent(Plain, web.Response(text="x")) == (200, b"x")
    assert sent(Json, web.Response(text="{}")) == (200, b"{}")


class Other(Model):
    """Another one."""


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (VersionInfo, None),
        (VersionInfo, Other()),
        (VersionInfo, [VERSION]),
        (VersionInfo, web.Response()),
        (list[VersionInfo], VERSION),
        (list[VersionInfo], [Other()]),
        (None, VERSION),
        (None, web.Response()),
        (Plain, "text"),
        (Switched, None),
    ],
)
def test_another_answer_is_a_defect(kind: object, value: object) -> None:
    with pytest.raises(Internal, match="GET /v1/x"):
        answer(replace(LINE, answer=kind), value)


def test_errors_are_kinds_of_ours() -> None:
    check(replace(LINE, errors=(NotFound, BadRequest)))
