"""Waiting for a descriptor in the running loop."""

from __future__ import annotations

import asyncio


def wake(future: asyncio.Future[None]) -> None:
    """Let who awaits `future` go on."""
    if not future.done():
        future.set_result(None)


async def readable(descriptor: int) -> None:
    """Wait until something can be read. The descriptor must stay open meanwhile, and nobody else wait for the same."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, wake, future)
    try:
        await future
    finally:
        loop.remove_reader(descriptor)
