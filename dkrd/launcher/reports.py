"""What the api is told of containers: numbered, and kept until it says that it has written it down.

An api may end between a report and its disk, and while none is there containers go on ending: the next one is told in its hello what
was not heard. Who hears something twice knows it by its number.
"""

from __future__ import annotations

import os
from collections import deque

from common import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_KEPT = 4096  # reports; while there is no api only restart policies start something, ever more slowly, and what ends is little
MAX_BYTES = 768 * 1024  # of a hello


class Reports:
    """The reports of this launcher's life, `epoch`."""

    def __init__(self, send: Callable[[dict[str, object]], None]) -> None:
        self.epoch = os.urandom(8).hex()
        self._send = send
        self._number = 0
        self._kept: deque[tuple[int, dict[str, object]]] = deque(maxlen=MAX_KEPT)

    def tell(self, message: dict[str, object]) -> None:
        """Send a report; where there is no api it waits for the next one, but what only counts in the life of one does not."""
        if message.get("type") == "steps":
            self._send(message)
            return
        self._number += 1
        numbered = {**message, "number": self._number}
        self._kept.append((self._number, numbered))
        self._send(numbered)

    def noted(self, number: int) -> None:
        """Those up to this one are written down."""
        while self._kept and self._kept[0][0] <= number:
            self._kept.popleft()

    def unheard(self) -> list[dict[str, object]]:
        """Those that nobody said to have written down, the newest as far as they fit, in order."""
        found: deque[dict[str, object]] = deque()
        size = 0
        for _, message in reversed(self._kept):
            size += len(frames.dumps(message)) + 1
            if size > MAX_BYTES:
                break
            found.appendleft(message)
        return list(found)
