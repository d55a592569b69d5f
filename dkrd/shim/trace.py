"""The record of one start as a document: docs/protocol.md, section 7. Made when somebody asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common import frames
from common.clock import timestamp
from common.errors import Conflict
from dkrd.shim import cleanup
from dkrd.shim.ended import not_started
from dkrd.shim.state import write_file

if TYPE_CHECKING:
    from common.errors import DkrError
    from dkrd.runtime.steps import Recorder, Step
    from dkrd.shim.config import Config
    from dkrd.shim.matter import Matter
    from dkrd.shim.task import ShimTask

VERSION = 1
FILE = "trace.json"  # beside the files of a stopped container
MAX_BYTES = 60_000  # as JSON; a job of the launcher's hands on 64 KiB, a frame to a client holds more
_STEPS_MAX = 400
_CALL_MAX = 2000  # characters
_CALL_SHORT = 100  # in a record that would be too long otherwise


def trace_of(
    task: ShimTask, config: Config, recorder: Recorder, error: DkrError | None = None
) -> dict[str, object]:
    """The record of a start; `error`: by what it ended."""
    steps = recorder.steps()  # not empty: the launcher's fork stands first
    args = config.spec.process.args
    document: dict[str, object] = {
        "version": VERSION,
        "id": task.id,
        "outcome": "started" if error is None else "failed",
        "command": [_shortened(word, _CALL_SHORT) for word in args[:_CALL_SHORT]],
        "begun": timestamp(recorder.epoch + steps[0].start),
    }
    if error is not None:
        document["error"] = error.to_wire()
    failed = None if error is None else _failed(steps, error.step)
    kept = _STEPS_MAX
    for longest in (_CALL_MAX, *[_CALL_SHORT] * 8):
        shown = _without_the_middle(steps, kept, failed)
        document["steps"] = [_entry(step, steps[0].start, longest, step is failed) for step in shown]
        if len(shown) < len(steps):
            document["omitted"] = len(steps) - len(shown)
        if len(frames.dumps(document)) <= MAX_BYTES:
            break
        kept = kept if longest == _CALL_MAX else kept * 3 // 4
    return document


def keep(directory: str, document: dict[str, object]) -> None:
    """Write the record beside the files of a container that is kept. Raises OSError."""
    write_file(f"{directory}/{FILE}", frames.dumps(document))


def read_kept(matter: Matter, *ask: object) -> dict[str, object]:
    """The record of a container that no guardian stands for (any more); a job of the launcher's.

    Raises NotFound for another's container, Conflict where the record was lost with the guardian.
    """
    matter.check_owner()
    if matter.state().get("status") == "created":
        raise not_started(f"cannot explain {matter.short}")
    try:
        with open(f"{matter.directory}/{FILE}", "rb") as file:
            return frames.loads_object(file.read(cleanup.MAX_DOCUMENT))
    except (FileNotFoundError, ValueError):
        raise Conflict(
            f"cannot explain {matter.short}: the record of its start was lost with its guardian, which was killed",
            rule="unguarded",
            hint="start another one like it, with --explain",
        ) from None


def _failed(steps: list[Step], name: str | None) -> Step:
    """The step in which the start failed: the last of that name, else the last that was begun."""
    return ([step for step in steps if step.name == name] or steps)[-1]


def _entry(step: Step, first: int, longest: int, failed: bool) -> dict[str, object]:
    entry: dict[str, object] = {
        "name": step.name,
        "call": _shortened(step.call(), longest),
        "start": step.start - first,
        "duration": step.end - step.start,
        "process": step.process,
    }
    if failed:
        entry["failed"] = True
    return entry


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + "…"


def _without_the_middle(steps: list[Step], kept: int, failed: Step | None) -> list[Step]:
    """At most `kept` of them, and the failed one: what is left out are mounts by the hundred."""
    if len(steps) <= kept:
        return steps
    head, tail = steps[: kept // 2], steps[len(steps) - kept // 2 :]
    lost = failed is not None and not any(step is failed for step in (*head, *tail))
    return [*head, *([failed] if failed is not None and lost else []), *tail]
