"""The SDK in tests: scenarios that run in a loop of their own, as root or as another user, and must leave no descriptor."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from dkrctl.client import Client
from tests.patience import guard
from tests.security.callers import as_user

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.integration.conftest import Caller

    Scenario = Callable[[Client], Awaitable[Any]]

GUARD_SECONDS = guard(30.0)
LOOKING_SECONDS = guard(10.0)
LOOK_SECONDS = 0.005


def descriptors() -> list[str]:
    """What each descriptor of this process leads to."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # the one that listed them
    return sorted(found)


async def look_until(check: Callable[[], object], what: str) -> None:
    """Wait for what no event tells of, and let the loop turn meanwhile."""
    async with asyncio.timeout(LOOKING_SECONDS):
        while not check():
            await asyncio.sleep(LOOK_SECONDS)
    assert check(), what


async def _whole(path: Path, scenario: Scenario) -> Any:
    async with asyncio.timeout(GUARD_SECONDS), Client(path) as dkr:
        before = descriptors()
        value = await scenario(dkr)
        try:
            await look_until(lambda: descriptors() == before, "")
        except TimeoutError:
            raise AssertionError(f"before {before}, after {descriptors()}") from None
    return value


def drive(caller: Caller, scenario: Scenario) -> Any:
    """What `scenario` returns for this caller (a tenant's in a child, so it is JSON); no descriptor may be left by it."""
    if caller.user is None:
        return asyncio.run(_whole(caller.daemon.socket, scenario))
    return as_user(caller.user, lambda: asyncio.run(_whole(caller.daemon.socket, scenario)))
