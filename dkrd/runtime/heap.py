"""The C library's heap, malloc(3): some of what is free in it is kept, as it may soon be wanted again."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        function = ctypes.PyDLL(None)["malloc_trim"]
    except AttributeError:
        return None  # another library than glibc
    function.argtypes = (ctypes.c_size_t,)
    return function


_trim = _malloc_trim()


def trim() -> None:
    """Give what is free back to the kernel: malloc_trim(3)."""
    if _trim is not None:
        _trim(0)
