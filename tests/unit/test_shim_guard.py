"""The guardian's watch, in the moment of the command's end."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

from dkrd.shim.guard import Guard


def test_who_wants_its_end_when_it_has_ended_does_not_want_it_restarted() -> None:
    """Both are found in one turn of the loop. Nothing is sent: the number may be another process's."""
    told: list[int] = []
    guard: Any = Guard.__new__(Guard)
    guard._ended = True
    guard._halting = SimpleNamespace(signalled=told.append)
    guard._signal(signal.SIGKILL)
    assert told == [signal.SIGKILL]
