"""The record as a document: bounded, whatever was started, and true about where it failed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from common import frames, oci
from common.errors import Conflict, NotFound, StartFailed
from dkrd import ids, policy
from dkrd.runtime import spec
from dkrd.runtime.steps import Recorder, Step
from dkrd.settings import Settings
from dkrd.shim import trace
from dkrd.shim.matter import Matter

if TYPE_CHECKING:
    from pathlib import Path

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


# What is kept of a container whose guardian has gone


OWNER, OTHER, ADMIN = (policy.Credentials(uid, uid, (), 1) for uid in (4000, 4001, 4002))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The directory of a container of OWNER's."""
    directory = tmp_path / "containers" / ID
    directory.mkdir(parents=True)
    (directory / "grant.json").write_text('{"version": 1, "uid": 4000, "asks": [], "slot": null}')
    return directory


def read(directory: Path, who: policy.Credentials) -> dict[str, Any]:
    settings = Settings(state_dir=str(directory.parents[1]))
    pool = ids.Pool(0x60000000, 0x6000FFFF, str(directory))
    return trace.read_kept(Matter(settings, pool, ID, who, 4002))


def test_a_kept_record_is_its_owners_and_admins(kept: Path) -> None:
    document = started(recorded("one"))
    trace.keep(str(kept), document)
    assert read(kept, OWNER) == document
    assert read(kept, ADMIN) == document
    with pytest.raises(NotFound):
        read(kept, OTHER)


@pytest.mark.parametrize("content", [None, b"", b'{"version": 1, "id'])
def test_a_record_that_is_not_there_was_lost_with_its_guardian(kept: Path, content: bytes | None) -> None:
    if content is not None:
        (kept / trace.FILE).write_bytes(content)
    with pytest.raises(Conflict) as caught:
        read(kept, OWNER)
    assert caught.value.rule == "unguarded"
    with pytest.raises(NotFound):  # whether it is lost is nobody else's business either
        read(kept, OTHER)
