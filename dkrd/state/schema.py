"""The tables of the api's index (index.py), and what is done to one that an older release has made."""

from __future__ import annotations

from dkrd.state import events

VERSION = 5
_SCHEMA = """
CREATE TABLE containers (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    uid INTEGER NOT NULL,
    image TEXT NOT NULL,
    args TEXT NOT NULL,
    labels TEXT NOT NULL,
    rm INTEGER NOT NULL,
    status TEXT NOT NULL,
    pid INTEGER,
    created TEXT NOT NULL,
    started TEXT,
    finished TEXT,
    exit TEXT
) WITHOUT ROWID, STRICT;
CREATE INDEX containers_name ON containers (uid, name);
CREATE INDEX containers_created ON containers (created);
"""
# What an index of the first schema lacks. What stands in it was there before anybody could be told.
_FROM_1 = """
ALTER TABLE containers ADD COLUMN told INTEGER NOT NULL DEFAULT 0;
ALTER TABLE containers ADD COLUMN told_start TEXT;
ALTER TABLE containers ADD COLUMN told_end TEXT;
UPDATE containers SET told = 1, told_start = started, told_end = CASE status WHEN 'stopped' THEN started END;
"""
_NEWS = """
CREATE TABLE heard (one INTEGER PRIMARY KEY CHECK (one = 1), epoch TEXT NOT NULL, number INTEGER NOT NULL) STRICT;
INSERT INTO heard VALUES (1, '', 0);
"""
# What one of the second lacks. `told_health`: since when the status of its health is that which was told last; `restart`: the policy
# and the count of restarts of a container that may be restarted, for its policy or for its health.
_FROM_2 = """
ALTER TABLE containers ADD COLUMN health TEXT;
ALTER TABLE containers ADD COLUMN told_health TEXT;
ALTER TABLE containers ADD COLUMN restart TEXT;
"""
# What one of the third lacks. `told_update`: when the update was that was told last.
_FROM_3 = """
ALTER TABLE containers ADD COLUMN told_update TEXT;
"""
# What one of the fourth lacks: what bounds a container.
_FROM_4 = """
ALTER TABLE containers ADD COLUMN limits TEXT;
"""
_STEPS = _SCHEMA, _FROM_1 + events.SCHEMA + _NEWS, _FROM_2, _FROM_3, _FROM_4


def script(version: int) -> str:
    """What makes an index of this version, 0: an empty one, one of VERSION; all or nothing."""
    steps = "".join(_STEPS[version:])
    return f"BEGIN;{steps}PRAGMA user_version={VERSION};COMMIT;"
