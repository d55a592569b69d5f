"""The launcher's waiting for restarts: what arms it, what holds it back, what it goes on with when it begins."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from common import restarts as policies
from common.errors import Conflict, DkrError, LimitReached
from dkrd.launcher import restarts as restarts_module
from dkrd.launcher.loop import Loop
from dkrd.launcher.restarts import Restarts
from dkrd.log import Log
from dkrd.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ONE, TWO = "1" * 64, "2" * 64
ALWAYS = {"policy": "always"}
MOST_TURNS = 1000


class Table:
    """In the place of the containers that are guarded: none is, unless it is told so."""

    def __init__(self) -> None:
        self.error: DkrError | None = None

    def __contains__(self, container: object) -> bool:
        return False

    def when_free(self, container: str, seconds: float, call: Callable[[DkrError | None], None]) -> None:
        call(self.error)


class Bench:
    """The waiting, with what it would have launched."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.loop = Loop()
        self.table: Any = Table()
        self.launched: list[tuple[str, int, str]] = []
        self.refusals: list[DkrError] = []
        self.settings = replace(Settings(), state_dir=f"{directory}/state", run_dir=f"{directory}/run")
        (directory / "state/containers").mkdir(parents=True)
        (directory / "run").mkdir()
        self.restarts = self.another()

    def another(self) -> Restarts:
        log = Log("error", "text", fd=2)
        return Restarts(self.loop, log, self.table, lambda: self.settings, self._launch)

    def _launch(self, container: str, uid: int, why: str) -> None:
        if self.refusals:
            raise self.refusals.pop()
        self.launched.append((container, uid, why))

    def stands(self, container: str, **state: Any) -> dict[str, Any]:
        place = self.directory / "state/containers" / container
        place.mkdir()
        whole = {"id": container, "uid": 7, "started": "then", **state}
        (place / "state.json").write_text(json.dumps(whole))
        (place / "grant.json").write_text('{"uid": 7}')
        return whole

    def until(self, count: int) -> None:
        for _ in range(MOST_TURNS):
            if len(self.launched) >= count:
                return
            self.loop.turn(0.01)
        raise AssertionError(self.launched)

    def quiet(self) -> None:
        """All that is due has been done."""
        for _ in range(3):
            self.loop.turn(0)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield Bench(tmp_path)
    gc.collect()  # its loop's descriptors, which other tests of this process count


def waiting(container: str = ONE, seconds: float = 0.0) -> dict[str, Any]:
    due = policies._uptime() + seconds
    return {
        "id": container,
        "uid": 7,
        "status": "restarting",
        "restart": ALWAYS,
        "backoff": seconds,
        "due": due,
    }


def test_it_is_launched_when_it_is_due(bench: Bench) -> None:
    bench.restarts.note(waiting(TWO, 600))
    bench.restarts.note(waiting())
    bench.until(1)
    assert bench.launched == [(ONE, 7, "restart")]
    bench.quiet()
    assert len(bench.launched) == 1


@pytest.mark.parametrize("status", ["stopped", "creating", "running"])
def test_what_has_become_of_it_meanwhile(bench: Bench, status: str) -> None:
    bench.restarts.note(waiting())
    bench.restarts.note({"id": ONE, "uid": 7, "status": status})
    bench.quiet()
    assert bench.launched == []


def test_it_is_gone(bench: Bench) -> None:
    bench.restarts.note(waiting())
    bench.restarts.forget(ONE)
    bench.quiet()
    assert bench.launched == []


def test_its_owner_holds_it_back(bench: Bench) -> None:
    bench.restarts.note(waiting())
    first, second = bench.restarts.hold(ONE, 7), bench.restarts.hold(ONE, 0)
    bench.quiet()
    first()
    bench.quiet()
    assert bench.launched == []
    second()
    assert bench.launched == [(ONE, 7, "restart")]


@pytest.mark.parametrize("status", ["stopped", None])
def test_who_has_asked_in_the_moment_of_its_end_holds_it_back_too(bench: Bench, status: str | None) -> None:
    """Its guardian told that it waits, and ended without an answer."""
    let_go = bench.restarts.hold(ONE, 7)
    bench.restarts.note(waiting())
    bench.quiet()
    assert bench.launched == []
    if status is not None:
        bench.restarts.note({"id": ONE, "uid": 7, "status": status})
    let_go()
    bench.quiet()
    assert bench.launched == ([] if status else [(ONE, 7, "restart")])


def test_nobody_else_does(bench: Bench) -> None:
    bench.restarts.note(waiting())
    bench.restarts.hold(ONE, 8)
    bench.until(1)


def test_what_was_stopped_while_it_was_held_back_stays(bench: Bench) -> None:
    bench.restarts.note(waiting())
    let_go = bench.restarts.hold(ONE, 7)
    bench.quiet()
    bench.restarts.note({"id": ONE, "uid": 7, "status": "stopped"})
    let_go()
    bench.quiet()
    assert bench.launched == []


def test_where_there_is_no_room_it_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts_module, "_AGAIN", 0.0)
    bench.refusals = [LimitReached("cannot: no room"), LimitReached("cannot: no room")]
    bench.restarts.note(waiting())
    bench.restarts.note(waiting(TWO))
    bench.until(2)
    assert {container for container, _, _ in bench.launched} == {ONE, TWO}


def test_somebody_was_quicker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts_module, "_AGAIN", 0.0)
    bench.table.error = Conflict("cannot: it is running", rule="running")
    bench.restarts.note(waiting())
    bench.quiet()
    bench.table.error = None
    bench.quiet()
    assert bench.launched == []


def test_what_came_to_nothing_that_could_be_written_is_not_tried_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: the state says as before that it waits, and its time is over."""
    monkeypatch.setattr(restarts_module, "_AGAIN", 600.0)
    before = waiting()
    bench.restarts.note(before)
    bench.until(1)
    bench.restarts.note({**before, "status": "running"})
    bench.restarts.note(before)
    bench.quiet()
    assert len(bench.launched) == 1
    bench.restarts.note(waiting(seconds=0.001))  # another life, which was written down
    bench.until(2)


def test_one_that_was_stopped_meanwhile_has_its_time_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts_module, "_AGAIN", 600.0)
    before = waiting()
    for number in (1, 2):
        bench.restarts.note(before)
        bench.until(number)
        bench.restarts.note({**before, "status": "stopped"})


def test_a_guardian_that_ended_without_a_word(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts_module, "_AGAIN", 0.0)
    bench.stands(ONE, **{key: value for key, value in waiting().items() if key not in ("id", "uid")})
    bench.restarts.quiet(ONE)
    bench.restarts.quiet(TWO)
    bench.until(1)


def begin(bench: Bench) -> None:
    bench.another().begin()


def test_the_next_launcher_goes_on(bench: Bench) -> None:
    (bench.directory / "run/booted").touch()
    bench.stands(ONE, status="restarting", restart=ALWAYS, backoff=0.0, due=0.0)
    bench.stands(TWO, status="stopped", restart=ALWAYS, stopAsked=True)
    begin(bench)
    bench.until(1)
    bench.quiet()
    assert bench.launched == [(ONE, 7, "restart")]


def test_a_reboot_is_the_first_in_its_directory(bench: Bench) -> None:
    failed = bench.stands(ONE, status="restarting", restart={"policy": "on-failure"}, backoff=600.0, due=1e9)
    bench.stands(TWO, status="stopped", restart=ALWAYS, stopAsked=True)
    begin(bench)
    bench.until(1)
    assert bench.launched == [(TWO, 7, "boot")]
    path = bench.directory / "state/containers" / ONE / "state.json"
    assert json.loads(path.read_text()) == {**failed, "status": "stopped"}
    for _ in range(MOST_TURNS):
        if (bench.directory / "run/booted").exists():
            break
        bench.loop.turn(0.01)
    begin(bench)
    bench.quiet()
    assert len(bench.launched) == 1
