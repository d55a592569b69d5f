"""Containers of the index's rows: what thousands of them take counts, so they become models all at once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from common import frames
from common.health_models import Health
from common.limit_models import Limits
from common.model_base import list_of
from common.models import Container, ExitStatus

COLUMNS = "id, name, uid, image, args, labels, rm, status, pid, created, started, finished, exit, health, restart, limits"

Row = tuple[Any, ...]  # of COLUMNS; the tables are STRICT
_SHORT = 256  # characters of a column's text that is remembered: of many containers one command and the same limits are common


def container(row: Row) -> Container:
    """The container of one row."""
    return Container.model_validate(_values(row))


def newest_first(found: list[Row]) -> list[Container]:
    """The containers of rows that come by their ids, which those of one moment stay."""
    # Half of what it takes SQLite, which moves whole rows.
    found.sort(key=_created, reverse=True)
    return list_of(Container).validate_python([_values(row) for row in found])


def _created(row: Row) -> str:
    created: str = row[9]
    return created


def _values(row: Row) -> dict[str, object]:
    """The fields of a container, without what is absent."""
    key, name, uid, image, args, labels, rm, status, *rest = row
    pid, created, started, finished, ended, health, restart, limits = rest
    values: dict[str, object] = {
        "id": key,
        "name": name,
        "uid": uid,
        "image": image,
        "args": _args(args) if len(args) <= _SHORT else _tuple(frames.loads(args)),
        "labels": frames.loads(labels) if labels != "{}" else {},
        "rm": bool(rm),
        "status": status,
        "created": created,
    }
    if pid is not None:
        values["pid"] = pid
    if started is not None:
        values["started"] = started
    if finished is not None:
        values["finished"] = finished
    if ended is not None:
        values["exit"] = ExitStatus.model_validate(frames.loads(ended))
    if health is not None:
        values["health"] = Health.model_validate({"status": health})
    if restart is not None:
        policy, times = _tuple(frames.loads(restart))
        if policy is not None:
            values["restart"] = policy
        values["restarts"] = times
    if limits is not None:
        values["limits"] = _limits(limits)
    return values


@lru_cache(256)
def _args(text: str) -> tuple[object, ...]:
    return _tuple(frames.loads(text))


@lru_cache(256)
def _limits(text: str) -> Limits:
    return Limits.model_validate(frames.loads(text))


def _tuple(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list) else ()
