"""GET /v1/containers/{container}/top: its processes, which a job of root's looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from common.act_models import Top
from common.errors import ProtocolError
from dkrd.api.asks import ask_guardian, check_runs, find

if TYPE_CHECKING:
    from aiohttp import web

    from common.act_models import TopQuery
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer


async def top(context: Context, peer: Peer, request: web.Request, query: TopQuery) -> Top:
    """Those there are at the moment."""
    container = await find(context, peer, request)
    check_runs(container, "look into")
    columns = {} if query.columns is None else {"columns": query.columns.split(",")}
    answer = await ask_guardian(context, request, container, {"type": "top", **columns})
    try:
        return Top.model_validate(_frozen(answer), by_alias=True, by_name=False)
    except ValidationError as err:
        raise ProtocolError("cannot read what root's side tells of processes") from err


def _frozen(value: object) -> object:
    """Lists as the tuples that a strict model wants."""
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return {key: _frozen(item) for key, item in value.items()} if isinstance(value, dict) else value
