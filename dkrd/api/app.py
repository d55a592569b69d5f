"""The aiohttp application: the routes of the table, and a middleware that turns every error into a
problem and logs.
"""

from __future__ import annotations

import errno
import logging
import time
from typing import TYPE_CHECKING

from aiohttp import web

from common.errors import DkrError, Internal, LimitReached, Unavailable
from dkrd.api import problems, request_ids
from dkrd.api.binding import bind
from dkrd.api.bodies import MAX_BODY
from dkrd.api.connections import begin, peer_of
from dkrd.api.metrics import counting
from dkrd.api.openapi import DESCRIPTION, Description
from dkrd.api.routes import ROUTES

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from dkrd.api.context import Context

log = logging.getLogger("dkr.api")

_OUT_OF_DESCRIPTORS = LimitReached(
    "cannot answer: the daemon is out of descriptors",
    hint="try again; if it lasts, have LimitNOFILE= of dkrd.service raised",
)


def make_app(context: Context) -> web.Application:
    """The application. Raises TypeError where a handler does not fit its line of the table."""
    app = web.Application(middlewares=[counting(context.metrics), _outermost], client_max_size=MAX_BODY + 1)
    app[DESCRIPTION] = Description(ROUTES)
    app.on_response_prepare.append(_tell_request)
    for method, path, handler in bind(ROUTES, context):
        app.router.add_route(method, path, handler)
    return app


@web.middleware
async def _outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
    begin(request)
    request_ids.begin()
    begun = time.perf_counter()
    try:
        answer = await _answered(request, handler)
    finally:
        elapsed = (time.perf_counter() - begun) * 1000
    if not answer.prepared:
        answer.headers["Server"] = (
            "dkr"  # whoever asks learns the release by /v1/version, not what it is made of
        )
    if log.isEnabledFor(logging.DEBUG):
        uid, pid = _who(request)
        log.debug(
            "%s %s %d in %.1f ms, uid %d, pid %d",
            request.method,
            request.path_qs[:200],
            answer.status,
            elapsed,
            uid,
            pid,
        )
    return answer


async def _tell_request(request: web.Request, answer: web.StreamResponse) -> None:
    """Also where the handler has begun its answer itself, as of what goes on and what is upgraded."""
    answer.headers[request_ids.HEADER] = request_ids.current()


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as err:
        return problems.of_http(err, request.method, request.path)
    except ConnectionError as err:
        if request.transport is not None:
            request.transport.abort()
        return problems.response(Unavailable(f"cannot answer: {err}"))  # nobody is there to read it
    except DkrError as err:
        if err.code in ("internal", "protocol"):
            log.error("%s %s: %s", request.method, request.path[:200], err)
        return problems.response(err)
    except Exception as err:
        if isinstance(err, OSError) and err.errno in (errno.EMFILE, errno.ENFILE):
            log.error("%s %s: %s", request.method, request.path[:200], err.strerror)
            return problems.response(_OUT_OF_DESCRIPTORS)
        log.exception("%s %s failed", request.method, request.path[:200])
        return problems.response(
            Internal(
                f"cannot answer: an error of the daemon; its log tells of request {request_ids.current()}"
            )
        )


def _who(request: web.Request) -> tuple[int, int]:
    try:
        peer = peer_of(request)
    except ConnectionError:
        return -1, 0
    return peer.uid, peer.pid
