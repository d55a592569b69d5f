"""From a request's body or query to a model, and from pydantic's complaints to the faults of a problem."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar, get_origin

from aiohttp import web
from pydantic import ValidationError
from pydantic_core import from_json

from common.errors import BadRequest
from common.model_base import Model

M = TypeVar("M", bound=Model)
MAX_BODY = 4 * 1024 * 1024  # bytes
BODY_SECONDS = 60.0  # from the end of the head to the end of the body; the largest takes milliseconds
MAX_KEYS = 64  # of the outermost object: pydantic would collect an error for each unknown one
MAX_FAULTS = 20  # told at once


async def read_json(request: web.Request) -> bytes:
    """The body of a request. Raises HTTPException where it is no JSON by its headers (415) or too large
    (413), BadRequest where it does not come in time.
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if request.content_type != "application/json" or encoding != "identity":
        raise web.HTTPUnsupportedMediaType
    length = request.content_length
    if length is not None and length > MAX_BODY:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY, length)
    return await read(request)


async def read(request: web.Request) -> bytes:
    """The body of a request, whatever it is. Raises BadRequest where it does not come in time, HTTPException where
    it is too large.
    """
    try:
        # For the whole: with a limit for each part, a byte a minute would keep a connection for ever.
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise BadRequest(
            f"cannot read the request: its body has not come within {BODY_SECONDS:g} s",
            hint="send what Content-Length announces",
        ) from None


async def body(request: web.Request, model: type[M], *, optional: bool) -> M:
    """The model of a request's body; its defaults where it is `optional` and there is none. Raises as `read_json` and `parse`."""
    if optional and not request.can_read_body:
        return model()
    return parse(await read_json(request), model)


_MESSAGES = {
    "missing": "is missing",
    "extra_forbidden": "unknown key",
    "string_type": "a string is wanted",
    "string_too_short": "is empty",
    "string_too_long": "is longer than {max_length} characters",
    "string_pattern_mismatch": "holds a character that it cannot have",
    "string_unicode": "is not valid Unicode",
    "bool_type": "true or false is wanted",
    "int_type": "an integer is wanted",
    "int_parsing_size": "is too large a number",
    "float_type": "a number is wanted",
    "finite_number": "is not a finite number",
    "model_type": "an object is wanted",
    "dict_type": "an object is wanted",
    "literal_error": "one of {expected} is wanted",
    "greater_than_equal": "is less than {ge}",
    "less_than_equal": "is more than {le}",
}


def _path(location: tuple[int | str, ...], below: str) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{str(part)[:80]}"
    return (path + below[:120]).lstrip(".") if path else below[:120].lstrip(".")


def faults(error: ValidationError) -> tuple[dict[str, str], ...]:
    """The first faults of a request as `{"path": "env.A", "message": "holds a NUL"}`, at most MAX_FAULTS."""
    found = []
    for entry in error.errors(include_url=False, include_input=False)[:MAX_FAULTS]:
        context = entry.get("ctx", {})
        message = _MESSAGES.get(entry["type"])
        text = message.format(**context) if message else entry["msg"]
        found.append({"path": _path(entry["loc"], str(context.get("path", ""))), "message": text})
    return tuple(found)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def parse(body: bytes, model: type[M]) -> M:
    """The model that the JSON of a body holds. Raises BadRequest with `fields`."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as err:
        raise _refused("request", ({"path": "", "message": f"is not JSON: {err}"},), model) from None
    if not isinstance(value, dict):
        raise _refused("request", ({"path": "", "message": "an object is wanted"},), model)
    return _checked("request", value, model)


def query(request: web.Request, model: type[M]) -> M:
    """The same for a query: each key once, but those whose values are a list."""
    values: dict[str, Any] = dict(request.query)
    fields = model.model_fields.values()
    several = {str(field.alias) for field in fields if get_origin(field.annotation) is tuple}
    for key in several & values.keys():
        values[key] = request.query.getall(key)
    twice = next(
        (key for key in values if len(request.query.getall(key)) > 1 and isinstance(values[key], str)), None
    )
    if twice is not None:
        raise _refused("query", ({"path": twice[:80], "message": "is given twice"},), model)
    return _checked("query", values, model)


class _Empty(Model):
    """What a query is held against where none is known."""


def no_query(request: web.Request) -> BadRequest:
    """The error for a query where there is none."""
    path = next(iter(request.query))[:80]
    return _refused("query", ({"path": path, "message": _MESSAGES["extra_forbidden"]},), _Empty)


def _checked(what: str, value: dict[str, Any], model: type[M]) -> M:
    if len(value) > MAX_KEYS:
        message = f"has {len(value)} keys; at most {MAX_KEYS} are possible"
        raise _refused(what, ({"path": "", "message": message},), model)
    try:
        return model.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as err:
        raise _refused(what, faults(err), model) from None


def _refused(what: str, fields: tuple[dict[str, str], ...], model: type[Model]) -> BadRequest:
    first = fields[0]
    more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
    where = f"{first['path']}: " if first["path"] else ""
    return BadRequest(
        _printable(f"cannot read the {what}: {where}{first['message']}{more}"),
        hint=_near(fields, model),
        fields=tuple({k: _printable(v) for k, v in field.items()} for field in fields),
    )


def _near(fields: tuple[dict[str, str], ...], model: type[Model]) -> str | None:
    """For the first unknown key, the known one that it may have meant."""
    for field in fields:
        if field["message"] == _MESSAGES["extra_forbidden"]:
            import difflib  # 3 ms, for a mistake only

            known = [info.alias or name for name, info in model.model_fields.items()]
            near = difflib.get_close_matches(field["path"], known, 1)
            return f"did you mean {near[0]}?" if near else None
    return None
