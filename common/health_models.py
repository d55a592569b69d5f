"""What crosses the HTTP border of health checks: docs/protocol.md, section 1. As common/models.py, for processes that have time."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from common import checks, health, shapes
from common.model_base import About, Model, Time

Status = Literal["starting", "healthy", "unhealthy"]


def _url(value: str | None) -> str:
    try:
        health.read_url(checks.given(value) or "")
    except ValueError as err:
        checks.fault("", str(err))
    return str(value)


def _long_enough(value: float) -> float:
    if value < health.MIN_SECONDS:
        checks.fault("", f"is less than {health.MIN_SECONDS:g} seconds")
    return checks.seconds(value)


def _once(value: str) -> str:
    if value == "restart":
        checks.fault(
            "",
            "cannot be restart: its caller's own input and output are there for one run alone; make it first",
        )
    return value


_Url = Annotated[
    str | None,
    AfterValidator(_url),
    WithJsonSchema({"type": "string", "maxLength": health.MAX_URL, "pattern": f"^{health.URL_PATTERN}$"}),
]
_Every = Annotated[
    float,
    AfterValidator(_long_enough),
    WithJsonSchema({"type": "number", "minimum": health.MIN_SECONDS, "exclusiveMaximum": checks.MAX_SECONDS}),
]


def _schema(schema: dict[str, Any]) -> None:
    """With what three keys have to do with each other."""
    schema["oneOf"] = [{"required": [key]} for key in health.PROBES]
    args = schema["properties"]["args"]
    del args["default"]
    args["prefixItems"] = [{**args["items"], "minLength": 1}]
    schema["examples"] = [{"http": "http://127.0.0.1:8080/health", "interval": 10, "onFailure": "stop"}]


class HealthRequest(Model):
    """How a container's guardian finds out whether it is well: one of `args`, `http` and `tcp`, and how often."""

    model_config = ConfigDict(json_schema_extra=_schema)

    args: Annotated[
        shapes.Command, About("a command that is executed in it, as its user: well is a status of 0")
    ] = ()
    http: Annotated[
        _Url,
        About("a URL of its loopback that is got from inside its network: well is a status of 200 to 399"),
    ] = None
    tcp: Annotated[
        int | None,
        AfterValidator(checks.given),
        Field(ge=1, le=65535),
        shapes.WHOLE,
        WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 65535}),
        About("a port of its loopback, 127.0.0.1 or ::1: well is that it takes a connection"),
    ] = None
    interval: Annotated[_Every, About("seconds from the end of a probe to the next one")] = 30.0
    timeout: Annotated[_Every, About("seconds that a probe may take; then it is killed, and has failed")] = (
        30.0
    )
    retries: Annotated[
        int,
        Field(ge=1, le=health.MAX_RETRIES),
        shapes.WHOLE,
        About("probes that fail one after the other until it is unhealthy"),
    ] = 3
    start_period: Annotated[
        shapes.StopSeconds, About("seconds from its start in which a probe that fails does not count")
    ] = 0.0
    start_interval: Annotated[_Every, About("the interval in that time, until it is healthy")] = 5.0
    on_failure: Annotated[
        Literal["none", "stop", "kill", "restart"],
        AfterValidator(_once),
        WithJsonSchema({"enum": [word for word in health.ON_FAILURE if word != "restart"]}),
        About("what is done with it when it is unhealthy; then its cause is `unhealthy`"),
    ] = "none"

    @model_validator(mode="after")
    def _one_probe(self) -> HealthRequest:
        given = [key for key in health.PROBES if key in self.model_fields_set]
        if not given:
            checks.fault("", "says nothing of how it is found out: one of args, http and tcp is wanted")
        if len(given) > 1:
            checks.fault(f".{given[1]}", f"cannot be given with {given[0]}")
        if given == ["args"] and not self.args[0]:
            checks.fault(".args[0]", "is empty: a command is wanted")
        return self


class KeptHealthRequest(HealthRequest):
    """The same of a container that is made, and can be started again."""

    on_failure: Annotated[
        Literal["none", "stop", "kill", "restart"],
        About(
            "what is done with it when it is unhealthy; then its cause is `unhealthy`. With `restart` it is stopped, and started again "
            "whatever its policy is: docs/protocol.md; not with `rm`"
        ),
    ] = "none"


class ProbeResult(Model):
    """What one probe found."""

    start: Time
    end: Time
    exit_code: Annotated[
        int, About("0: well; -1: it was not done in time, or not at all; else the command's, or 1")
    ]
    output: Annotated[str, About("the beginning of what the command wrote, 4 KiB; or what was answered")]


class Health(Model):
    """How a container is. In a list its status alone."""

    status: Annotated[
        Status, About("`starting` until a probe was well, or as many have failed as make it unhealthy")
    ]
    failing_streak: Annotated[int | None, About("probes that have failed since one was well")] = None
    log: Annotated[list[ProbeResult] | None, About("the last five results, the newest last")] = None


class HealthState(Model):
    """What a guardian reports of it: docs/protocol.md, section 6."""

    status: Status
    since: str
