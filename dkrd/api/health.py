"""What a container's guardian knows of its health beyond its status: how many probes have failed, and what the last ones found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from common.errors import DkrError, NotFound
from common.health_models import Health
from dkrd.api.asks import ask_guardian

if TYPE_CHECKING:
    from aiohttp import web

    from common.models import Container
    from dkrd.api.context import Context


async def with_results(context: Context, request: web.Request, container: Container) -> Container:
    """`container` with them, where it has a health check and somebody knows. Raises NotFound where it is gone."""
    if container.health is None:
        return container
    try:
        found = Health.model_validate(await ask_guardian(context, request, container, {"type": "health"}))
    except NotFound:
        raise
    except (DkrError, ValidationError):
        # Its guardian was killed, or is busy: its status is known all the same.
        return container
    return container.model_copy(update={"health": found})
