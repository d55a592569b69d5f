"""What crosses the HTTP border of containers whose stdio their guardian holds: made, started, attached to and read later.

docs/protocol.md, section 1. As common/models.py, for processes that have time.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, model_validator

from common import (
    checks,
    health_models,
    log_shapes,
    restart_shapes,
    shapes,
)  # pydantic reads the annotations when the program runs
from common.model_base import About, Model, Time
from common.models import RUN_SCHEMA, RunRequest


def _create_schema(schema: dict[str, Any]) -> None:
    """Without what cannot be kept."""
    schema.update(deepcopy(RUN_SCHEMA))
    for key in ("rootfs", "onDisconnect"):
        del schema["properties"][key]
    del schema["dependentSchemas"]["rootfs"]
    schema["examples"] = [{"args": ["/bin/cat"], "name": "cat", "openStdin": True}]


class CreateRequest(RunRequest):
    """Which container is to be made. It is started later, its input and output are its guardian's."""

    model_config = ConfigDict(json_schema_extra=_create_schema)

    open_stdin: Annotated[
        bool, About("its standard input is what attached clients send; else it is empty")
    ] = False
    restart: Annotated[
        restart_shapes.Policy,
        About("when it is started again after it has ended: docs/protocol.md; not with `rm`; `no` if absent"),
    ] = None
    health: Annotated[
        health_models.KeptHealthRequest | None,
        AfterValidator(checks.given),
        About("how its guardian finds out whether it is well, and what is done where it is not"),
    ] = None
    rootfs: Annotated[shapes.KeptRootfs, About("a descriptor cannot be kept")] = None
    preserve_fds: Annotated[shapes.KeptDescriptors, About("descriptors cannot be kept")] = 0
    log: Annotated[log_shapes.KeptLog, About("where its output goes; a file of the daemon's if absent")] = (
        None
    )
    on_disconnect: Annotated[shapes.NoClient, About("whoever attaches says it")] = None

    @model_validator(mode="after")
    def _restarted_or_removed(self) -> CreateRequest:
        if self.rm and self.restart is not None and self.restart["policy"] != "no":
            checks.fault("restart", "cannot be there with rm: nothing would be left to be restarted")
        if self.rm and self.health is not None and self.health.on_failure == "restart":
            checks.fault(
                "health.onFailure", "cannot be restart with rm: nothing would be left to be restarted"
            )
        return self


class AttachQuery(Model):
    """How a client comes to a container's input and output."""

    stdin: Annotated[shapes.Flag, About("what the client sends is the container's input")] = True
    height: Annotated[shapes.Cells, About("rows of the client's terminal; 0 where it has none")] = 0
    width: Annotated[shapes.Cells, About("columns of it")] = 0
    on_disconnect: Annotated[
        Literal["stop", "kill", "keep"],
        About("what becomes of the container when this client vanishes, and was the last one"),
    ] = "keep"


class LogsQuery(Model):
    """Which lines of a log are wanted."""

    stdout: Annotated[shapes.Flag, About("lines of standard output, and of a terminal")] = True
    stderr: Annotated[shapes.Flag, About("lines of standard error")] = True
    tail: Annotated[shapes.Lines, About("the last so many of them; all if absent")] = None
    since: Annotated[shapes.Moment, About("not what is older")] = None
    until: Annotated[shapes.Moment, About("not what is newer")] = None
    follow: Annotated[
        shapes.Flag, About("further ones too, as they come, until the container ends, or `until`")
    ] = False


class LogLine(Model):
    """A line of output, or 16 KiB of one. Of bytes that are not UTF-8 the base64 is there, and not the text."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["log"]}, {"required": ["logBase64"]}],
            "examples": [{"log": "hi\n", "stream": "stdout", "time": "2026-01-31T12:00:00.010000000Z"}],
        }
    )

    log: Annotated[str | None, About("with its newline, where it has one")] = None
    log_base64: shapes.Base64 = None
    stream: Literal["stdout", "stderr"]
    time: Time
    dropped: Annotated[int | None, About("how many lines are missing here, which `log` tells people")] = None


class RemoveQuery(Model):
    """How a container is removed."""

    force: Annotated[shapes.Flag, About("one that runs is killed before")] = False
