"""The record of a start, as the API tells it: docs/protocol.md, section 7."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from common.model_base import About, Model


class TraceStep(Model):
    """One step of a start: docs/protocol.md, section 7. Times are nanoseconds; `start` counts from the first step."""

    name: str
    call: str
    start: int
    duration: int
    process: str
    failed: bool | None = None


class Trace(Model):
    """The record of a start."""

    version: Literal[1]
    id: str
    outcome: Literal["started", "failed"]
    error: Annotated[dict[str, Any] | None, About("of a start that failed")] = None
    command: Annotated[list[str], Field(max_length=65536)]
    begun: str
    steps: list[TraceStep]
    omitted: int | None = None
