"""What the command writes to its terminal, or to a pipe, goes to every client, what each of them types goes to the command.

    source ─► Stream.outward ─► client      outward: LIMIT bytes and one read, then the source is not read
    source ◄─ Stream.inward  ◄─ client      inward: LIMIT bytes at most, then that client is not read

Nothing is lost to a client that is slow: alone it holds up the command, as a terminal does. Among several,
one that takes nothing for STUCK_SECONDS while its buffer is full has to go. Without any client the command's
output is read and dropped (or only logged), or it would soon be held up.

All descriptors are watched by edges (EPOLLET, epoll(7)): a master whose other side nobody holds, and a stream
whose client has closed it, would else be ready for ever. An edge is told once, so whoever stops before there
is nothing left has to `_arm` again, which tells what is there now.
"""

from __future__ import annotations

import contextlib
import select
import socket
from functools import partial
from typing import TYPE_CHECKING

from dkrd.shim import alarm
from dkrd.shim.session import forbid_descriptors
from dkrd.shim.terminal import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.loop import Loop, Timer
    from dkrd.shim.pipes import Pipe
    from dkrd.shim.terminal import Terminal

LIMIT = 64 * 1024  # bytes, each way, for each client
STUCK_SECONDS = 2.0
# Bytes that are still read after the end: a pty holds 12 KiB, a pipe that the command has widened 1 MiB
# (/proc/sys/fs/pipe-max-size); whoever else holds the other side may go on.
REST = 1024 * 1024 + 64 * 1024
ROOM = (
    8 * 1024 * 1024
)  # bytes of the kernel's for LIMIT and REST; it counts several times what small writes send
MAX_LEAVING = 8  # clients that have gone, whose last words wait for a command that does not read
SO_SNDBUFFORCE = 32  # <asm-generic/socket.h>
_BURST = 16  # chunks in one go, then the others have their turn
_AGAIN = 0.25  # seconds until a terminal that took nothing because nobody had it open is tried again


class Stream:
    """One client's way through the relay.

    types  whether what it sends is for the command; else it is read and dropped
    """

    __slots__ = ("ended", "finished", "inward", "outward", "paused", "sock", "stuck", "types")

    def __init__(self, *, types: bool) -> None:
        self.types = types
        self.outward = bytearray()
        self.inward = bytearray()
        self.paused = False  # not read because `inward` is full
        self.ended = False  # the client sends nothing more
        self.finished = False  # and has said so, where it could also have gone
        self.stuck: Timer | None = None
        self.sock: socket.socket | None = None

    def open(self) -> socket.socket:
        """Make the pair; the client's end."""
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        forbid_descriptors(self.sock)
        return theirs

    @property
    def full(self) -> bool:
        return len(self.outward) > LIMIT - CHUNK

    def put(self, data: bytes) -> None:
        """Send, or keep until it can be sent."""
        waiting = bool(self.outward)
        self.outward += data
        if not waiting:
            self.flush()

    def flush(self) -> bool:
        """Send what is kept, as far as the client takes it; whether it took anything."""
        before = len(self.outward)
        while self.outward and self.sock is not None:
            try:
                sent = self.sock.send(self.outward, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                break
            except OSError:
                self.outward.clear()  # it reads no more; its session tells whether it has gone
                break
            del self.outward[:sent]
        return len(self.outward) < before


class Relay:
    """The bytes of a terminal, or of one output and perhaps the input of a command that has none.

    on_stuck  called with a stream that has to go; it is for its owner to `leave`
    waits     says whether the command has to wait for something else than a client: then nothing is read until `go_on`
    on_data   called with what the command has written; on_end when it will write no more
    """

    def __init__(self, loop: Loop, source: Terminal | Pipe) -> None:
        self._loop = loop
        self._source = source
        self._over = False  # a pipe that nobody can write to any more
        self.on_stuck: Callable[[Stream], None] = lambda stream: None
        self.waits: Callable[[], bool] = lambda: False
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.on_end: Callable[[], None] = lambda: None
        self._streams: list[Stream] = []
        self._leaving: list[Stream] = []
        self._typing: list[Stream] = []  # those with something for the command, in the order of their turns
        self._held = False  # the source is not read: a client's buffer is full
        self._asked = 0  # what the source is watched for
        self._retry: Timer | None = None

    @property
    def listens(self) -> bool:
        """Whether the command may still be sent something."""
        return self._source.writing >= 0

    def begin(self) -> None:
        """Read the source from now on."""
        self._source.take()
        self._arm()

    def add(self, stream: Stream) -> None:
        """One client more; what is read from now on goes to it too."""
        self._streams.append(stream)
        self._arm_stream(stream)
        for other in self._streams:
            self._mind(other)
        if self._over:
            self._end_outward(stream)

    def leave(self, stream: Stream) -> None:
        """A client less. What it has typed until now is still for the command."""
        if stream in self._streams:
            self._streams.remove(stream)
        for other in (stream, *self._streams):
            self._mind(other)
        stream.outward.clear()
        if stream.sock is not None:
            # What it has sent can still be read; it can send no more.
            with contextlib.suppress(OSError):
                stream.sock.shutdown(socket.SHUT_RDWR)
            self._leaving.append(stream)
            self._listen(stream)
            self._type()
            if len(self._leaving) > MAX_LEAVING:
                self._close(self._leaving[0])
        self.go_on()

    def finish(self) -> None:
        """The command has ended. All that it has written is given to the kernel for those who look, however
        slow they are: they find the end of their streams behind it. Waits for nobody.
        """
        for stream in self._streams:
            if stream.sock is not None:
                stream.sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, ROOM)
                stream.flush()
        read = 0
        while read < REST and not self._over:
            try:
                data = self._source.read()
            except OSError:
                break  # EIO; or nothing is there, but somebody outside still holds the other side
            if not data:
                break
            read += len(data)
            self.on_data(data)
            for stream in self._streams:
                stream.put(data)
        if not self._over:
            self.on_end()
        if self._retry is not None:
            self._retry.cancel()  # the guardian of a further command lives on, and the descriptor is closed by then
        for fd in (self._source.reading, self._source.writing):
            self._loop.forget(fd)
        for stream in (*self._streams, *self._leaving):
            self._close(stream)

    # --- outward

    def _arm(self) -> None:
        """Watch the source for what is wanted now, and be told of what is there already."""
        reading, writing = self._source.reading, self._source.writing
        wanted = select.EPOLLET | (0 if self._held else select.EPOLLIN)
        room = select.EPOLLOUT if self._typing else 0
        self._asked = wanted | room
        if reading == writing:
            self._loop.watch(reading, wanted | room, self._on_source)
            return
        if not self._over:
            self._loop.watch(reading, wanted, self._on_source)
        if writing >= 0:
            self._loop.watch(writing, select.EPOLLET | room, self._on_source)

    def _on_source(self, events: int) -> None:
        if self._read():
            self._arm()  # more may be there, after the others' turn
        self._type()

    def _read(self) -> bool:
        """Read a burst; whether there may be more."""
        for _ in range(_BURST):
            self._held = self._is_held()
            if self._held or self._over:
                return False
            try:
                data = self._source.read()
            except OSError:
                return False  # nothing there (EAGAIN), or the other side is nobody's now (EIO)
            if not data:
                self._end()
                return False
            self.on_data(data)
            for stream in self._streams:
                flowed = not stream.outward
                stream.put(data)
                if flowed and stream.outward:
                    self._arm_stream(stream)
                self._mind(stream)
        return True

    def _end(self) -> None:
        """The command has closed its end of the pipe, or is gone with all who had it."""
        self._over = True
        self._loop.forget(self._source.reading)
        self.on_end()
        for stream in self._streams:
            self._end_outward(stream)

    def _end_outward(self, stream: Stream) -> None:
        """Let a client see the end of the output, once it has all of it."""
        if self._over and not stream.outward and stream.sock is not None:
            with contextlib.suppress(OSError):
                stream.sock.shutdown(socket.SHUT_WR)

    def go_on(self) -> None:
        """Read the source again, if it was held for somebody who has made room or gone."""
        if self._held and not self._is_held():
            self._held = False
            self._arm()

    def _is_held(self) -> bool:
        return self.waits() or any(stream.full for stream in self._streams)

    def _mind(self, stream: Stream) -> None:
        """Count the time of one that is in others' way; it begins anew with each byte that it takes."""
        in_the_way = stream.full and len(self._streams) > 1 and stream in self._streams
        if in_the_way and stream.stuck is None:
            stream.stuck = self._loop.later(STUCK_SECONDS, partial(self._give_up, stream))
        elif not in_the_way and stream.stuck is not None:
            stream.stuck.cancel()
            stream.stuck = None

    def _give_up(self, stream: Stream) -> None:
        stream.stuck = None
        self.on_stuck(stream)

    # --- inward

    def _arm_stream(self, stream: Stream) -> None:
        assert stream.sock is not None
        events = select.EPOLLET | select.EPOLLRDHUP
        if not stream.paused and not stream.ended:
            events |= select.EPOLLIN
        if stream.outward:
            events |= select.EPOLLOUT
        self._loop.watch(stream.sock.fileno(), events, partial(self._on_stream, stream))

    def _on_stream(self, stream: Stream, events: int) -> None:
        if stream.outward and stream.flush():
            if stream.stuck is not None:
                stream.stuck.cancel()
                stream.stuck = None
            self._mind(stream)
            if not stream.outward:
                self._arm_stream(stream)
                self._end_outward(stream)
            self.go_on()
        if stream.sock is not None and not stream.paused:
            self._listen(stream)
            self._type()

    def _listen(self, stream: Stream) -> None:
        """Take a burst of what a client has typed."""
        for _ in range(_BURST):
            if stream.ended or stream.sock is None:
                return
            stream.paused = len(stream.inward) >= LIMIT
            if stream.paused:
                return
            try:
                # Bounded: before Linux 6.16 a descriptor that came along is closed in here.
                data = alarm.bounded(stream.sock.fileno(), stream.sock.recv, CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            stream.ended = not data
            stream.finished = stream.ended and stream.types and _sends_no_more(stream.sock)
            if stream.types and data:
                stream.inward += data
                if stream not in self._typing:
                    self._typing.append(stream)
        self._arm_stream(stream)

    def _type(self) -> None:
        """Write to the command what waits, one client's after the other's."""
        while self._typing and self._retry is None:
            stream = self._typing[0]
            try:
                taken = self._source.write(stream.inward) if self._source.writing >= 0 else len(stream.inward)
            except BlockingIOError:
                break
            except BrokenPipeError:
                self._deafen()
                continue
            except OSError:
                # Nobody has the other side open; no event tells when somebody has.
                self._retry = self._loop.later(_AGAIN, self._try_again)
                break
            del stream.inward[:taken]
            if not stream.inward:
                self._typing.pop(0)
            if stream.paused:
                stream.paused = False
                self._arm_stream(stream)
        if bool(self._typing) != bool(self._asked & select.EPOLLOUT):
            self._arm()
        if any(s.finished and not s.inward for s in self._streams):
            self._deafen()
        for stream in [s for s in self._leaving if s.ended and not s.inward]:
            self._close(stream)

    def _deafen(self) -> None:
        """The command reads no more, or a client has said that there is no more to read: a pipe has one end."""
        if self._source.writing != self._source.reading and self._source.writing >= 0:
            self._loop.forget(self._source.writing)
            self._source.end_input()

    def _try_again(self) -> None:
        self._retry = None
        self._type()

    def _close(self, stream: Stream) -> None:
        for of in (self._streams, self._leaving, self._typing):
            if stream in of:
                of.remove(stream)
        if stream.sock is not None:
            self._loop.forget(stream.sock.fileno())
            stream.sock.close()
            stream.sock = None


def _sends_no_more(sock: socket.socket) -> bool:
    """Whether a stream that has ended was ended for sending alone: one that is closed hangs up both ways."""
    poll = select.poll()
    poll.register(sock, 0)
    return not poll.poll(0)
