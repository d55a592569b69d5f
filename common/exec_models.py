"""What crosses the HTTP border of further commands in a container: docs/protocol.md, section 1. As common/models.py, for processes
that have time.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from common import checks, shapes
from common.model_base import About, Id, Model, Time
from common.models import MAX_OUTPUT, ConsoleSize

EXEC_SCHEMA: dict[str, Any] = {
    "examples": [{"args": ["/bin/ls", "/tmp"]}],
    "dependentSchemas": {
        "consoleSize": {"required": ["terminal"], "properties": {"terminal": {"const": True}}}
    },
}


def _schema(schema: dict[str, Any]) -> None:
    schema.update(EXEC_SCHEMA)
    # Beside the properties, not in them: what is said of the first word must not take the place of what is said of all.
    schema["allOf"] = [{"properties": {"args": shapes.NOT_EMPTY}}]


class ExecRequest(Model):
    """Which command is wanted in a container that runs. Where it runs and with which rights is the container's."""

    model_config = ConfigDict(json_schema_extra=_schema)

    args: Annotated[shapes.Command, About("the command and its arguments")]
    env: Annotated[
        shapes.Env,
        About("variables, added to those of the container; each with name and value within 128 KiB"),
    ] = Field(default={})
    cwd: Annotated[shapes.OtherCwd, About("working directory; that of the container if absent")] = None
    user: Annotated[
        shapes.OtherUser, About("UID[:GID] or NAME[:GROUP], inside; that of the container if absent")
    ] = None
    terminal: Annotated[bool, About("it gets a terminal of its own")] = False
    console_size: Annotated[
        ConsoleSize | None, AfterValidator(checks.given), About("of its terminal at the start")
    ] = None
    preserve_fds: Annotated[
        int,
        Field(ge=0, le=250),
        shapes.WHOLE,
        About("how many of the caller's descriptors from 3 on come along"),
    ] = 0
    on_disconnect: Annotated[
        Literal["stop", "kill", "keep"],
        About("what becomes of it when its client vanishes"),
    ] = "stop"

    def to_request(self) -> dict[str, Any]:
        """What was given, with the keys of the wire: the defaults are filled in by the container's guardian."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    @model_validator(mode="after")
    def _whole(self) -> ExecRequest:
        if not self.args[0]:
            checks.fault("args[0]", "is empty: a command is wanted")
        checks.fits(self.args, self.env)
        if self.console_size is not None and not self.terminal:
            checks.fault("consoleSize", "has no meaning without terminal")
        return self


def _plain_schema(schema: dict[str, Any]) -> None:
    """Without what has no meaning here."""
    _schema(schema)
    del schema["properties"]["consoleSize"], schema["dependentSchemas"]
    schema["not"] = {"required": ["stdin", "stdinBase64"]}
    schema["examples"] = [{"args": ["/bin/sh", "-c", "tr a-z A-Z; exit 3"], "stdin": "some words\n"}]


class PlainExec(ExecRequest):
    """A further command as one request: its standard input, and how much of its output is kept. What needs descriptors of the
    client's own has no place here.
    """

    model_config = ConfigDict(json_schema_extra=_plain_schema)

    stdin: Annotated[shapes.Text, About("its standard input as text, empty if absent")] = None
    stdin_base64: Annotated[shapes.Base64, About("its standard input as bytes, in place of stdin")] = None
    max_output: Annotated[
        int,
        Field(ge=0, le=MAX_OUTPUT),
        shapes.WHOLE,
        About("bytes of each stream that are kept; the rest is read and dropped"),
    ] = 1024 * 1024
    terminal: Annotated[shapes.NoTerminal, About("a terminal needs a session")] = False
    preserve_fds: Annotated[shapes.NoDescriptors, About("descriptors need a session")] = 0
    on_disconnect: Annotated[
        Literal["stop", "kill", "keep"],
        AfterValidator(checks.ends),
        WithJsonSchema({"enum": ["stop", "kill"], "default": "stop"}),
        About("what becomes of it when its client goes away before the answer"),
    ] = "stop"

    @model_validator(mode="after")
    def _one_input(self) -> PlainExec:
        if self.stdin is not None and self.stdin_base64 is not None:
            checks.fault("stdinBase64", "cannot be there beside stdin")
        return self

    def to_request(self) -> dict[str, Any]:
        """The request that root's side is told."""
        own = {"stdin", "stdin_base64", "max_output"}
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude=own)


def _stream_schema(schema: dict[str, Any]) -> None:
    _schema(schema)
    schema["examples"] = [{"args": ["/bin/sh"], "terminal": True, "consoleSize": {"height": 24, "width": 80}}]


class StreamExec(ExecRequest):
    """A further command whose input and output its client streams over the same connection: docs/protocol.md, dkr-stream/1."""

    model_config = ConfigDict(json_schema_extra=_stream_schema)

    preserve_fds: Annotated[shapes.NoDescriptors, About("descriptors need a session")] = 0


class Exec(Model):
    """A further command in a container, while it runs."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "6f" * 32,
                    "pid": 4711,
                    "uid": 1000,
                    "args": ["/bin/sleep", "60"],
                    "terminal": False,
                    "started": "2026-01-31T12:00:00.000000000Z",
                }
            ]
        }
    )

    id: Id
    pid: Annotated[int, About("of its process, on the host")]
    uid: Annotated[int, About("who wanted it, on the host")]
    args: tuple[str, ...]
    terminal: Annotated[bool, About("it has a terminal of its own")]
    started: Time
