"""A run as one plain request: what goes in and what comes of it, as bytes."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.models import ExitStatus, RunAnswer


@dataclass(frozen=True, slots=True)
class PlainResult:
    """What became of `Client.run_plain`.

    id         the container's id; it is removed already
    exit       how the command ended
    stdout     what it wrote, up to `max_output` bytes
    stderr     the same
    truncated  it wrote more than that to one of them
    duration   seconds, from the start to the end of the command
    """

    id: str
    exit: ExitStatus
    stdout: bytes
    stderr: bytes
    truncated: bool
    duration: float


def input_of(stdin: bytes | str | None) -> dict[str, object]:
    """What the request says of the input."""
    if stdin is None:
        return {}
    if isinstance(stdin, bytes):
        return {"stdinBase64": base64.b64encode(stdin).decode("ascii")}
    return {"stdin": stdin}


def result_of(answer: RunAnswer) -> PlainResult:
    """The answer, its output as bytes."""
    return PlainResult(
        id=answer.id,
        exit=answer.exit,
        stdout=_bytes(answer.stdout, answer.stdout_base64),
        stderr=_bytes(answer.stderr, answer.stderr_base64),
        truncated=answer.truncated,
        duration=answer.duration,
    )


def _bytes(text: str | None, encoded: str | None) -> bytes:
    return base64.b64decode(encoded) if encoded is not None else (text or "").encode()
