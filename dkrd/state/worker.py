"""The one thread that may block: it owns the index, and writes in batches so that many starts cost one
transaction.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from common.errors import DkrError, Internal
from dkrd.state.index import is_damage, is_scarcity

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.state.events import Event
    from dkrd.state.index import Index

    Job = tuple[Callable[[Index], Any], asyncio.Future[Any] | None]

log = logging.getLogger("dkr.index")

T = TypeVar("T")
MAX_BATCH = 256
MAX_LOST = 10_000  # writes kept for when the disk has room again
LOST_SECONDS = 5.0  # after which they are tried again where nobody asks for anything: somebody may wait for what they tell


class Worker:
    """Runs functions of the index in its thread, in the order in which they were given.

    on_damage  called on the event loop when the database turns out to be broken
    on_news    called on the event loop with the events that have been written down, in order, and the number of the last report
    """

    def __init__(
        self,
        index: Index,
        on_damage: Callable[[Exception], None],
        on_news: Callable[[list[Event], int], None] = lambda _events, _heard: None,
    ) -> None:
        self._index = index
        self._on_damage = on_damage
        self._on_news = on_news
        self._heard = index.heard
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lost: list[Job] = []
        self._thread = threading.Thread(target=self._run, name="dkr-index", daemon=True)
        self._thread.start()

    def post(self, job: Callable[[Index], object]) -> None:
        """Run `job` later; if it fails, that is logged. For writes whose loss the next reconciliation
        repairs; those that a full disk has refused are tried again before anything newer.
        """
        self._jobs.put((job, None))

    async def ask(self, job: Callable[[Index], T]) -> T:
        """The result of `job`, which sees every write that was given before. Raises what it raises."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((job, future))
        return await future

    def stop(self, seconds: float) -> None:
        """Finish what was given, in at most `seconds`, and close the index."""
        self._jobs.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            batch, last = self._batch()
            if self._lost:
                batch = self._again(batch)
            if batch:
                self._work(batch)
            if last:
                self._index.close()
                return

    def _batch(self) -> tuple[list[Job], bool]:
        """What waits, and whether it was the last. It may be nothing where writes were lost, which are due again then."""
        batch: list[Job] = []
        try:
            job = self._jobs.get(timeout=LOST_SECONDS if self._lost else None)
        except queue.Empty:
            return batch, False
        while job is not None:
            batch.append(job)
            if len(batch) == MAX_BATCH:
                return batch, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _again(self, batch: list[Job]) -> list[Job]:
        """Try the lost writes again; what is then to be done of `batch`: all, or only what reads."""
        lost, self._lost = self._lost, []
        self._work(lost)
        if not self._lost:
            return batch
        self._keep(batch)
        return [job for job in batch if job[1] is not None]

    def _keep(self, batch: list[Job]) -> None:
        self._lost = [*self._lost, *(job for job in batch if job[1] is None)][-MAX_LOST:]

    def _work(self, batch: list[Job]) -> None:
        results: list[tuple[asyncio.Future[Any] | None, object, Exception | None]] = []
        try:
            self._index.begin()
            for job, future in batch:
                results.append((future, *self._one(job)))
            fresh = self._index.commit()
        except sqlite3.Error as err:
            # Nothing of the batch is written: a full disk, or a broken database.
            self._failed(err)
            self._keep(batch)
            failure = Internal(f"cannot use the index: {err}")
            results = [(future, None, failure) for _, future in batch]
        else:
            # Before the results: who has asked after a report finds what it tells.
            if fresh or self._index.heard != self._heard:
                self._heard = self._index.heard
                self._loop.call_soon_threadsafe(self._on_news, fresh, self._heard)
        if any(future for future, _, _ in results):
            self._loop.call_soon_threadsafe(_deliver, results)

    def _one(self, job: Callable[[Index], object]) -> tuple[object, Exception | None]:
        try:
            return job(self._index), None
        except DkrError as err:
            return None, err
        except sqlite3.Error as err:
            if is_damage(err) or is_scarcity(err):
                raise
            log.error("a statement of the index failed: %s", err)
            return None, Internal(f"cannot use the index: {err}")

    def _failed(self, err: sqlite3.Error) -> None:
        log.error("a transaction of the index failed: %s", err)
        try:
            self._index.rollback()
        except sqlite3.Error as second:
            log.error("it could not be rolled back: %s", second)
        if is_damage(err):
            self._loop.call_soon_threadsafe(self._on_damage, err)


def _deliver(results: list[tuple[asyncio.Future[Any] | None, object, Exception | None]]) -> None:
    for future, value, error in results:
        if future is None or future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
