"""What containers take of the disk is measured by jobs that may take seconds: so few at once that all else has its turn."""

from __future__ import annotations

from collections import Counter, deque
from functools import partial

from common.errors import DkrError, LimitReached

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.launcher.runner import Runner

    Done = Callable[[object, DkrError | None], None]
    Task = tuple[int, Callable[[], object], Done, tuple[int, ...]]

AT_ONCE = 1  # of the runner's jobs, of which there are four: they read disks
MAX = 64  # that wait, or are under way
MAX_OF_ONE = 4  # of one user


class Measures:
    """Those that wait and those under way. Nobody is forgotten: what is taken in is answered."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._waiting: deque[Task] = deque()
        self._running = 0
        self._counts: Counter[int] = Counter()

    def begin(self, owner: int, work: Callable[[], object], done: Done, keep: tuple[int, ...] = ()) -> None:
        """Have `work` done for the user of this uid, with the descriptors `keep`. Raises LimitReached."""
        if self._counts.total() >= MAX or self._counts[owner] >= MAX_OF_ONE:
            raise LimitReached("cannot measure: too many wait for that already", hint="try again")
        self._counts[owner] += 1
        self._waiting.append((owner, work, done, keep))
        self._next()

    def _next(self) -> None:
        while self._waiting and self._running < AT_ONCE:
            owner, work, done, keep = self._waiting.popleft()
            self._running += 1
            try:
                self._runner.submit("measure", work, partial(self._done, owner, done), keep)
            except DkrError as err:
                self._done(owner, done, None, err)

    def _done(self, owner: int, done: Done, value: object, error: DkrError | None) -> None:
        self._running -= 1
        self._counts[owner] -= 1
        if not self._counts[owner]:
            del self._counts[owner]
        done(value, error)
        self._next()
