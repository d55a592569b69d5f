"""The api's index of containers: SQLite, for names, labels and lists. Nothing that policy rests on is in it.

What runs is told by the shims (docs/protocol.md, section 6), what may be is in root's files. Beside the containers stands what
has happened to them (events.py). So a database that cannot be read is moved aside and made anew, and no write waits for
a disk: synchronous=NORMAL in WAL mode loses the last transactions in a power cut and stays consistent
(https://www.sqlite.org/pragma.html#pragma_synchronous).

Everything here blocks and belongs to one thread (dkrd/state/worker.py).
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
from typing import TYPE_CHECKING

from common import frames
from common.errors import Conflict, HostUnfit, NotFound, Unavailable
from dkrd.state import events, rows, schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from common.models import Container, ContainerState
    from dkrd.state.events import Event

log = logging.getLogger("dkr.index")

LOCK_SECONDS = 5.0  # an api that was just killed is gone by then
_OWNED = " AND (? IS NULL OR uid = ?)"
_INSERT = """
INSERT INTO containers (id, name, uid, image, args, labels, rm, status, created) VALUES (?,?,?,?,?,?,?,?,?)
ON CONFLICT (id) DO UPDATE SET image = excluded.image, args = excluded.args, labels = excluded.labels
"""
_REPORT = """
INSERT INTO containers (id, name, uid, image, args, labels, rm, status, pid, created, started, finished, exit, health, restart,
    limits)
VALUES (?, ?, ?, '', '[]', '{}', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, uid = excluded.uid, rm = excluded.rm,
    status = excluded.status, pid = excluded.pid, created = excluded.created, started = excluded.started,
    finished = excluded.finished, exit = excluded.exit, health = excluded.health, restart = excluded.restart,
    limits = excluded.limits
"""


# What there is of a container that has no process.
_AT_REST = ("created", "stopped")


class Lock:
    """The lock on the index's directory: held until this process ends, flock(2)."""

    def __init__(self, directory: str) -> None:
        """Raises Unavailable where another api keeps the lock, HostUnfit where it cannot be taken at all."""
        path = os.path.join(directory, "dkr.lock")
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as err:
            raise HostUnfit(f"cannot open {path}: {err.strerror}", errno=err.errno) from err
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(self._fd)
                    raise Unavailable(
                        f"cannot lock {path}: another api process holds it",
                        hint="end the dkrd that uses the same state directory",
                    ) from None
            time.sleep(0.02)


def open_index(directory: str) -> Index:
    """The index in `directory`, made anew where there is none or where it cannot be read.

    Raises HostUnfit where the directory cannot be used.
    """
    path = os.path.join(directory, "dkr.db")
    try:
        return Index(path)
    except sqlite3.DatabaseError as err:
        if isinstance(err, sqlite3.OperationalError) and not _is_damage(err):
            raise HostUnfit(f"cannot open {path}: {err}") from err
        aside = _move_aside(path)
        log.error("the index %s cannot be read (%s): moved to %s, a new one is made", path, err, aside)
        return Index(path)


def is_damage(err: sqlite3.Error) -> bool:
    """Whether `err` says that the database itself is broken, not that a statement or the disk failed."""
    if isinstance(err, sqlite3.OperationalError | sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return _is_damage(err)
    return isinstance(err, sqlite3.DatabaseError)


def is_scarcity(err: sqlite3.Error) -> bool:
    """Whether `err` says that the disk took no more: then the whole transaction is undone by SQLite itself."""
    return (getattr(err, "sqlite_errorcode", 0) & 0xFF) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _is_damage(err: sqlite3.Error) -> bool:
    return (getattr(err, "sqlite_errorcode", 0) & 0xFF) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _move_aside(path: str) -> str:
    aside = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
    try:
        os.rename(path, aside)
        for suffix in ("-wal", "-shm"):
            if os.path.lexists(path + suffix):
                os.rename(path + suffix, aside + suffix)
    except OSError as err:
        raise HostUnfit(f"cannot move {path} aside: {err.strerror}", errno=err.errno) from err
    return aside


class Index:
    """One open database.

    events  what has happened
    heard   number of the last report of the launcher's that is written down, once the transaction is
    """

    def __init__(self, path: str) -> None:
        """Raises sqlite3.DatabaseError where it is damaged or of another schema."""
        # Opened by the starting thread, used by the worker alone from then on.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=32)
        try:
            for pragma in (
                "journal_mode=WAL",
                "synchronous=NORMAL",
                "cache_size=-512",
                "wal_autocheckpoint=256",
            ):
                self._db.execute(f"PRAGMA {pragma}").fetchone()
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if not 0 <= version <= schema.VERSION:
                raise sqlite3.DatabaseError(f"its schema is {version}, {schema.VERSION} is wanted")
            if version and (found := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)
            if version != schema.VERSION:
                self._db.executescript(schema.script(version))
            self.events = events.Events(self._db)
            epoch, number = self._db.execute("SELECT epoch, number FROM heard").fetchone()
            self._epoch: str = epoch
            self.heard: int = number
            self._written = epoch, number
        except BaseException:
            self._db.close()
            raise

    def begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> list[Event]:
        """Write it down; the events of the transaction, which are true from now on."""
        if (self._epoch, self.heard) != self._written:
            self._db.execute("UPDATE heard SET epoch = ?, number = ?", (self._epoch, self.heard))
        self._db.execute("COMMIT")
        self._written = self._epoch, self.heard
        fresh, self.events.fresh = self.events.fresh, []
        return fresh

    def rollback(self) -> None:
        """Undo what was begun, if the database has not done so itself."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._epoch, self.heard = self._written
        self.events.forget_fresh()

    def close(self) -> None:
        self._db.close()

    # --- writing

    def listen(self, epoch: str) -> None:
        """What is heard from here on comes from the launcher of this `epoch`, whose numbers begin anew."""
        if epoch != self._epoch:
            self._epoch, self.heard = epoch, 0

    def hear(self, number: int | None) -> bool:
        """Whether the report of this number is new: who was not told that it is written down sends it again. None: it has none."""
        if number is None:
            return True
        if number <= self.heard:
            return False
        self.heard = number
        return True

    def insert(self, container: Container) -> None:
        """A container that was just accepted. A report that came first stays."""
        values = (
            container.id,
            container.name,
            container.uid,
            container.image,
            _json(list(container.args)),
            _json(container.labels),
            container.rm,
            container.status,
            container.created,
        )
        self._db.execute(_INSERT, values)

    def report(self, state: ContainerState) -> None:
        """What a shim says of its container. One that is not known here is put in, as far as it is known."""
        values = (
            state.id,
            state.name,
            state.uid,
            state.rm,
            state.status,
            (state.pid or None) if state.status not in ("restarting", "stopped") else None,
            state.created,
            state.started,
            state.finished,
            None if state.exit is None else _json(state.exit.to_wire()),
            None if state.health is None else state.health.status,
            None if state.restarts is None else _json([state.restart, state.restarts]),
            None if state.limits is None else _json(state.limits.to_wire()),
        )
        called = self._name(state.id)
        self._db.execute(_REPORT, values)
        self.events.follow(state, called)

    def rename(self, container: str, name: str) -> None:
        """The container is called otherwise now."""
        called = self._name(container)
        self._db.execute("UPDATE containers SET name = ? WHERE id = ?", (name, container))
        if called is not None:
            self.events.renamed(container, called)

    def _name(self, container: str) -> str | None:
        row = self._db.execute("SELECT name FROM containers WHERE id = ?", (container,)).fetchone()
        return None if row is None else str(row[0])

    def remove(self, container: str, time: str | None = None) -> None:
        """The container is gone, since `time`, if that is known."""
        self.events.gone(container, time)
        self._db.execute("DELETE FROM containers WHERE id = ?", (container,))

    def reconcile(self, states: Iterable[ContainerState], complete: bool) -> tuple[int, int]:
        """Make the index say what `hello` says; how many were marked stopped and how many removed.

        What was live here and is not known there has ended while nobody looked: its exit is unknown. With
        `rm`, or where it never ran, nothing of it is left; nor is anything of what was only created or had
        stopped before, if `complete`: `states` are all there are.
        """
        known = set()
        # In the order of what happened, as far as it can be told: who reads goes on by the time.
        for state in sorted(states, key=_newest):
            known.add(state.id)
            self.report(state)
        stopped = removed = 0
        for container, rm, status in self._db.execute("SELECT id, rm, status FROM containers").fetchall():
            if container in known:
                continue
            at_rest = status in _AT_REST
            if (at_rest and complete) or (not at_rest and (rm or status == "creating")):
                self.remove(container, None)
                removed += 1
            elif not at_rest:
                self.events.vanished(container)
                self._db.execute(
                    "UPDATE containers SET status = 'stopped', pid = NULL WHERE id = ?", (container,)
                )
                stopped += 1
        return stopped, removed

    # --- reading

    def names(self) -> Iterator[tuple[str, int, str]]:
        """(id, uid, name) of every container, the newest last."""
        yield from self._db.execute("SELECT id, uid, name FROM containers ORDER BY created")

    def containers(self, uid: int | None, every: bool) -> list[Container]:
        """The containers of `uid` (None: of everyone), the newest first; those without a process only with `every`."""
        condition = "1" if every else "status NOT IN ('created', 'stopped')"
        return rows.newest_first(self._rows(condition + _OWNED + " ORDER BY id", (uid, uid)))

    def counts(self, uid: int | None) -> dict[str, int]:
        """Status -> how many of the containers of `uid` (None: of everyone) have it."""
        statement = f"SELECT status, COUNT(*) FROM containers WHERE 1{_OWNED} GROUP BY status"  # noqa: S608  # as below
        return dict(self._db.execute(statement, (uid, uid)).fetchall())

    def find(self, reference: str, uid: int | None, own: int | None) -> Container:
        """The container with this id, name or unique beginning of an id, among those of `uid` (None: of
        everyone).

        Of several with one name, that of `own` is meant. Raises NotFound, and Conflict where several are
        meant.
        """
        same = self._select("id = ?" + _OWNED, (reference, uid, uid))
        if same:
            return same[0]
        named = self._select("name = ?" + _OWNED + " ORDER BY created DESC LIMIT 9", (reference, uid, uid))
        mine = [container for container in named if container.uid == own]
        # Ids are hexadecimal: whatever begins with `reference` sorts before `reference` and a g.
        found = (
            mine[:1]
            or named
            or self._select(
                "id >= ? AND id < ?" + _OWNED + " LIMIT 9", (reference, reference + "g", uid, uid)
            )
        )
        if not found:
            raise NotFound(f'cannot find container "{reference}": no container has this id or name')
        if len(found) > 1:
            raise Conflict(
                f'cannot tell which container "{reference}" is: several are meant',
                hint="give more of the id: " + ", ".join(container.id[:16] for container in found[:4]),
            )
        return found[0]

    def _select(self, condition: str, values: tuple[object, ...]) -> list[Container]:
        """The containers for which `condition` holds, a text of ours with marks for `values`."""
        return [rows.container(row) for row in self._rows(condition, values)]

    def _rows(self, condition: str, values: tuple[object, ...]) -> list[rows.Row]:
        statement = f"SELECT {rows.COLUMNS} FROM containers WHERE {condition}"  # noqa: S608  # no caller's text in it
        return self._db.execute(statement, values).fetchall()


def _newest(state: ContainerState) -> str:
    """When the last thing happened to it that its state tells."""
    since = state.health.since if state.health is not None else ""
    return max(state.created, state.started or "", state.finished or "", since)


def _json(value: object) -> str:
    return frames.dumps(value).decode("ascii")
