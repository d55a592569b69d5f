"""What the index makes of reports: each event once and in order, whatever is cut off, and no more than is bounded."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from common.models import Container, ContainerState
from dkrd.state import events as events_module
from dkrd.state.events import _behind
from dkrd.state.index import Index
from tests.unit.api_process import state

if TYPE_CHECKING:
    from pathlib import Path

ID, OTHER = "a" * 64, "b" * 64
T = "2026-01-31T12:00:0{}.000000000Z"
ALWAYS = {"policy": "always"}
THREE = {"code": 3, "signal": None, "cause": "exited"}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(str(tmp_path / "dkr.db"))


def report(index: Index, container: str = ID, **changes: Any) -> None:
    told = {"uid": 5, "name": "n", "created": T.format(1), "started": None, **changes}
    index.report(ContainerState.model_validate(state(container, **told), by_alias=True, by_name=False))


def accepted(index: Index, container: str = ID, labels: dict[str, str] | None = None) -> None:
    index.insert(
        Container(
            id=container,
            name="n",
            uid=5,
            image="host",
            args=("a",),
            labels=labels or {},
            rm=False,
            status="creating",
            created=T.format(1),
        )
    )


def actions(index: Index) -> list[str]:
    found, _ = index.events.page(0, None)
    return [event.action for event in found]


def whole_life(index: Index, **end: Any) -> None:
    accepted(index, labels={"a": "b"})
    report(index, status="creating")
    report(index, started=T.format(2))
    report(index, status="stopped", started=T.format(2), **{"finished": T.format(3), "exit": THREE, **end})
    index.remove(ID, T.format(4))


def test_a_life(index: Index) -> None:
    whole_life(index)
    found, place = index.events.page(0, 5)
    assert [(event.time, event.action) for event in found] == [
        (T.format(1), "create"),
        (T.format(2), "start"),
        (T.format(3), "die"),
        (T.format(4), "destroy"),
    ]
    assert found[2].more == {"exit": THREE}
    assert {(event.name, event.uid, event.image, event.labels["a"]) for event in found} == {
        ("n", 5, "host", "b")
    }
    assert index.events.page(place, 5) == ([], place)
    assert index.events.page(0, 6) == ([], place)


def test_out_of_memory(index: Index) -> None:
    whole_life(index, exit={"code": None, "signal": 9, "cause": "oom"})
    assert actions(index) == ["create", "start", "oom", "die", "destroy"]


STOPPED = {"code": None, "signal": 15, "cause": "stopped"}


def test_one_that_was_stopped(index: Index) -> None:
    whole_life(index, exit=STOPPED)
    assert actions(index) == ["create", "start", "die", "stop", "destroy"]


def test_a_restart_that_was_asked_for_is_told_behind_its_start(index: Index) -> None:
    report(index, started=T.format(2), again=False)
    report(index, status="stopped", started=T.format(2), finished=T.format(3), exit=STOPPED)
    for _ in range(2):
        report(index, started=T.format(4), again=True)
    report(index, status="stopped", started=T.format(4), finished=T.format(5), exit=THREE, again=True)
    assert actions(index) == ["create", "start", "die", "stop", "start", "restart", "die"]
    found, _ = index.events.page(0, None)
    assert found[5].more == {}


@pytest.mark.parametrize("way", ["report", "word", "both"])
def test_a_new_name_is_told_once(index: Index, way: str) -> None:
    report(index, started=T.format(2))
    for _ in range(2):
        if way != "word":
            report(index, started=T.format(2), name="new")
        if way != "report":
            index.rename(ID, "new")
    assert actions(index) == ["create", "start", "rename"]
    event = index.events.page(0, None)[0][-1]
    assert (event.name, event.more) == ("new", {"oldName": "n"})


def test_a_name_before_it_was_told_of_is_its_first(index: Index) -> None:
    accepted(index)
    index.rename(ID, "new")
    report(index, name="new")
    assert actions(index) == ["create"]
    assert index.events.page(0, None)[0][0].name == "new"


def test_an_update_is_told_once_before_the_end_that_followed(index: Index) -> None:
    report(index, started=T.format(2))
    for _ in range(2):
        report(index, started=T.format(2), updated=T.format(3))
    ended: Any = {"status": "stopped", "started": T.format(2), "finished": T.format(5), "exit": THREE}
    report(index, updated=T.format(4), **ended)
    for _ in range(2):
        report(index, updated=T.format(6), **ended)
    assert actions(index) == ["create", "start", "update", "update", "die", "update"]
    assert [event.time for event in index.events.page(0, None)[0]][2:] == [T.format(n) for n in (3, 4, 5, 6)]


def test_what_is_reported_again_is_told_once(index: Index) -> None:
    for _ in range(2):
        report(index, status="creating")
    for _ in range(2):
        report(index, started=T.format(2))
    ended: Any = {"status": "stopped", "started": T.format(2), "finished": T.format(3), "exit": THREE}
    for _ in range(2):
        report(index, **ended)
    # A further start that fails, behind which its guardian tells the state of before.
    report(index, status="creating")
    report(index, **ended)
    assert actions(index) == ["create", "start", "die"]
    report(index, started=T.format(5))
    assert actions(index) == ["create", "start", "die", "start"]


def test_what_was_refused_never_was(index: Index) -> None:
    accepted(index)
    index.remove(ID)
    index.remove(ID)
    index.events.note(OTHER, "kill", T.format(1), {"signal": 9})
    assert actions(index) == []


def test_what_became_known_at_once_is_told_in_the_order_in_which_it_happened(index: Index) -> None:
    """Whoever goes on by the time of the last one would miss an older one behind it."""
    report(index, started=T.format(1), name="b")
    report(index, OTHER, started=T.format(1), name="a")
    ended: dict[str, Any] = {"status": "stopped", "started": T.format(1), "exit": THREE}
    late = "2026-01-31T12:00:20.000000000Z"
    index.reconcile(
        [
            ContainerState.model_validate(state(one, **{"uid": 5, "created": T.format(1), **ended, **more}))
            for one, more in (
                (ID, {"name": "b", "finished": late}),
                (OTHER, {"name": "a", "finished": T.format(3)}),
            )
        ],
        complete=True,
    )
    found = index.events.page(0, None)[0][-2:]
    assert [(event.action, event.name, event.time) for event in found] == [
        ("die", "a", T.format(3)),
        ("die", "b", late),
    ]


def test_what_ended_unseen(index: Index) -> None:
    report(index, started=T.format(2))
    report(index, OTHER, started=T.format(2), rm=True)
    index.reconcile([], complete=True)
    assert actions(index) == ["create", "start", "create", "start", "die", "die", "destroy"]
    found, _ = index.events.page(0, None)
    assert [event.more for event in found if event.action == "die"] == [{}, {}]
    index.reconcile([], complete=True)
    assert actions(index)[-1] == "destroy"
    assert actions(index).count("die") == 2


def test_a_report_is_heard_once_of_each_launcher(index: Index) -> None:
    index.begin()
    index.listen("one")
    assert [index.hear(number) for number in (1, 1, 2, None)] == [True, False, True, True]
    index.commit()
    index.begin()
    assert index.hear(3)
    index.rollback()
    assert index.hear(3)
    index.listen("one")
    assert not index.hear(2)
    index.listen("two")
    assert index.hear(1)


def test_what_was_undone_was_not_told(index: Index) -> None:
    index.begin()
    report(index)
    index.rollback()
    index.begin()
    assert index.commit() == []
    index.begin()
    report(index)
    assert [event.action for event in index.commit()] == ["create"]
    assert actions(index) == ["create"]


def test_each_user_keeps_so_many(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "MAX_EVENTS", 10)
    monkeypatch.setattr(events_module, "SPARE", 4)
    report(index, OTHER, uid=6)
    report(index)
    for _ in range(20):
        index.events.note(ID, "kill", T.format(1), {"signal": 1})
    mine, place = index.events.page(0, 5)
    assert len(mine) <= 10
    assert mine[-1].number == place == 22
    assert [event.action for event in index.events.page(0, 6)[0]] == ["create"]
    assert index.events.has_lost(2, 5, {})
    assert index.events.has_lost(2, None, {})
    assert not index.events.has_lost(2, 6, {})
    assert not index.events.has_lost(place, 5, {})
    # Nobody misses what was not there any more when they came.
    for uid in (5, None):
        known = index.events.floors(uid)
        assert not index.events.has_lost(0, uid, known)
        assert known.keys() == ({5} if uid else known.keys())
    known = index.events.floors(5)
    for _ in range(20):
        index.events.note(ID, "kill", T.format(1), {"signal": 1})
    assert index.events.has_lost(place, 5, known)


def test_labels_by_the_megabyte_are_left_out(index: Index) -> None:
    accepted(index, labels={"big": "x" * events_module.MAX_LABELS})
    report(index)
    [event] = index.events.page(0, None)[0]
    assert (event.labels, event.more) == ({}, {"labelsOmitted": True})


@pytest.mark.parametrize(
    ("before", "time", "told"),
    [
        ("", T.format(1), T.format(1)),
        (T.format(1), T.format(2), T.format(2)),
        (T.format(2), T.format(2), "2026-01-31T12:00:02.000000001Z"),
        (T.format(2), T.format(1), "2026-01-31T12:00:02.000000001Z"),
        (
            "2026-01-31T12:00:59.999999999Z",
            "2026-01-31T12:00:59.000000000Z",
            "2026-01-31T12:01:00.000000000Z",
        ),
        ("2026-01-31T12:00:59.000000000Z", T.format(1), T.format(1)),  # the clock was set back
    ],
)
def test_times_rise(before: str, time: str, told: str) -> None:
    assert _behind(before, time) == told


def test_health_is_told_when_it_changes(index: Index) -> None:
    accepted(index)
    starting = {"status": "starting", "since": T.format(2)}
    well, unwell = {"status": "healthy", "since": T.format(3)}, {"status": "unhealthy", "since": T.format(4)}
    for health in (starting, starting, well, well, unwell):
        report(index, started=T.format(2), health=health)
    assert actions(index) == ["create", "start", "health_status: healthy", "health_status: unhealthy"]
    assert index.containers(None, True)[0].to_wire()["health"] == {"status": "unhealthy"}
    # What was not told before the end stands before it.
    last = {"status": "healthy", "since": T.format(5)}
    report(index, status="stopped", started=T.format(2), finished=T.format(6), exit=THREE, health=last)
    assert actions(index)[-2:] == ["health_status: healthy", "die"]


def test_an_index_of_the_first_schema_is_taken_over(tmp_path: Path) -> None:
    path = str(tmp_path / "dkr.db")
    index = Index(path)
    accepted(index, labels={"a": "b"})
    report(index, started=T.format(2))
    report(index, OTHER, status="stopped", started=T.format(2), finished=T.format(3), exit=THREE)
    index.close()
    db = sqlite3.connect(path)
    db.executescript(
        "DROP TABLE events; DROP TABLE heard; ALTER TABLE containers DROP COLUMN told;"
        "ALTER TABLE containers DROP COLUMN told_start; ALTER TABLE containers DROP COLUMN told_end;"
        "ALTER TABLE containers DROP COLUMN health; ALTER TABLE containers DROP COLUMN told_health;"
        "ALTER TABLE containers DROP COLUMN restart; ALTER TABLE containers DROP COLUMN told_update;"
        "ALTER TABLE containers DROP COLUMN limits;"
        "PRAGMA user_version=1;"
    )
    db.close()
    index = Index(path)
    report(index, started=T.format(2))
    report(index, OTHER, status="stopped", started=T.format(2), finished=T.format(3), exit=THREE)
    assert actions(index) == []
    report(index, status="stopped", started=T.format(2), finished=T.format(3), exit=THREE)
    [event] = index.events.page(0, None)[0]
    assert (event.action, event.labels) == ("die", {"a": "b"})


def test_an_index_of_the_second_schema_is_taken_over(tmp_path: Path) -> None:
    path = str(tmp_path / "dkr.db")
    index = Index(path)
    accepted(index)
    report(index, started=T.format(2))
    index.close()
    db = sqlite3.connect(path)
    db.executescript(
        "ALTER TABLE containers DROP COLUMN health; ALTER TABLE containers DROP COLUMN told_health;"
        "ALTER TABLE containers DROP COLUMN restart; ALTER TABLE containers DROP COLUMN told_update;"
        "ALTER TABLE containers DROP COLUMN limits;"
        "PRAGMA user_version=2;"
    )
    db.close()
    index = Index(path)
    assert actions(index) == ["create", "start"]
    report(index, started=T.format(2), health={"status": "healthy", "since": T.format(2)})
    assert actions(index) == ["create", "start", "health_status: healthy"]
    [container] = index.containers(None, every=True)
    assert (container.restart, container.restarts) == (None, None)
    report(
        index,
        status="restarting",
        started=T.format(2),
        finished=T.format(3),
        exit=THREE,
        restart=ALWAYS,
        restarts=4,
    )
    [container] = index.containers(None, every=False)
    assert (container.status, container.restart, container.restarts) == ("restarting", ALWAYS, 4)
    index.close()


def test_an_index_of_the_third_schema_is_taken_over(tmp_path: Path) -> None:
    path = str(tmp_path / "dkr.db")
    index = Index(path)
    report(index, started=T.format(2))
    index.close()
    db = sqlite3.connect(path)
    db.executescript(
        "ALTER TABLE containers DROP COLUMN told_update; ALTER TABLE containers DROP COLUMN limits;"
        "PRAGMA user_version=3;"
    )
    db.close()
    index = Index(path)
    [container] = index.containers(None, every=True)
    assert container.limits is None
    report(index, started=T.format(2), updated=T.format(3), limits={"memory": 7, "pidsLimit": 5})
    assert actions(index) == ["create", "start", "update"]
    [container] = index.containers(None, every=True)
    assert container.limits is not None
    assert container.limits.to_wire() == {"memory": 7, "pidsLimit": 5}
    index.close()


def test_a_restart_is_told_once_with_its_start_and_the_end_before(index: Index) -> None:
    accepted(index)
    policy: dict[str, Any] = {"restart": ALWAYS}
    report(index, started=T.format(2), restarts=0, **policy)
    waits: dict[str, Any] = {
        "status": "restarting",
        "started": T.format(2),
        "finished": T.format(3),
        "exit": THREE,
    }
    report(index, restarts=0, **waits, **policy)
    report(index, restarts=0, **waits, **policy)
    report(index, status="creating", restarts=1, **policy)
    report(index, started=T.format(4), restarts=1, took=0.01, **policy)
    report(index, started=T.format(4), restarts=1, took=0.01, **policy)
    assert actions(index) == ["create", "start", "die", "restart", "start"]
    restart = index.events.page(0, None)[0][3]
    assert restart.more == {"restarts": 1, "reason": "policy"}
