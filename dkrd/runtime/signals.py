"""Signal masks and actions around a fork, by `_signal`, the C half of the standard library's `signal`.

The Python half makes an enum member of each number that passes: 0.3 to 0.6 ms for a mask of all, several times on the way of
every start. `_signal` is private to CPython; a test compares both halves.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import os
from typing import TYPE_CHECKING

from dkrd.runtime import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ALL: tuple[int, ...] = tuple(sorted(int(number) for number in _signal.valid_signals()))
PR_SET_PDEATHSIG = 1  # prctl(2)
_INTERNAL = (32, 33)  # SIGCANCEL and SIGSETXID, nptl(7)
CATCHABLE: tuple[int, ...] = tuple(n for n in ALL if n not in (_signal.SIGKILL, _signal.SIGSTOP))


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """All signals blocked for the block. A child forked in it has them blocked until it says otherwise."""
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, ALL)
    try:
        yield
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


def block_catchable() -> None:
    """Block all signals that can be, for good."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, CATCHABLE)


def unblock_all() -> None:
    """Block no signal."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def default(numbers: Iterable[int]) -> None:
    """Give these signals their default actions."""
    for number in numbers:
        _signal.signal(number, _signal.SIG_DFL)


def wake_by(number: int) -> None:
    """Have the signal do nothing by itself, so that what counts is its byte on the wake-up descriptor (set_wakeup_fd)."""
    _signal.signal(number, lambda number, frame: None)


def when_parent_ends(parent: int, number: int) -> None:
    """Get the signal when `parent` ends, which has forked us; at once where it has. Who changes its identity or rights later loses
    that again.
    """
    syscalls.prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def set_default() -> None:
    """Give all signals their default actions; Python itself ignores SIGPIPE and SIGXFSZ.

    Also the two that the C library keeps for itself: whoever was started by posix_spawn(3), as by make(1), ignores them.
    """
    default(CATCHABLE)
    for number in _INTERNAL:
        syscalls.default_action(number)
