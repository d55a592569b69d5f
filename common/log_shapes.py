"""The key `log` of a request as a type of its field, beside common/shapes.py, which is long enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from common import checks, log_drivers

if TYPE_CHECKING:
    from collections.abc import Callable


def _log(drivers: tuple[str, ...], otherwise: str) -> Callable[[object], dict[str, Any]]:
    """A check of what was given: of these drivers, and `otherwise` says why no other one is possible."""

    def check(value: object) -> dict[str, Any]:
        try:
            wanted = log_drivers.parse(checks.given(value))
        except log_drivers.LogFault as err:
            checks.fault(err.path, err.message)
        if (wanted.driver or log_drivers.FILE) not in drivers:
            checks.fault(".driver", otherwise)
        assert isinstance(value, dict)
        return value

    return check


def _of_driver(driver: str) -> dict[str, Any]:
    options = {
        name: {"type": "string", "pattern": f"^(?:{log_drivers.VALUES[name][0]})$"}
        for name in log_drivers.OPTIONS[driver]
    }
    with_buffer = {"required": ["mode"], "properties": {"mode": {"const": "non-blocking"}}}
    depends = {"dependentSchemas": {"max-buffer-size": with_buffer}} if "mode" in options else {}
    return {
        "type": "object",
        "properties": {
            "driver": {"const": driver},
            "options": {
                "type": "object",
                "properties": options,
                "additionalProperties": False,
                **depends,
            },
        },
        "additionalProperties": False,
        **({} if driver == log_drivers.FILE else {"required": ["driver"]}),
    }


def _schema(*drivers: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [_of_driver(driver) for driver in drivers]})


_KEPT = (log_drivers.FILE, log_drivers.NONE, log_drivers.JOURNAL)
_PASSED = (log_drivers.NONE, log_drivers.PASSTHROUGH)

# Of a run whose output goes to its caller's descriptors, of a container whose output its guardian has, and of a plain run.
Log = Annotated[
    dict[str, Any] | None,
    PlainValidator(
        _log(
            _PASSED,
            "none or passthrough is wanted: the output goes to its caller's own descriptors, and nothing copies it; "
            "run it with --detach, which keeps its output, and come to it with dkrctl attach",
        )
    ),
    _schema(*_PASSED),
]
KeptLog = Annotated[
    dict[str, Any] | None,
    PlainValidator(
        _log(_KEPT, "passthrough needs descriptors of its caller's, and they cannot be kept until the start")
    ),
    _schema(*_KEPT),
]
PlainLog = Annotated[
    dict[str, Any] | None,
    PlainValidator(
        _log((log_drivers.NONE,), "none is wanted: the output of a plain run is its answer, and not kept")
    ),
    _schema(log_drivers.NONE),
]
