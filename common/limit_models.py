"""What crosses the HTTP border of what bounds a container. As common/models.py, for processes that have time."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from common.model_base import About, Model


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
