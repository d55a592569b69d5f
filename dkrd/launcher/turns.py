"""Who waits for a container to be free: of several that would start it one begins, the others wait for what comes of that."""

from __future__ import annotations

import time
from functools import partial

from common.errors import Conflict, DkrError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.launcher.loop import Loop

    Call = Callable[[DkrError | None], None]


class Turns:
    """By container id. `ends` is the moment (monotonic, seconds) until which somebody waits."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: dict[str, list[tuple[float, Call]]] = {}

    def wait(self, container_id: str, ends: float, call: Call) -> None:
        """Wait; who has waited long enough is called with a Conflict."""
        self._waiting.setdefault(container_id, []).append((ends, call))
        self._loop.later(max(0.0, ends - time.monotonic()), partial(self._late, container_id, (ends, call)))

    def refuse(self, container_id: str, error: DkrError) -> None:
        """Nobody's turn comes."""
        for _, call in self._waiting.pop(container_id, ()):
            call(error)

    def pass_on(self, container_id: str, again: Callable[[str, float, Call], None]) -> None:
        """It is free: `again` is called for each, in their order; the first takes it, and the others wait again."""
        for ends, call in self._waiting.pop(container_id, ()):
            again(container_id, ends, call)

    def _late(self, container_id: str, waiter: tuple[float, Call]) -> None:
        waiting = self._waiting.get(container_id, [])
        if waiter in waiting:
            waiting.remove(waiter)
            if not waiting:
                del self._waiting[container_id]
            waiter[1](
                Conflict(f"cannot start {container_id[:12]}: its guardian is still at work", hint="try again")
            )
