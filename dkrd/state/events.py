"""What has happened to containers, in the order in which it was learnt: rows of the index, written with what they tell of.

An event is what a report changes of what was told before: so each is there exactly once, also where an api was killed between a report
and its commit, and of what came to pass while there was none. What is kept of each user is bounded, so that nobody pushes out what
another wants to read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from common import frames
from common.clock import now

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from common.models import ContainerState

    More = dict[str, object]

MAX_EVENTS = 4096  # kept of one user
MAX_BYTES = 4 * 1024 * 1024  # of text in them
SPARE = 256  # that are let go at once: not each event has to count
MAX_LABELS = 16 * 1024  # bytes of JSON; more are not told with each event
PAGE = 256
# No second index, no AUTOINCREMENT: each would be one more page that every report of a container has written.
SCHEMA = """
CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    action TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    uid INTEGER NOT NULL,
    image TEXT NOT NULL,
    labels TEXT NOT NULL,
    more TEXT NOT NULL,
    size INTEGER NOT NULL
) STRICT;
"""
_INSERT = """
INSERT INTO events (number, time, action, id, name, uid, image, labels, more, size) VALUES (?,?,?,?,?,?,?,?,?,?)
"""
_FIELDS = "number, time, action, id, name, uid, image, labels, more"
# `told`, `told_start`, `told_end`, `told_health`, `told_update`: that it is there was told, of which run the start, of which the end,
# since when its health is what was told, and which update.
_KNOWN = """
SELECT name, uid, image, labels, told, told_start, told_end, told_health, told_update FROM containers WHERE id = ?
"""
_TOLD = """
UPDATE containers SET told = ?, told_start = ?, told_end = ?, told_health = ?, told_update = ? WHERE id = ?
"""
_OWNED = "(? IS NULL OR uid = ?)"
_FIXED = 200  # bytes of a row besides its texts
_CLOCKS = timedelta(seconds=5)  # that a clock may be behind another's word; beyond, it was set back


@dataclass(frozen=True, slots=True)
class Event:
    """One. `number` rises with each; `more`: `exit` of a die, `signal` of a kill, what a start took, the old name of a rename, or that
    labels are left out.
    """

    number: int
    time: str
    action: str
    id: str
    name: str
    uid: int
    image: str
    labels: dict[str, str]
    more: More

    def line(self) -> bytes:
        """As the API tells it."""
        told: dict[str, object] = {
            "time": self.time,
            "type": "container",
            "action": self.action,
            "id": self.id,
            "name": self.name,
            "uid": self.uid,
            "image": self.image,
            "labels": self.labels,
            **self.more,
        }
        return frames.dumps(told) + b"\n"


class _Known(NamedTuple):
    name: str
    uid: int
    image: str
    labels: str
    told: int
    start: str | None
    end: str | None
    health: str | None
    update: str | None


class Events:
    """The table, in an open database; its owner begins and commits.

    last   number of the newest
    fresh  those that the transaction under way has added
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.fresh: list[Event] = []
        self._floors: dict[int, int] = {}  # uid -> the newest that was let go
        self._counts: Counter[int] = Counter()
        self._sizes: Counter[int] = Counter()
        self._load()

    def _load(self) -> None:
        """What is there, as far as it is remembered."""
        rows = self._db.execute("SELECT uid, COUNT(*), SUM(size) FROM events GROUP BY uid").fetchall()
        self._counts = Counter({uid: count for uid, count, _ in rows})
        self._sizes = Counter({uid: size for uid, _, size in rows})
        newest = self._db.execute("SELECT number, time FROM events ORDER BY number DESC LIMIT 1").fetchone()
        self.last: int = newest[0] if newest else 0
        self._time: str = newest[1] if newest else ""

    def forget_fresh(self) -> None:
        """The transaction was undone."""
        self.fresh = []
        self._load()

    # --- writing

    def follow(self, state: ContainerState, called: str | None) -> None:
        """What `state`, which the index has by now, tells that was not told before. `called`: its name as the index had it."""
        known = self._known(state.id)
        if known is None:
            return
        start, end, health, update = known.start, known.end, known.health, known.update
        if not known.told:
            self._add(known, state.id, "create", state.created, {})
        self._follow_name(known, state.id, called)
        if state.started is not None and state.started != start:
            start = state.started
            self._add_start(known, state, start)
        if state.health is not None and state.health.since != health:
            health = state.health.since
            if state.health.status != "starting":
                self._add(known, state.id, f"health_status: {state.health.status}", health, {})
        fresh = state.updated if state.updated != update else None
        if fresh is not None and (state.finished is None or fresh < state.finished):
            self._add(known, state.id, "update", fresh, {})
        if state.status in ("restarting", "stopped") and start is not None and state.started == start != end:
            end = start
            self._add_end(known, state)
        if fresh is not None and state.finished is not None and fresh >= state.finished:
            self._add(known, state.id, "update", fresh, {})
        told = (1, start, end, health, fresh or update)
        if told != (known.told, known.start, known.end, known.health, known.update):
            self._db.execute(_TOLD, (*told, state.id))

    def _follow_name(self, known: _Known, container: str, called: str | None) -> None:
        if known.told and called not in (None, known.name):
            self._add(known, container, "rename", now(), {"oldName": called})

    def _add_start(self, known: _Known, state: ContainerState, time: str) -> None:
        """As Docker a restart that was asked for is told behind the start. What nobody asked for is told before it."""
        if state.restarts:
            more: More = {"restarts": state.restarts, "reason": state.reason or "policy"}
            self._add(known, state.id, "restart", time, more)
        self._add(known, state.id, "start", time, {} if state.took is None else {"took": state.took})
        if state.again:
            self._add(known, state.id, "restart", time, {})

    def _add_end(self, known: _Known, state: ContainerState) -> None:
        time, cause = state.finished or now(), None if state.exit is None else state.exit.cause
        if cause == "oom":
            self._add(known, state.id, "oom", time, {})
        more: More = {} if state.exit is None else {"exit": state.exit.to_wire()}
        self._add(known, state.id, "die", time, more)
        if cause == "stopped":
            self._add(known, state.id, "stop", time, {})

    def renamed(self, container: str, called: str) -> None:
        """It was called so, and is no longer; the index has its name."""
        known = self._known(container)
        if known is not None:
            self._follow_name(known, container, called)

    def vanished(self, container: str) -> None:
        """It runs no longer, and nobody learnt how it ended."""
        known = self._known(container)
        if known is not None and known.start is not None and known.end != known.start:
            self._add(known, container, "die", now(), {})
            self._db.execute("UPDATE containers SET told_end = told_start WHERE id = ?", (container,))

    def gone(self, container: str, time: str | None) -> None:
        """Nothing of it is left; the index still has it. What never was, as a start that was refused, is not told of."""
        self.vanished(container)
        known = self._known(container)
        if known is not None and known.told:
            self._add(known, container, "destroy", time or now(), {})

    def note(self, container: str, action: str, time: str, more: More) -> None:
        """What was done to a container."""
        known = self._known(container)
        if known is not None:
            self._add(known, container, action, time, more)

    def _known(self, container: str) -> _Known | None:
        row = self._db.execute(_KNOWN, (container,)).fetchone()
        return None if row is None else _Known(*row)

    def _add(self, known: _Known, container: str, action: str, time: str, more: More) -> None:
        labels = known.labels
        if len(labels) > MAX_LABELS:
            labels, more = "{}", {**more, "labelsOmitted": True}
        self._time = time = _behind(self._time, time)
        told = frames.dumps(more).decode("ascii")
        size = _FIXED + len(known.name) + len(known.image) + len(labels) + len(told)
        self.last += 1
        values = (self.last, time, action, container, known.name, known.uid, known.image, labels, told)
        self._db.execute(_INSERT, (*values, size))
        self.fresh.append(_event(values))
        self._counts[known.uid] += 1
        self._sizes[known.uid] += size
        self._bound(known.uid)

    def _bound(self, uid: int) -> None:
        """Let the oldest of a user's go, where there are too many."""
        while self._counts[uid] > MAX_EVENTS or self._sizes[uid] > MAX_BYTES:
            oldest = self._db.execute(
                "SELECT number, size FROM events WHERE uid = ? ORDER BY number LIMIT ?", (uid, SPARE)
            ).fetchall()
            floor = oldest[-1][0]
            self._db.execute("DELETE FROM events WHERE uid = ? AND number <= ?", (uid, floor))
            self._floors[uid] = floor
            self._counts[uid] -= len(oldest)
            self._sizes[uid] -= sum(size for _, size in oldest)

    # --- reading

    def before(self, since: str | None) -> int:
        """The number after which those of `since` and later stand; None: after which all do."""
        if since is None:
            return 0
        [first] = self._db.execute("SELECT MIN(number) FROM events WHERE time >= ?", (since,)).fetchone()
        return self.last if first is None else int(first) - 1

    def page(self, after: int, uid: int | None) -> tuple[list[Event], int]:
        """The next ones after a number that are of `uid` (None: of everyone), and up to which number this is all of them."""
        rows = self._db.execute(
            f"SELECT {_FIELDS} FROM events WHERE number > ? AND {_OWNED} ORDER BY number LIMIT ?",  # noqa: S608  # no caller's text
            (after, uid, uid, PAGE),
        ).fetchall()
        found = [_event(row) for row in rows]
        return found, found[-1].number if len(found) == PAGE else self.last

    def floors(self, uid: int | None) -> dict[int, int]:
        """The newest that is no longer there, by user, of those whose events `uid` (None: anybody) may read."""
        return dict(self._floors) if uid is None else {uid: self._floors.get(uid, 0)}

    def has_lost(self, after: int, uid: int | None, known: Mapping[int, int]) -> bool:
        """Whether some after a number are no longer there that `uid` could have read, and were there when `floors` was `known`."""
        return any(floor > max(after, known.get(owner, 0)) for owner, floor in self.floors(uid).items())


def _behind(before: str, time: str) -> str:
    """`time`, or a nanosecond after the event before: who goes on with `since=` has to find its place by the time.

    Not where the clock was set back: then times follow the clock, and the numbers tell the order.
    """
    if time > before or len(before) != len(time):
        return time
    seconds, nanoseconds = datetime.fromisoformat(f"{before[:19]}+00:00"), int(before[20:29])
    if seconds - datetime.fromisoformat(f"{time[:19]}+00:00") > _CLOCKS:
        return time
    if nanoseconds == 999_999_999:
        seconds, nanoseconds = seconds + timedelta(seconds=1), -1
    return f"{seconds.replace(tzinfo=None).isoformat()}.{nanoseconds + 1:09}Z"


def _event(row: tuple[object, ...]) -> Event:
    number, time, action, container, name, uid, image, labels, more = row
    assert isinstance(number, int)
    assert isinstance(uid, int)
    return Event(
        number,
        str(time),
        str(action),
        str(container),
        str(name),
        uid,
        str(image),
        {key: str(value) for key, value in frames.loads_object(str(labels).encode()).items()},
        frames.loads_object(str(more).encode()),
    )
