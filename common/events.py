"""What crosses the HTTP border of what has happened, and of what is tidied up. As common/models.py, for processes that have time."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field, WithJsonSchema

from common import shapes
from common.filters import ACTION_WORDS, ACTIONS
from common.model_base import About, Model, Time
from common.models import ExitStatus

Action = Literal[
    "create",
    "start",
    "restart",
    "attach",
    "detach",
    "rename",
    "update",
    "pause",
    "unpause",
    "kill",
    "oom",
    "die",
    "stop",
    "destroy",
    "exec_create",
    "exec_start",
    "exec_die",
    "health_status: healthy",
    "health_status: unhealthy",
]
assert get_args(Action) == ACTIONS


_EVENT_FILTERS = WithJsonSchema(
    shapes.filters(
        r"(?:container|image)=[^\x00]+",
        f"event=(?:{'|'.join(ACTION_WORDS)})",
        shapes.LABEL_FILTER,
        "type=container",
    )
)


class EventsQuery(Model):
    """Which events are wanted."""

    since: Annotated[
        shapes.Moment,
        About("from then on, as far back as they are kept; without, and without `until`, from now on"),
    ] = None
    until: Annotated[
        shapes.Moment, About("the answer ends with the last one of that time; without, it goes on")
    ] = None
    filter: Annotated[
        shapes.Filters,
        _EVENT_FILTERS,
        About(
            "KEY=VALUE, as often as one likes; of one key any value counts, of several keys and labels each. Keys: `container` (its "
            "name, or the beginning of its id), `event` (an action), `image` (its root), `label` (KEY or KEY=VALUE), `type` (`container`)"
        ),
    ] = ()


class EventError(Model):
    """Why there is no further event."""

    code: str
    message: str
    hint: str | None = None


class EventLine(Model):
    """What has happened to a container; or, as the last line, why nothing more can be told."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["action", "id", "name", "uid", "image", "labels"]},
                {"required": ["error"], "properties": {"type": {"const": "error"}}},
            ],
            "examples": [
                {
                    "time": "2026-01-31T12:00:00.010000000Z",
                    "type": "container",
                    "action": "die",
                    "id": "6f" * 32,
                    "name": "calm_otter4821",
                    "uid": 1000,
                    "image": "host",
                    "labels": {"team": "blue"},
                    "exit": {"code": 3, "signal": None, "cause": "exited"},
                }
            ],
        }
    )

    time: Time
    type: Literal["container", "error"]
    action: Action | None = None
    id: str | None = None
    name: str | None = None
    uid: Annotated[int | None, About("whose it is, on the host")] = None
    image: str | None = None
    labels: dict[str, str] | None = None
    labels_omitted: Annotated[bool | None, About("it has so many that they are not told here")] = None
    exit: Annotated[
        ExitStatus | None,
        About("of `die`, absent where nobody could learn it; and of `exec_die`"),
    ] = None
    signal: Annotated[int | None, Field(ge=1, le=64), About("of `kill`")] = None
    exec_id: Annotated[str | None, Field(alias="execID"), About("of `exec_…`: which further command")] = None
    command: Annotated[str | None, About("of `exec_create` and `exec_start`: the first 256 characters")] = (
        None
    )
    took: Annotated[
        float | None, About("of `start`: seconds from the daemon's fork to the command's execution")
    ] = None
    restarts: Annotated[
        int | None,
        About("of a `restart` that nobody asked for: how often, since somebody has started it"),
    ] = None
    reason: Annotated[
        Literal["policy", "health"] | None,
        About("of the same: its restart policy, or that it was unhealthy"),
    ] = None
    old_name: Annotated[
        str | None, About("of `rename`: what it was called before; `name` is the new one")
    ] = None
    error: Annotated[EventError | None, About("the reader was too slow: what lies between is lost to it")] = (
        None
    )
