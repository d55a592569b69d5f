"""The record of a start: what a process notes, and what a child leaves behind, whatever becomes of it."""

from __future__ import annotations

import os
import signal
import struct

import pytest

from dkrd.runtime.steps import Log, Recorder, Step


def told(place: int, name: str, note: str) -> str:
    return f"{place} {name} {note}"


def test_each_step_ends_where_the_next_begins() -> None:
    recorder = Recorder("shim")
    for name in ("one", "two", "three"):
        recorder.begin(name)
    recorder.finish()
    steps = recorder.steps()
    assert [step.name for step in steps] == ["one", "two", "three"]
    assert [step.end for step in steps[:-1]] == [step.start for step in steps[1:]]
    assert all(step.end >= step.start > 0 for step in steps)


def test_the_last_step_ends_when_it_was_finished_first() -> None:
    recorder = Recorder("shim")
    recorder.begin("one")
    recorder.finish()
    [first] = recorder.steps()
    recorder.finish()
    assert recorder.steps() == [first]
    assert recorder.current == "one"


def test_what_is_done_is_put_into_words_when_it_is_read() -> None:
    asked = []

    def tell(note: str) -> str:
        asked.append(note)
        return f"call() = {note}"

    recorder = Recorder("shim")
    recorder.begin("plain", "exit(0)")
    recorder.begin("later", tell)
    recorder.note("7")
    steps = recorder.steps()
    assert asked == []
    assert [step.call() for step in steps] == ["exit(0)", "call() = 7"]


def test_steps_of_others_stand_in_the_order_of_their_beginning() -> None:
    recorder = Recorder("shim")
    recorder.follow(Step("fork", "fork()", "", 1, 2, "launcher"))
    recorder.begin("one")
    log = recorder.child("init", told)
    log.begin("inner")
    recorder.begin("two")
    assert [(step.process, step.name) for step in recorder.steps()] == [
        ("launcher", "fork"),
        ("shim", "one"),
        ("init", "inner"),
        ("shim", "two"),
    ]


def in_child(log: Log, *, end: int) -> None:
    """A child that notes two steps and then ends by signal `end`."""
    pid = os.fork()
    if pid == 0:
        log.begin("first")
        log.begin("second")
        log.note("noted")
        os.kill(os.getpid(), end)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == end


def test_the_steps_of_a_child_that_was_killed_are_there() -> None:
    recorder = Recorder("shim")
    recorder.begin("clone")
    log = recorder.child("init", told)
    in_child(log, end=signal.SIGKILL)
    recorder.finish()
    _, first, second = recorder.steps()
    assert (first.call(), second.call()) == ("0 first ", "1 second noted")
    assert first.end == second.start
    assert second.end == recorder.steps()[0].end


def test_a_long_note_is_cut_off_and_says_so() -> None:
    log = Log("init", told, 4096)
    log.begin("user")
    log.note(" ".join(str(n) for n in range(1000)))
    [step] = log.steps(1)
    assert len(step.note) == 255
    assert step.note.endswith("...")


def test_what_does_not_fit_is_not_recorded() -> None:
    log = Log("helper", told, 64)
    for number in range(100):
        log.begin(f"step {number}")
        log.note("x" * 40)
    steps = log.steps(1)
    assert 0 < len(steps) < 5
    assert log.current == "step 99"  # an error can still say where it happened


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 4096,
        struct.pack("<I", 4096) + b"\0" * 4092,
        struct.pack("<I", 2**32 - 1) + os.urandom(4092),
        struct.pack("<IQBB", 4096, 5, 255, 255) + b"\xfe" * 4082,
    ],
)
def test_the_parent_believes_nothing(content: bytes) -> None:
    log = Log("init", told, 4096)
    log._memory[:] = content
    steps = log.steps(1)
    assert len(steps) <= 4096 // 10
    assert all(isinstance(step.call(), str) for step in steps)
