"""The one place where our error codes meet HTTP statuses, and where an error becomes a body (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

from common import frames
from common.errors import BadRequest, DkrError, Internal, LimitReached, NotFound
from dkrd.api import request_ids

STATUSES = {
    "bad-request": 400,
    "not-permitted": 403,
    "not-found": 404,
    "conflict": 409,
    "start-failed": 422,
    "command-not-found": 422,
    "command-not-executable": 422,
    "limit-reached": 429,
    "internal": 500,
    "host-unfit": 501,
    "protocol": 502,
    "unavailable": 503,
}
CONTENT_TYPE = "application/problem+json"


def problem(error: DkrError, status: int | None = None) -> dict[str, object]:
    """The body for `error`; `status` where HTTP itself has a finer one (405, 413, 415, 426)."""
    number = status or STATUSES.get(error.code, 500)
    wire, request = error.to_wire(), request_ids.current()
    return {
        "type": "about:blank",
        "code": wire.pop("code"),
        "title": HTTPStatus(number).phrase,
        "status": number,
        "detail": wire.pop("message"),
        **wire,
        **({"request": request} if request else {}),
    }


def response(
    error: DkrError, status: int | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    """The answer for `error`."""
    body = problem(error, status)
    number = body["status"]
    assert isinstance(number, int)
    return web.Response(status=number, body=frames.dumps(body), content_type=CONTENT_TYPE, headers=headers)


def of_http(exc: web.HTTPException, method: str, path: str) -> web.Response:
    """The answer for an error that aiohttp itself raised: no such route, wrong method, body too large."""
    shown = path if len(path) <= 200 else path[:200] + "..."
    if exc.status == 404:
        return response(NotFound(f"cannot find {shown}: the API has no such path"))
    if exc.status == 405:
        allowed = exc.headers.get("Allow", "")
        error = BadRequest(
            f"cannot {method} {shown}: the path does not know this method", hint=f"it knows {allowed}"
        )
        return response(error, 405, {"Allow": allowed})
    if exc.status == 413:
        return response(LimitReached("cannot read the request: the body is larger than 4 MiB"), 413)
    if exc.status == 415:
        wanted = "a body of type application/json without Content-Encoding is wanted"
        return response(BadRequest(f"cannot read the request: {wanted}"), 415)
    if 400 <= exc.status < 500:
        return response(BadRequest(f"cannot read the request: {exc.reason.lower()}"), exc.status)
    return response(Internal("cannot answer: an error of the daemon"), 500)
