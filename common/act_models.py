"""What crosses the HTTP border of acts on a container that stands. As common/models.py, for processes that have time."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict

from common import shapes  # noqa: TC001  # pydantic reads the annotations when the program runs
from common.models import About, LateModel, Model


class StopRequest(Model):
    """How a container is stopped; what is absent is as it was made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"signal": "INT", "timeout": 5}]})

    signal: Annotated[
        shapes.StopSignal,
        About("name or number of the signal that asks it to end; its own stopSignal if absent"),
    ] = None
    timeout: Annotated[
        shapes.Patience,
        About("seconds from that to SIGKILL: 0 is at once, -1 never; its own stopTimeout if absent"),
    ] = None

    def to_ask(self) -> dict[str, object]:
        """What root's side is told: what was given."""
        return self.model_dump(exclude_unset=True)


class Top(LateModel):
    """The processes of a container, as ps(1) shows them with -ef."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "titles": ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"],
                    "processes": [["0", "4711", "4700", "0", "12:00", "?", "00:00:01", "/bin/sleep 60"]],
                }
            ]
        }
    )

    titles: Annotated[tuple[str, ...], About("of the columns")]
    processes: Annotated[
        tuple[tuple[str, ...], ...],
        About(
            "a text for each title: users as the container calls them, processes as the host does; CMD is whatever the process says"
        ),
    ]
    omitted: Annotated[int | None, About("how many more there are, where not all fit")] = None
