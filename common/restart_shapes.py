"""The type of a restart policy as it crosses the HTTP border: beside common/shapes.py because that file is long."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from common import checks, restarts
from common.errors import BadRequest

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "policy": {"enum": list(restarts.POLICIES)},
        "retries": {
            "type": "integer",
            "minimum": 1,
            "maximum": restarts.MAX_RETRIES,
            "description": "with `on-failure`: how often at most; without bound if absent",
        },
    },
    "required": ["policy"],
    "additionalProperties": False,
    "if": {"required": ["retries"]},
    "then": {"properties": {"policy": {"const": "on-failure"}}},
    "examples": [{"policy": "on-failure", "retries": 3}],
}


def _policy(value: dict[str, Any] | None) -> dict[str, Any]:
    """As it was given, if it is one."""
    given = checks.given(value)
    try:
        restarts.policy_of(given, "")
    except BadRequest as err:
        [fault] = err.fields
        checks.fault(str(fault["path"]), str(fault["message"]))
    return {key: int(entry) if key == "retries" else entry for key, entry in given.items()}


Policy = Annotated[dict[str, Any] | None, AfterValidator(_policy), WithJsonSchema(_SCHEMA)]
