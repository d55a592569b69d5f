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
from dkrd.state.index import is_damage

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.state.index import Index

    Job = tuple[Callable[[Index], Any], asyncio.Future[Any] | None]

log = logging.getLogger("dkr.index")

T = TypeVar("T")
MAX_BATCH = 256


class Worker:
    """Runs functions of the index in its thread, in the order in which they were given.

    on_damage  called on the event loop when the database turns out to be broken
    """

    def __init__(self, index: Index, on_damage: Callable[[Exception], None]) -> None:
        self._index = index
        self._on_damage = on_damage
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="dkr-index", daemon=True)
        self._thread.start()

    def post(self, job: Callable[[Index], object]) -> None:
        """Run `job` later; if it fails, that is logged. For writes whose loss the next reconciliation
        repairs.
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
            if batch:
                self._work(batch)
            if last:
                self._index.close()
                return

    def _batch(self) -> tuple[list[Job], bool]:
        """What waits, at least one; and whether it was the last."""
        job = self._jobs.get()
        batch: list[Job] = []
        while job is not None:
            batch.append(job)
            if len(batch) == MAX_BATCH:
                return batch, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _work(self, batch: list[Job]) -> None:
        results: list[tuple[asyncio.Future[Any] | None, object, Exception | None]] = []
        try:
            self._index.begin()
            for job, future in batch:
                results.append((future, *self._one(job)))
            self._index.commit()
        except sqlite3.Error as err:
            # Nothing of the batch is kept: a full disk, or a broken database.
            self._failed(err)
            failure = Internal(f"cannot use the index: {err}")
            results = [(future, None, failure) for _, future in batch]
        if any(future for future, _, _ in results):
            self._loop.call_soon_threadsafe(_deliver, results)

    def _one(self, job: Callable[[Index], object]) -> tuple[object, Exception | None]:
        try:
            return job(self._index), None
        except DkrError as err:
            return None, err
        except sqlite3.Error as err:
            if is_damage(err):
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
