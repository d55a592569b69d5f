"""The id of each request: told to the client in the header, in its problem, and in every line of every log that has to do with it.

It is this task's own (contextvars): whatever is called for a request finds it, and what waits for another finds that one's.
"""

from __future__ import annotations

import os
from contextvars import ContextVar

HEADER = "Dkr-Request"
_current: ContextVar[str] = ContextVar("request", default="")
_container: ContextVar[str] = ContextVar("container", default="")


def begin() -> str:
    """Draw one, for this task and whom it calls."""
    drawn = os.urandom(8).hex()
    _current.set(drawn)
    _container.set("")
    return drawn


def concerns(container: str) -> None:
    """From here on it is about this one, by its whole id."""
    _container.set(container)


def container() -> str:
    """Which one the request under way is about; nothing where that is none, or many."""
    return _container.get()


def current() -> str:
    """That of the request under way; nothing where there is none."""
    return _current.get()
