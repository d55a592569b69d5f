"""The API's description: it is one, it is whole, and what it says of a model is what the model takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from common.detached import CreateRequest
from common.errors import BadRequest
from common.models import PlainRun, RunRequest
from dkrd.api import bodies
from dkrd.api.openapi import Description, describe
from dkrd.api.problems import STATUSES
from dkrd.api.routes import ROUTES
from tests.unit.api_process import api_directory
from tests.unit.test_models import BAD, BASE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.model_base import Model

DOCUMENT = json.loads(Description(ROUTES).text())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


def validator(schema: dict[str, Any]) -> Any:
    """For a schema of the document's."""
    return jsonschema_rs.validator_for(
        {**schema, "components": DOCUMENT["components"]}, validate_formats=True
    )


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_it_is_openapi() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_every_line_is_in_it_and_nothing_else() -> None:
    assert {name for name, _ in operations()} == {f"{route.method} {route.path}" for route in ROUTES}
    ids = [operation["operationId"] for _, operation in operations()]
    assert len(set(ids)) == len(ids)


def test_every_operation_tells_what_it_is_for_and_what_may_go_wrong() -> None:
    for name, operation in operations():
        assert operation["summary"], name
        assert {"400", "429", "500", "503"} <= set(operation["responses"]), name
        if operation["x-dkr-who"] == "owner":
            assert "403" in operation["responses"], name


UPGRADES = [
    ("post", "/v1/run", {"const": "dkr-session/1"}, False),
    ("post", "/v1/containers", {"const": "dkr-session/1"}, False),
    ("post", "/v1/containers/{container}/start", {"enum": ["dkr-session/1", "dkr-stream/1"]}, False),
    ("post", "/v1/containers/{container}/attach", {"enum": ["dkr-session/1", "dkr-stream/1"]}, True),
    ("get", "/v1/containers/{container}/attach", {"const": "websocket"}, True),
    ("post", "/v1/containers/{container}/exec", {"enum": ["dkr-session/1", "dkr-stream/1"]}, False),
    ("get", "/v1/containers/{container}/exec", {"const": "websocket"}, True),
]


@pytest.mark.parametrize(("method", "path", "schema", "required"), UPGRADES)
def test_upgrades_are_told(method: str, path: str, schema: dict[str, Any], required: bool) -> None:
    operation = DOCUMENT["paths"][path][method]
    assert operation["responses"]["101"]["headers"]["Upgrade"]["schema"] == schema
    assert "426" in operation["responses"]
    headers = {p["name"]: p for p in operation["parameters"] if p["in"] == "header"}
    assert headers["Upgrade"]["schema"] == {"type": "string", **schema}
    assert {header["required"] for header in headers.values()} == {required}
    assert ("Sec-WebSocket-Key" in headers) == (schema == {"const": "websocket"})


def test_what_lines_of_one_path_have_apart_is_told() -> None:
    operation = DOCUMENT["paths"]["/v1/containers/{container}/start"]["post"]
    names = [parameter["name"] for parameter in operation["parameters"]]
    assert names == ["container", "stdin", "height", "width", "onDisconnect", "Connection", "Upgrade"]
    assert "dkr-stream/1" in operation["parameters"][1]["description"]
    assert {"101", "204", "422"} <= set(operation["responses"])


def test_what_was_made_has_a_place_and_lines_have_a_type() -> None:
    made = DOCUMENT["paths"]["/v1/containers"]["post"]["responses"]["201"]
    assert made["headers"]["Location"]["required"] is True
    lines = DOCUMENT["paths"]["/v1/containers/{container}/logs"]["get"]["responses"]["200"]
    assert lines["content"] == {"application/x-ndjson": {"schema": {"$ref": "#/components/schemas/LogLine"}}}


def test_every_code_of_an_error_is_in_it() -> None:
    told: dict[str, set[int]] = {}
    for response in DOCUMENT["components"]["responses"].values():
        schema = response["content"]["application/problem+json"]["schema"]
        known = schema["allOf"][1]["properties"]
        for code in known["code"]["enum"]:
            told.setdefault(code, set()).add(known["status"]["const"])
    assert told.keys() == STATUSES.keys()
    assert all(STATUSES[code] in statuses for code, statuses in told.items())


def test_objects_are_closed_and_null_is_no_value() -> None:
    for name, schema in SCHEMAS.items():
        if schema["type"] == "object":
            assert schema["additionalProperties"] is False, name
    nulls = [name for name, schema in SCHEMAS.items() if "null" in json.dumps(schema["properties"])]
    assert nulls == ["ExitStatus"]


def test_examples_are_true() -> None:
    shown = 0
    for schema in SCHEMAS.values():
        for example in schema.get("examples", ()):
            validator(schema).validate(example)
            shown += 1
    assert shown >= 6


@pytest.mark.parametrize("model", [CreateRequest, PlainRun, RunRequest])
def test_defaults_are_values(model: type[Model]) -> None:
    for name, schema in SCHEMAS[model.__name__]["properties"].items():
        if "default" in schema:
            validator(schema).validate(schema["default"])
            bodies.parse(json.dumps({"args": ["x"], name: schema["default"]}).encode(), model)


# What JSON Schema cannot say.
UNSAID = ("bytes", "surrogate", "argument list too long", "is the same place", "with the entrypoint")


def is_taken(value: object, model: type[Model]) -> str | None:
    """None where the daemon takes it, else its complaint."""
    try:
        bodies.parse(json.dumps(value).encode(), model)
    except BadRequest as err:
        return err.message
    return None


@pytest.mark.parametrize("model", [CreateRequest, PlainRun, RunRequest])
@pytest.mark.parametrize(("path", "changes"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_is_refused_is_refused_by_the_schema(
    model: type[Model], path: str, changes: dict[str, Any]
) -> None:
    value = {**BASE, **changes}
    complaint = is_taken(value, model)
    assert complaint is not None
    if any(word in complaint for word in UNSAID):
        return
    assert not validator(SCHEMAS[model.__name__]).is_valid(value), complaint


TMPFS_PLACES: tuple[str, ...] = (
    "",
    "/",
    "/a",
    "//a/",
    "/a/.",
    "/./a",
    "/a/./b//",
    "/.a",
    "/..a",
    "/...",
    "/..",
    "/a/..",
    "/a/../b",
    "/.",
)
TMPFS_PLACES += (
    "a",
    "/proc",
    "/proc/",
    "/process",
    "/./proc/x",
    "/sys",
    "/system",
    "/dev",
    "/dev/",
    "/dev/shm",
)
TMPFS_PLACES += (
    "/dev/shm/",
    "/dev//./shm/.",
    "/dev/shm/a",
    "/dev/pts",
    "/devices",
    "/a/proc",
    "/a\0",
    "/a\n",
    "/ä",
)


@pytest.mark.parametrize("place", TMPFS_PLACES)
def test_places_of_scratch_space(place: str) -> None:
    value = {**BASE, "tmpfs": {place: ""}}
    assert validator(SCHEMAS["RunRequest"]).is_valid(value) == (is_taken(value, RunRequest) is None)


WORDS = {
    "user": (
        "0",
        "65535",
        "65536",
        "00000",
        "000000",
        "70000",
        "a",
        "a$",
        "a$:b$",
        "-a",
        "1:",
        ":1",
        "1:x",
        "a\n",
        "1a",
        "60000",
        "59999",
    ),
    "stopSignal": (
        "1",
        "64",
        "65",
        "0",
        "015",
        "00000000000000",
        "0" * 14 + "15",
        "0" * 15 + "15",
        "TERM",
        "sigterm",
        "SigTerm",
        "SIGSIGTERM",
        "RTMIN",
        "\uff11",
        "\u017figterm",
        "CLD",
        "TERM\n",
        "",
    ),
    "hostname": ("a", "a-b", "a.b", "a.", ".a", "-a", "a-", "a" * 63, "a" * 64, "a_b", "a\n"),
    "name": ("a", "a.b", ".a", "a\n", "a" * 128, "a" * 129, "ä"),
    "image": ("host", "", " ", "a b", "ä", "a\n", "a" * 255, "a" * 256),
    "cwd": ("/", "/a\n", "a", "", "/\0"),
    "stdinBase64": ("", "YQ==", "YQ", "YQ=", "YQ==YQ==", "YWI=\n", "YW I=", "====", "YR==", "é"),
}


@pytest.mark.parametrize(("key", "word"), [(key, word) for key, words in WORDS.items() for word in words])
def test_words(key: str, word: str) -> None:
    value = {**BASE, key: word}
    assert validator(SCHEMAS["PlainRun"]).is_valid(value) == (is_taken(value, PlainRun) is None)


TMPFS_OPTIONS: tuple[str, ...] = (
    "",
    "ro",
    "ro,",
    "ro,rw",
    "size=1",
    "size=0",
    "size=5%",
    "size=101%",
    "size=1k",
    "mode=0777",
    "mode=8",
    "uid=65535",
)
TMPFS_OPTIONS += ("uid=65536", "uid=00001", "gid=99999", "ro=1", "huge", "ro\n", "nr_inodes=5m")


@pytest.mark.parametrize("options", TMPFS_OPTIONS)
def test_options_of_scratch_space(options: str) -> None:
    value = {**BASE, "tmpfs": {"/a": options}}
    assert validator(SCHEMAS["RunRequest"]).is_valid(value) == (is_taken(value, RunRequest) is None)


PAIRS: tuple[dict[str, Any], ...] = (
    {"entrypoint": ["a"], "args": [""]},
    {"entrypoint": [], "args": [""]},
    {"entrypoint": [""], "args": ["a"]},
    {"entrypoint": ["", "a"]},
    {"terminal": True},
    {"terminal": True, "consoleSize": {"height": 1, "width": 1}},
    {"terminal": False, "consoleSize": {"height": 1, "width": 1}},
    {"hostname": "a", "namespaces": {"uts": "host"}},
    {"hostname": "a", "namespaces": {"uts": "private", "pid": "host"}},
    {"stdin": "a", "stdinBase64": ""},
    {"stdin": ""},
    {"openStdin": True},
    {"rootfs": "/x"},
    {"rm": True},
    {"rm": False},
    {"preserveFds": 0},
    {"preserveFds": 1},
    {"onDisconnect": "keep"},
    {"maxOutput": 0},
    {"maxOutput": -1},
    {"timeout": 0},
    {"timeout": 1e9},
    {"timeout": 1e10},
    {"stopTimeout": 0},
    {"stopTimeout": -0.5},
    {"labels": {str(i): "" for i in range(256)}},
    {"labels": {str(i): "" for i in range(257)}},
)


@pytest.mark.parametrize("model", [CreateRequest, PlainRun, RunRequest])
@pytest.mark.parametrize("changes", PAIRS, ids=str)
def test_what_keys_have_to_do_with_each_other(model: type[Model], changes: dict[str, Any]) -> None:
    value = {**BASE, **changes}
    assert validator(SCHEMAS[model.__name__]).is_valid(value) == (is_taken(value, model) is None)


def test_the_daemon_tells_it_to_anyone() -> None:
    with api_directory() as api:
        api.start()
        first, second = (api.ask("GET", "/v1/openapi.json") for _ in range(2))
        assert first.headers["content-type"] == "application/json"
        assert first.json() == DOCUMENT
        assert first.body == second.body


def test_a_table_of_one_line() -> None:
    [ping] = [route for route in ROUTES if route.path == "/_ping"]
    assert list(describe([ping])["paths"]) == ["/_ping"]
