"""A session that creates (docs/protocol.md, section 3): only there what is beyond a tenant's defaults can be asked for."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from common.errors import ProtocolError, from_wire
from common.frames import dumps
from dkrctl.request import asks
from dkrctl.sdk.channel import Channel
from dkrctl.sdk.handover import ask_session

if TYPE_CHECKING:
    from common.errors import DkrError


async def create(path: str, request: dict[str, object]) -> str:
    """Have a container made by the daemon at `path`; its id. Raises DkrError."""
    _, descriptor = await ask_session(path, "/v1/containers", dumps(request))
    told: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()

    def frame(value: dict[str, object], descriptors: list[int]) -> None:
        for number in descriptors:
            os.close(number)
        if not told.done():
            told.set_result(value)

    def end(error: DkrError | None) -> None:
        if not told.done():
            lost = "cannot tell whether the container was made: lost its guardian"
            told.set_exception(error or ProtocolError(lost, hint="see `containers(all=True)`"))

    channel = Channel(descriptor, frame, end)
    try:
        channel.first({"type": "create", "request": request, "asks": asks(request)}, [])
        answer = await told
    finally:
        channel.close()
    if answer.get("type") == "error":
        raise from_wire(answer.get("error"))
    if answer.get("type") != "created" or not isinstance(answer.get("id"), str):
        raise ProtocolError(f"cannot understand the container's guardian: a frame {answer.get('type')!a}")
    return str(answer["id"])
