"""What crosses the HTTP border of what containers take, and of what is tidied up. As common/models.py, for processes that have time."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from common import checks, shapes
from common.model_base import About, Id, Model

_PRUNE_FILTERS = WithJsonSchema(
    shapes.filters(
        f"until=(?:{checks.MOMENT.pattern})", shapes.LABEL_FILTER, shapes.LABEL_FILTER.replace("=", "!=", 1)
    )
)
Bytes = Annotated[int, Field(ge=0)]


class PruneRequest(Model):
    """Which containers are removed: of those that do not run."""

    filter: Annotated[
        shapes.Filters,
        _PRUNE_FILTERS,
        About(
            "KEY=VALUE each, and all must match. Keys: `until` (RFC 3339: made before it), `label` (KEY or KEY=VALUE), `label!` (the same: "
            "those that have it stay)"
        ),
    ] = ()
    dry_run: Annotated[bool, About("nothing is removed; it is told what would be")] = False


class NotPruned(Model):
    """One that could not be removed."""

    id: Id
    code: str
    detail: str


class Pruned(Model):
    """What was removed."""

    removed: tuple[Id, ...]
    space_reclaimed: Annotated[Bytes, About("bytes on the disk that they had")]
    failed: Annotated[tuple[NotPruned, ...] | None, About("those that could not be removed")] = None


class Share(Model):
    """What one kind of things takes of the disk."""

    count: int
    active: Annotated[int, About("in use by a container that runs")]
    size: Annotated[Bytes, About("bytes on the disk")]
    reclaimable: Annotated[Bytes, About("of which so many would be free after a prune")]


class DiskUsage(Model):
    """What is taken of the disk."""

    containers: Annotated[Share, About("the roots of containers, beside their layers")]
    logs: Annotated[Share, About("what they have written to their logs")]
    layers: Annotated[Share, About("the built-in roots, which all containers share")]
    complete: Annotated[bool, About("all could be measured in time")]


class Change(Model):
    """A path that a container has changed. One that is not UTF-8 is base64, in place of the text."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["path"]}, {"required": ["pathBase64"]}],
            "examples": [{"kind": "C", "path": "/etc/hosts"}],
        }
    )

    kind: Annotated[Literal["A", "C", "D"], About("added, changed or deleted")]
    path: Annotated[str | None, About("in the container")] = None
    path_base64: shapes.Base64 = None
