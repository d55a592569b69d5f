"""What crosses the HTTP border of what bounds a container. As common/models.py, for processes that have time."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema

from common import checks, oci, shapes
from common.model_base import About, Model

NO_BOUND = -1


def _or_none(kind: str, low: float, high: float) -> WithJsonSchema:
    return WithJsonSchema({"type": kind, "anyOf": [{"const": NO_BOUND}, {"minimum": low, "maximum": high}]})


def _given(low: float, high: float) -> AfterValidator:
    check = checks.whole_or_unlimited(low, high)
    return AfterValidator(lambda value: check(checks.given(value)))


# Of an update, which can take a bound away.
NewMemory = Annotated[
    int | None,
    _given(oci.MIN_MEMORY, oci.MAX_MEMORY),
    shapes.WHOLE,
    _or_none("integer", oci.MIN_MEMORY, oci.MAX_MEMORY),
]
NewCpus = Annotated[
    float | None, _given(oci.MIN_CPUS, oci.MAX_CPUS), _or_none("number", oci.MIN_CPUS, oci.MAX_CPUS)
]


class Limits(Model):
    """What bounds a container now, or will at its next start, with the keys of a request. A bound that is absent is none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"memory": 67_108_864, "swap": 67_108_864, "cpus": 0.5, "pidsLimit": 4096}]
        }
    )

    memory: Annotated[int | None, Field(ge=0), About("bytes that it may use")] = None
    swap: Annotated[
        int | None,
        Field(ge=0),
        About("bytes of swap that it may use beside memory, also where nobody named any"),
    ] = None
    cpus: Annotated[float | None, Field(gt=0), About("processors' worth of time, as in 1.5")] = None
    pids_limit: Annotated[
        int | None,
        Field(ge=1),
        About("processes and threads; the daemon's own bound too, where nobody named one"),
    ] = None
