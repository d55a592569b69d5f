"""What crosses the HTTP border of acts on a container that stands. As common/models.py, for processes that have time."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict

from common import shapes  # noqa: TC001  # pydantic reads the annotations when the program runs
from common.models import About, Model


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
