"""The index: its lock, its names, and that one bad write costs only itself."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from common.errors import Conflict, HostUnfit, Internal, NotFound, Unavailable
from common.models import Container, ContainerState
from dkrd.state import index as index_module
from dkrd.state.index import Index, Lock, is_damage, open_index
from dkrd.state.names import Names
from dkrd.state.worker import Worker
from tests.unit.api_process import state

if TYPE_CHECKING:
    from pathlib import Path

ID = "a" * 64


def reported(container: str, **changes: Any) -> ContainerState:
    return ContainerState.model_validate(state(container, **changes), by_alias=True, by_name=False)


def accepted(container: str, name: str = "n", uid: int = 5) -> Container:
    return Container(
        id=container,
        name=name,
        uid=uid,
        image="host",
        args=("a", "b"),
        labels={"k": "v"},
        rm=False,
        status="creating",
        created="2026-01-31T12:00:00Z",
    )


def test_a_second_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "LOCK_SECONDS", 0.05)
    first = Lock(str(tmp_path))
    with pytest.raises(Unavailable, match="another api process"):
        Lock(str(tmp_path))
    os.close(first._fd)
    Lock(str(tmp_path))


def test_a_lock_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "dkr.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostUnfit):
        Lock(str(tmp_path))
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HostUnfit, match="cannot open"):
        open_index(str(tmp_path / "nosuch"))


def test_the_index_of_another_release_is_moved_aside(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "dkr.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    index = open_index(str(tmp_path))
    assert list(index.names()) == []
    index.close()
    assert len([p for p in tmp_path.iterdir() if ".damaged-" in p.name]) == 1


def test_report_and_insert_in_either_order(tmp_path: Path) -> None:
    index = Index(str(tmp_path / "dkr.db"))
    index.insert(accepted(ID))
    index.report(reported(ID, uid=5, name="n"))
    other = "b" * 64
    index.report(reported(other, uid=5, name="m"))
    index.insert(accepted(other, "m"))
    shown = {c.id: c for c in index.containers(5, every=True)}
    assert {c.status for c in shown.values()} == {"running"}
    assert {c.labels["k"] for c in shown.values()} == {"v"}
    assert index.containers(6, every=True) == []
    assert len(index.containers(None, every=False)) == 2
    index.close()


def test_one_name_of_two_users(tmp_path: Path) -> None:
    index = Index(str(tmp_path / "dkr.db"))
    index.insert(accepted(ID, uid=5))
    index.insert(accepted("b" * 64, uid=6))
    assert index.find("n", 5, 5).id == ID
    assert index.find("n", None, 6).id == "b" * 64
    with pytest.raises(Conflict):
        index.find("n", None, 0)
    with pytest.raises(NotFound):
        index.find("n", 7, 7)
    index.close()


def test_an_incomplete_hello_removes_nothing_that_has_stopped(tmp_path: Path) -> None:
    index = Index(str(tmp_path / "dkr.db"))
    index.report(reported(ID, status="stopped"))
    assert index.reconcile((), complete=False) == (0, 0)
    assert index.reconcile((), complete=True) == (0, 1)
    index.close()


def test_names() -> None:
    names = Names()
    names.reserve(1, "a")
    names.reserve(2, "a")
    with pytest.raises(Conflict):
        names.reserve(1, "a")
    names.release(1, "a")
    names.reserve(1, "a")
    names.bind(1, "a", ID)
    names.release(1, "a")
    assert not names.is_free(1, "a")
    names.forget("b" * 64)
    with pytest.raises(Conflict, match=ID[:12]):
        names.reserve(1, "a")
    names.forget(ID)
    assert names.is_free(1, "a")
    # an older container of the same name does not take it along
    names.bind(1, "a", ID)
    names.bind(1, "a", "b" * 64)
    names.forget(ID)
    assert not names.is_free(1, "a")


async def test_a_failing_write_costs_only_itself(tmp_path: Path) -> None:
    damage: list[Exception] = []
    worker = Worker(Index(str(tmp_path / "dkr.db")), damage.append)

    def broken(index: Index) -> None:
        index._db.execute("INSERT INTO nowhere VALUES (1)")

    worker.post(lambda index: index.insert(accepted(ID)))
    worker.post(broken)
    with pytest.raises(Internal):
        await worker.ask(broken)
    assert [c.id for c in await worker.ask(lambda index: index.containers(None, every=True))] == [ID]
    with pytest.raises(NotFound):
        await worker.ask(lambda index: index.find("x", None, 0))
    worker.stop(5)
    assert not damage
    again = Index(str(tmp_path / "dkr.db"))
    assert [row[0] for row in again.names()] == [ID]
    again.close()


async def test_what_is_given_before_the_end_is_written(tmp_path: Path) -> None:
    worker = Worker(Index(str(tmp_path / "dkr.db")), lambda err: None)
    for number in range(1000):
        container = accepted(f"{number:064}", f"n{number}")
        worker.post(lambda index, container=container: index.insert(container))  # type: ignore[misc]
    worker.stop(20)
    again = Index(str(tmp_path / "dkr.db"))
    assert len(list(again.names())) == 1000
    again.close()


async def test_damage_is_told(tmp_path: Path) -> None:
    told = asyncio.get_running_loop().create_future()
    path = tmp_path / "dkr.db"
    index = Index(str(path))
    index.insert(accepted(ID))
    index._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    index._db.execute("PRAGMA shrink_memory").fetchone()
    with open(path, "r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    worker = Worker(index, told.set_result)
    with pytest.raises(Internal):
        await worker.ask(lambda index: list(index.names()))
    assert is_damage(await told)
    worker.stop(5)
