"""The record as a document: bounded, whatever was started, and true about where it failed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from common import frames, oci
from common.errors import StartFailed
from dkrd.runtime import spec
from dkrd.runtime.steps import Recorder, Step
from dkrd.shim import trace

ID = "ab" * 32


def started(recorder: Recorder, error: StartFailed | None = None, *args: str) -> dict[str, Any]:
    """The document of a start that took these steps. Of task and config only what it looks at is there."""
    document = oci.default_spec(list(args or ("/bin/true",)), [], "x", ["mount", "uts"])
    config: Any = SimpleNamespace(spec=spec.parse(document))
    task: Any = SimpleNamespace(id=ID)
    return trace.trace_of(task, config, recorder, error)


def recorded(*names: str, call: str = "call()") -> Recorder:
    recorder = Recorder("shim")
    recorder.follow(Step("fork", "fork() = 1", "", 5, 7, "launcher"))
    for name in names:
        recorder.begin(name, call)
    recorder.finish()
    return recorder


def test_times_count_from_the_first_step() -> None:
    document = started(recorded("one", "two"))
    assert document["version"] == 1
    assert (document["id"], document["outcome"], document["command"]) == (ID, "started", ["/bin/true"])
    fork, one, two = document["steps"]
    assert fork == {
        "name": "fork",
        "call": "fork() = 1",
        "start": 0,
        "duration": 2,
        "process": "launcher",
    }
    assert two["start"] == one["start"] + one["duration"]
    assert "error" not in document
    assert not any("failed" in step for step in document["steps"])


@pytest.mark.parametrize(
    ("step", "failed"),
    [("two", 2), ("mount", 4), ("deadline", 5), (None, 5)],
)
def test_the_step_that_failed_is_marked(step: str | None, failed: int) -> None:
    """The last of its name; where the error names none of them, the last that was begun."""
    document = started(
        recorded("one", "two", "mount", "mount", "last"), StartFailed("cannot", step=step, errno=28)
    )
    assert document["outcome"] == "failed"
    assert document["error"]["message"] == "cannot"
    assert [n for n, s in enumerate(document["steps"]) if s.get("failed")] == [failed]


def size(document: dict[str, Any]) -> int:
    return len(frames.dumps(document))


def test_a_long_command_is_cut_off() -> None:
    document = started(recorded("one"), None, "/bin/true", "x" * 200_000, *["y"] * 5000)
    assert size(document) < trace.MAX_BYTES
    assert document["command"][0] == "/bin/true"


def test_the_failed_step_is_never_left_out() -> None:
    document = started(
        recorded("begin", *["mount"] * 500, "odd", *["mount"] * 500), StartFailed("x", step="odd")
    )
    assert [step["name"] for step in document["steps"] if step.get("failed")] == ["odd"]
    assert len(document["steps"]) + document["omitted"] == 1003


def test_long_calls_are_shortened_first() -> None:
    document = started(recorded(*["mount"] * 200, call="x" * 5000))
    assert size(document) <= trace.MAX_BYTES
    assert len(document["steps"]) == 201
    assert "omitted" not in document


@pytest.mark.parametrize("count", [2000, 65536])
def test_then_the_middle_is_left_out_and_counted(count: int) -> None:
    error = StartFailed("cannot", step="last")
    document = started(recorded("begin", *["mount"] * count, "last", call="x" * 90), error)
    assert size(document) <= trace.MAX_BYTES
    steps = document["steps"]
    assert [step["name"] for step in steps[:3]] == ["fork", "begin", "mount"]
    assert (steps[-1]["name"], steps[-1]["failed"]) == ("last", True)
    assert len(steps) + document["omitted"] == count + 3
