"""What crosses the HTTP border of acts on a container that stands. As common/models.py, for processes that have time."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from common import (  # pydantic reads the annotations when the program runs
    checks,
    ps_columns,
    restart_shapes,
    shapes,
)
from common.errors import BadRequest
from common.limit_models import NewCpus, NewMemory
from common.model_base import About, Id, Model, Time


class StopRequest(Model):
    """How a container is stopped; what is absent is as it was made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"signal": "INT", "timeout": 5}]})

    signal: Annotated[
        shapes.StopSignal,
        About("name or number of the signal that asks it to end; its own stopSignal if absent"),
    ] = None
    timeout: Annotated[
        shapes.Patience,
        About("seconds from that to SIGKILL: 0 is at once, -1 never; its own stopTimeout if absent"),
    ] = None

    def to_ask(self) -> dict[str, object]:
        """What root's side is told: what was given."""
        return self.model_dump(exclude_unset=True)


class Top(Model):
    """The processes of a container, as ps(1) shows them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "titles": ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"],
                    "processes": [["0", "4711", "4700", "0", "12:00", "?", "00:00:01", "/bin/sleep 60"]],
                }
            ]
        }
    )

    titles: Annotated[tuple[str, ...], About("of the columns")]
    processes: Annotated[
        tuple[tuple[str, ...], ...],
        About(
            "a text for each title: users as the container calls them, processes as the host does; CMD is whatever the process says"
        ),
    ]
    omitted: Annotated[int | None, About("how many more there are, where not all fit")] = None


def _columns(value: str) -> str:
    try:
        ps_columns.check(checks.given(value).split(","))
    except BadRequest as err:
        checks.fault("", err.message)
    return value


_NAMES = "|".join(map(re.escape, ps_columns.TITLES))


class TopQuery(Model):
    """What is shown of each process."""

    columns: Annotated[
        str | None,
        AfterValidator(_columns),
        WithJsonSchema(
            {"type": "string", "pattern": f"^(?:{_NAMES})(?:,(?:{_NAMES})){{0,{ps_columns.MAX - 1}}}$"}
        ),
        About("names of ps(1) for its columns, with commas between; if absent those of ps -ef"),
    ] = None


_Count = Annotated[int | None, Field(ge=0)]


class Stats(Model):
    """What a container uses of the machine. What is absent nothing counts, or nothing bounds."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "6f" * 32,
                    "name": "calm_otter4821",
                    "read": "2026-01-31T12:00:00.010000000Z",
                    "cpuUsage": 20_400_000,
                    "memoryUsage": 1_310_720,
                    "memoryLimit": 67_108_864,
                    "pids": 1,
                    "pidsLimit": 4096,
                }
            ]
        }
    )

    id: Id
    name: str
    read: Annotated[Time, About("when it was measured")]
    cpu_usage: Annotated[_Count, About("nanoseconds of processor time since it was started")] = None
    memory_usage: Annotated[_Count, About("bytes, without files that the kernel can let go of at once")] = (
        None
    )
    memory_limit: Annotated[_Count, About("its bound, or all that the machine has")] = None
    pids: Annotated[_Count, About("processes and threads")] = None
    pids_limit: Annotated[_Count, About("the bound of that")] = None
    block_read: Annotated[_Count, About("bytes read from block devices")] = None
    block_write: Annotated[_Count, About("bytes written to them")] = None


class StatsQuery(Model):
    """How a container is measured."""

    stream: Annotated[shapes.Flag, About("again each second, until it ends")] = False


class RenameRequest(Model):
    """What a container is to be called."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "calm_otter4821"}]})

    name: Annotated[shapes.NewName, About("none of the other containers of its owner's has it")]


class UpdateRequest(Model):
    """How a container is bounded from now on; what is absent stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={"minProperties": 1, "examples": [{"memory": 67_108_864, "cpus": 0.5}]}
    )

    memory: Annotated[
        NewMemory, About("bytes that it may use, not less than it does; -1: without bound, of swap neither")
    ] = None
    swap: Annotated[
        shapes.Swap, About("bytes of swap beside memory, which must be bounded; -1: without bound")
    ] = None
    cpus: Annotated[NewCpus, About("processors' worth of time, as in 1.5; -1: without bound")] = None
    pids_limit: Annotated[
        shapes.Pids, About("processes and threads; more than the daemon's bound is for admins, -1: without")
    ] = None

    restart: Annotated[restart_shapes.Policy, About("when it is restarted; what it counts goes on")] = None

    def to_ask(self) -> dict[str, object]:
        """What root's side is told: what was given."""
        return self.model_dump(by_alias=True, exclude_unset=True)

    @model_validator(mode="after")
    def _something(self) -> UpdateRequest:
        if not self.model_fields_set:
            checks.fault("", "holds nothing that could be changed")
        return self
