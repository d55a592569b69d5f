"""GET /v1/openapi.json: OpenAPI 3.1, assembled from the table and from the models that validate.

The schemas are pydantic's own, of the very classes that read the requests (common/shapes.py says what functions check);
answers have theirs too. What is the same for many lines stands here: which errors any request may meet.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from typing import TYPE_CHECKING, Any, get_args, get_origin

from aiohttp import web
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from common import errors
from common.model_base import Model
from common.problem import Problem
from common.version import VERSION
from dkrd.api.problems import CONTENT_TYPE, STATUSES
from dkrd.api.route import Json, Lines, Plain, Route, Switched, Tar, Who

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

    Object = dict[str, Any]

_REF = "#/components/schemas/"
_ABOUT = """The daemon answers on a Unix socket, `/run/dkr/dkr.sock` unless it is set otherwise; the host's name in an URL has no \
meaning. Who asks is what the kernel says of the connection: there are no credentials. Others' containers are not there (404), \
except for root and members of the group `dkr-admin`.

Objects are closed: an unknown key is an error that names its path. What has no value is left out, never null, except in \
`ExitStatus`. Every error is a problem (RFC 9457) whose `code` is stable."""

# What any request may meet, besides what its line says.
_ANY = (errors.BadRequest, errors.LimitReached, errors.Internal, errors.Unavailable)
_OF_OWNER = (errors.NotPermitted,)
_OF_CONTAINER = (errors.NotFound, errors.Conflict)
# HTTP's own statuses, problems.of_http(): status -> (code, what it means)
_OF_BODY = {
    413: ("limit-reached", "The body is larger than 4 MiB"),
    415: ("bad-request", "The body is not application/json, or is compressed"),
}
_OF_UPGRADE = {
    426: ("bad-request", "The connection must be upgraded, as the header Upgrade of this answer says")
}
_BY_HAND = {413: _OF_BODY[413], 415: _OF_BODY[415], 426: _OF_UPGRADE[426]}

LINES_TYPE = "application/x-ndjson"
TAR_TYPE = "application/x-tar"
_BYTES: Object = {"type": "string", "contentMediaType": TAR_TYPE}
_OF_WEBSOCKET: list[Object] = [
    {
        "name": name,
        "in": "header",
        "required": True,
        "description": "RFC 6455, section 4.1",
        "schema": {"type": "string", **schema},
    }
    for name, schema in (
        ("Sec-WebSocket-Version", {"const": "13"}),
        ("Sec-WebSocket-Key", {"pattern": "^[A-Za-z0-9+/]{21}[AQgw]==$"}),
    )
]

_CONTAINER: Object = {
    "name": "container",
    "in": "path",
    "required": True,
    "description": "its id, its name, or the unique beginning of its id",
    "schema": {"type": "string", "minLength": 1},
    "example": "calm_otter4821",
}


_EXEC: Object = {
    "name": "exec",
    "in": "path",
    "required": True,
    "description": "the id of an exec, or the unique beginning of it",
    "schema": {"type": "string", "minLength": 1},
    "example": "6f6f6f6f6f6f",
}


class _Generator(GenerateJsonSchema):
    """Pydantic's, less what is not so here: null is no value, and a field is called what it is called."""

    def nullable_schema(self, schema: Any) -> Object:  # noqa: ANN401  # a core schema
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> Object:  # noqa: ANN401
        found = super().default_schema(schema)
        if found.get("default", "") is None:
            del found["default"]
        return found

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401
        return False


class Description:
    """The description of a table, made when somebody asks for the first time."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = tuple(routes)
        self._text = b""

    def text(self) -> bytes:
        """As JSON."""
        if not self._text:
            self._text = json.dumps(describe(self._routes), ensure_ascii=False).encode()
        return self._text


DESCRIPTION = web.AppKey("description", Description)


async def openapi(context: Context, peer: Peer, request: web.Request) -> web.Response:
    """The description of this API."""
    return web.Response(body=request.app[DESCRIPTION].text(), content_type="application/json")


def describe(routes: Iterable[Route]) -> Object:
    """The OpenAPI document of a table."""
    table = sorted(routes, key=lambda route: route.path)
    paths: Object = {}
    for (path, method), lines in groupby(table, lambda route: (route.path, route.method)):
        paths.setdefault(path, {})[method.lower()] = _operation(tuple(lines))
    models = {model for route in table for model in _models(route)} | {Problem}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema(
        [(model, "validation") for model in ordered],
        schema_generator=_Generator,
        ref_template=_REF + "{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dkr",
            "version": VERSION,
            "summary": "Containers in milliseconds",
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "http://dkr", "description": "over the Unix socket"}],
        "tags": [{"name": "containers"}, {"name": "daemon"}],
        "paths": paths,
        "components": {"schemas": schemas["$defs"], "responses": _problems()},
    }


def _models(route: Route) -> list[type[Model]]:
    kinds = (route.body, route.answer, *get_args(route.answer))
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Model)]


# --- a line, or the lines that one method of a path has


def _operation(lines: tuple[Route, ...]) -> Object:
    first = lines[0]
    [who, *_] = sorted({route.who for route in lines}, key=list(Who).index, reverse=True)
    texts = [_text(route) for route in lines]
    operation: Object = {
        "operationId": "_".join(
            re.findall(r"[a-z]+", f"{first.method.lower()} {first.path.replace('/v1', '')}")
        ),
        "tags": ["containers" if first.path.startswith(("/v1/containers", "/v1/run")) else "daemon"],
        "summary": first.summary,
        "description": "\n\n".join(texts),
        "x-dkr-who": who.value,
        "responses": _responses(lines),
    }
    parameters = [*_of_path(first), *_of_queries(lines), *_of_upgrades(lines)]
    if parameters:
        operation["parameters"] = parameters
    bodies = [{"$ref": _REF + route.body.__name__} for route in lines if route.body is not None]
    if bodies:
        schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
        required = not any(route.optional for route in lines)
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": schema}}}
    if any(route.stream for route in lines):
        operation["requestBody"] = {"required": True, "content": {TAR_TYPE: {"schema": _BYTES}}}
    return operation


def _text(route: Route) -> str:
    """What a line is for; which of several it is, by its upgrade."""
    text = f"{route.summary}. {route.about}".strip()
    if route.upgrade is None:
        return text
    body = f" The body is a `{route.body.__name__}`." if route.body else ""
    return f"With `Connection: Upgrade` and `Upgrade: {route.upgrade}`: {text}{body}"


def _of_path(route: Route) -> list[Object]:
    named = {"{container}": _CONTAINER, "{exec}": _EXEC}
    return [parameter for name, parameter in named.items() if name in route.path]


def _of_queries(lines: tuple[Route, ...]) -> list[Object]:
    """The queries of all lines; of one that not all have, with whose it is."""
    found: list[Object] = []
    for model in dict.fromkeys(route.query for route in lines if route.query is not None):
        having = [route for route in lines if route.query is model]
        upgrades = " or ".join(f"`Upgrade: {route.upgrade}`" for route in having if route.upgrade)
        whose = f" (with {upgrades})" if len(having) < len(lines) and upgrades else ""
        schema = model.model_json_schema(by_alias=True, schema_generator=_Generator)
        for name, of_one in schema["properties"].items():
            about = of_one.pop("description", "") + whose
            needed: Object = {"required": True} if name in schema.get("required", ()) else {}
            found.append({"name": name, "in": "query", **needed, "description": about, "schema": of_one})
    return found


def _of_upgrades(lines: tuple[Route, ...]) -> list[Object]:
    """The headers that ask for another protocol, required where no line does without."""
    protocols = [route.upgrade for route in lines if route.upgrade]
    if not protocols:
        return []
    wanted: Object = {"const": protocols[0]} if len(protocols) == 1 else {"enum": protocols}
    required = len(protocols) == len(lines)
    about = "with the other one" + ("" if required else ", for another way to be answered")
    found: list[Object] = [
        {
            "name": name,
            "in": "header",
            "required": required,
            "description": about,
            "schema": {"type": "string", **schema},
        }
        for name, schema in (("Connection", {"const": "Upgrade"}), ("Upgrade", wanted))
    ]
    return found + (_OF_WEBSOCKET if protocols == ["websocket"] else [])


def _responses(lines: tuple[Route, ...]) -> Object:
    switching = [route for route in lines if route.answer is Switched]
    answers: Object = {str(route.status): _answer(route) for route in lines if route not in switching}
    if switching:
        answers["101"] = _switched([str(route.upgrade) for route in switching])
    statuses: set[int] = set()
    for route in lines:
        kinds: list[type[errors.DkrError]] = [*_ANY, *route.errors]
        kinds += _OF_OWNER if route.who is not Who.ANYONE else ()
        kinds += _OF_CONTAINER if "{container}" in route.path else ()
        statuses |= {STATUSES[kind.code] for kind in kinds}
        statuses |= set(_OF_BODY) if route.body is not None else set()
        statuses |= {415} if route.stream else set()
        statuses |= set(_OF_UPGRADE) if route.upgrade is not None else set()
    problems = {str(status): {"$ref": f"#/components/responses/{_name(status)}"} for status in statuses}
    return dict(sorted({**answers, **problems}.items()))


def _switched(protocols: list[str]) -> Object:
    wanted: Object = {"const": protocols[0]} if len(protocols) == 1 else {"enum": protocols}
    return {
        "description": f"The connection speaks {' or '.join(protocols)} from here on",
        "headers": {
            "Upgrade": {"required": True, "schema": wanted},
            "Connection": {"required": True, "schema": {"pattern": "^[Uu]pgrade$"}},
        },
    }


def _answer(route: Route) -> Object:
    if route.answer is None:
        return {"description": "Done"}
    if route.answer is Plain:
        text = {"schema": {"type": "string"}, "example": route.example}
        return {"description": route.summary, "content": {"text/plain": text}}
    if route.answer is Tar:
        content = {"content": {TAR_TYPE: {"schema": _BYTES}}} if route.method != "HEAD" else {}
        return {"description": route.summary, **content}
    schema: Object
    if get_origin(route.answer) is Lines:
        schema = {"$ref": _REF + get_args(route.answer)[0].__name__}
        return {
            "description": "Lines, each an object of this schema",
            "content": {LINES_TYPE: {"schema": schema}},
        }
    if route.answer is Json:
        schema = {"type": "object"}
    elif get_origin(route.answer) is list:
        schema = {"type": "array", "items": {"$ref": _REF + get_args(route.answer)[0].__name__}}
    else:
        schema = {"$ref": _REF + route.answer.__name__}
    answer = {"description": route.summary, "content": {"application/json": {"schema": schema}}}
    if route.made:
        about = "where it is from now on"
        answer["headers"] = {
            "Location": {"required": True, "description": about, "schema": {"type": "string"}}
        }
    return answer


# --- problems


def _name(status: int) -> str:
    return f"Problem{status}"


def _problems() -> Object:
    """A reusable answer for each status of an error: which codes it has, what they mean, what one looks like."""
    found: Object = {}
    for status in sorted({*STATUSES.values(), *_BY_HAND}):
        if status in _BY_HAND:
            code, about = _BY_HAND[status]
            codes = [code]
        else:
            codes = [code for code, number in STATUSES.items() if number == status]
            about = " ".join(f"`{code}`: {(errors.CLASSES[code].__doc__ or '').strip()}" for code in codes)
        known = {"properties": {"status": {"const": status}, "code": {"enum": codes}}}
        schema = {"allOf": [{"$ref": _REF + Problem.__name__}, known]}
        found[_name(status)] = {"description": about, "content": {CONTENT_TYPE: {"schema": schema}}}
    return found
