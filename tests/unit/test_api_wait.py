"""POST /v1/containers/{container}/wait, where the end comes while it looks: between its questions to the index."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from common.models import ContainerState, ExitStatus, WaitQuery
from dkrd.api import endings, life
from dkrd.api.endings import Endings
from dkrd.api.peers import Peer
from dkrd.state.index import Index
from dkrd.state.worker import Worker
from tests.unit.api_process import state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
ID, OTHER = "a" * 64, "b" * 64
THREE = ExitStatus(code=3, signal=None, cause="exited")
PEER = Peer(uid=0, pid=1, owner=0, admin=True)


def report(worker: Worker, container: str, name: str) -> None:
    told = ContainerState.model_validate(state(container, name=name), by_alias=True, by_name=False)
    worker.post(lambda index: index.report(told))


class Interrupted(Worker):
    """A worker behind whose first answer something happens that the asking does not see yet."""

    def __init__(self, path: Path, happens: Callable[[Worker], None]) -> None:
        super().__init__(Index(str(path / "dkr.db")), lambda err: None)
        self._happens: Callable[[Worker], None] | None = happens

    async def ask(self, job: Callable[[Index], T]) -> T:
        found = await super().ask(job)
        happens, self._happens = self._happens, None
        if happens is not None:
            happens(self)
        return found


async def waited(worker: Worker, told: Endings, condition: str) -> ExitStatus | None:
    """What `wait` answers for the container named n."""
    transport = SimpleNamespace(is_closing=lambda: False)
    request: Any = SimpleNamespace(
        match_info={"container": "n"}, protocol=SimpleNamespace(), transport=transport
    )
    context: Any = SimpleNamespace(index=worker, endings=told)
    report(worker, ID, "n")
    try:
        async with asyncio.timeout(20):
            answer = await life.wait(
                context, PEER, request, WaitQuery.model_validate({"condition": condition})
            )
    finally:
        worker.stop(5)
    assert answer.id == ID
    return answer.exit


@pytest.mark.parametrize("condition", ["stopped", "removed"])
@pytest.mark.parametrize("again", [False, True])
async def test_an_end_between_look_and_wait_is_told(tmp_path: Path, condition: str, *, again: bool) -> None:
    told = Endings()

    def ends(worker: Worker) -> None:
        told.stopped(ID, THREE)
        told.removed(ID)
        worker.post(lambda index: index.remove(ID))
        if again:  # the name is somebody else's by now, who runs on
            report(worker, OTHER, "n")

    assert await waited(Interrupted(tmp_path, ends), told, condition) == THREE


async def test_a_removal_between_look_and_wait_is_told_with_the_exit_that_was_seen(tmp_path: Path) -> None:
    told = Endings()

    def removed(worker: Worker) -> None:
        told.removed(ID)
        worker.post(lambda index: index.remove(ID))

    assert await waited(Interrupted(tmp_path, removed), told, "removed") is None


def test_ends_are_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "REMEMBERED", 2)
    told = Endings()
    for container in "abac":
        told.stopped(container, THREE)
        told.removed(container)
    assert [told.exit_of(container) for container in "abcd"] == [THREE, None, THREE, None]
