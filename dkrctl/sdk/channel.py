"""The session socket in an event loop: frames come by a callback, and go when there is room."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from common.errors import DkrError
from common.frames import dumps
from dkrctl.http import descriptors_of
from dkrctl.session import MAX_ANSWER, frame_of, send_first

if TYPE_CHECKING:
    from collections.abc import Callable

    Frame = dict[str, object]

_ROOM = socket.CMSG_SPACE(4)


class Channel:
    """Our end of a session. `on_frame` takes each frame and owns its descriptors; `on_end` hears once that no more comes, and why."""

    def __init__(
        self,
        descriptor: int,
        on_frame: Callable[[Frame, list[int]], None],
        on_end: Callable[[DkrError | None], None],
    ) -> None:
        """Take over `descriptor`, which `ask_session` has looked at."""
        self._loop = asyncio.get_running_loop()
        self._on_frame = on_frame
        self._on_end = on_end
        self._pending: list[Frame] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, descriptor)
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._read)

    @property
    def is_open(self) -> bool:
        """Frames may still come."""
        return self._socket.fileno() >= 0

    def first(self, head: Frame, descriptors: list[int]) -> None:
        """Send the first frame, and copies of `descriptors`. Raises DkrError."""
        send_first(self._socket, head, descriptors)

    def post(self, frame: Frame) -> None:
        """Have a frame sent as soon as there is room; one that already waits is not doubled."""
        if self.is_open and frame not in self._pending:
            self._pending.append(frame)
            self._flush()

    def close(self) -> None:
        """Leave; the shim sees it."""
        if not self.is_open:
            return
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._pending.clear()

    def _flush(self) -> None:
        while self._pending:
            try:
                self._socket.send(dumps(self._pending[0]), socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._flush)
                return
            except OSError:
                self._pending.clear()  # the shim has gone; the reading side finds out what it said last
                break
            del self._pending[0]
        self._loop.remove_writer(self._socket)

    def _listen(self) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        try:
            return self._socket.recvmsg(MAX_ANSWER, _ROOM, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # It closed with a frame of ours unread, as in dkrctl/session.py: told once, before what it has sent.
            return self._socket.recvmsg(MAX_ANSWER, _ROOM, socket.MSG_CMSG_CLOEXEC)

    def _read(self) -> None:
        try:
            data, ancillary, flags, _ = self._listen()
        except BlockingIOError:
            return
        except OSError:
            data, ancillary, flags = b"", [], 0
        try:
            got = frame_of(data, descriptors_of(ancillary), flags)
            if got is not None:
                self._on_frame(*got)
                return
            error = None
        except DkrError as err:
            error = err
        self.close()
        self._on_end(error)
