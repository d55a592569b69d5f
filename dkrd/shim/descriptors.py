"""Descriptors that somebody else has opened: their close may wait for as long as that somebody likes."""

from __future__ import annotations

import _thread
import contextlib
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING

from dkrd.runtime import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterable


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors that came with a frame and that nobody shall have, without waiting for whoever has sent them
    (SO_LINGER, socket(7)).
    """
    for fd in descriptors:
        try:
            sock = socket.socket(fileno=fd)
        except OSError:  # it is no socket
            close_soon((fd,))
            continue
        with sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))


def close_soon(descriptors: Iterable[int]) -> None:
    """Close descriptors that the container has as well, or had, and return at once.

    Of a file the server of its filesystem may have to be heard (FUSE_FLUSH, at each close(2)), and a caller's own server
    need not answer; a socket that the container has closed before may linger. Another thread waits for it; the number is free
    before.
    """
    for fd in descriptors:
        mode = syscalls.statx(fd).mode
        if stat.S_ISREG(mode) or stat.S_ISSOCK(mode):
            try:
                _thread.start_new_thread(_close, (fd,))
                continue
            except RuntimeError:
                pass  # no room for a thread
        os.close(fd)


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):  # EIO, of the server: the bytes are the container's own business
        os.close(fd)
