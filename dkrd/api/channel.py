"""The api's end of the channel to the launcher: docs/protocol.md, section 4.

SEQPACKET on the event loop without tasks: a reader, a writer while something waits, and a table of
questions by `seq`. Whoever asks gives the client's connection along as evidence; the channel owns that
descriptor until the answer is there, so that a start that never reached the launcher can still be told to
the client.

The launcher is trusted, this process is not: what comes in is checked for form only, and an error of form
ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from array import array
from collections import deque
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common import frames
from common.errors import DkrError, LimitReached, ProtocolError, Unavailable
from dkrd.api import request_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    Answer = dict[str, object] | DkrError

MAX_QUEUE = 1024  # messages that wait for room in the socket
MAX_QUESTIONS = 4096  # without an answer; each holds a descriptor
MAX_BATCH = 64  # messages read before others get their turn
CATCH_UP_SECONDS = 10.0
ANSWERS = {
    "start": "accepted",
    "launch": "accepted",
    "remove": "done",
    "measure": "done",
    "diff": "done",
    "ask": "done",
}
_BROKEN = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN)


def receive(sock: socket.socket) -> dict[str, object] | None:
    """The next message; None where the other end is gone.

    Raises BlockingIOError where there is none now, ProtocolError where it is too large or no object.
    """
    # MSG_PEEK|MSG_TRUNC tells the size, unix(7), so that a buffer of 4 MiB is not kept for messages of 200
    # bytes.
    size = sock.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
    if size == 0:
        return None
    if size > frames.MAX_FRAME:
        raise ProtocolError(f"cannot read from the launcher: a message of {size} bytes")
    data = sock.recv(size)
    try:
        return frames.loads_object(data)
    except ValueError as err:
        raise ProtocolError(f"cannot read from the launcher: {err}") from err


@dataclass(frozen=True, slots=True)
class _Question:
    kind: str
    fds: tuple[int, ...]
    on_answer: Callable[[Answer], None]


class Channel:
    """The channel once `hello` was read.

    on_report(message)  called for `state`, `gone`, `event`, `failed` and `changed`
    on_end(error)       called once, when the other end is gone (None) or broke the protocol
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_report: Callable[[dict[str, object]], None],
        on_end: Callable[[DkrError | None], None],
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._on_report = on_report
        self._on_end = on_end
        self._questions: dict[int, _Question] = {}
        self._queue: deque[tuple[int, bytes, tuple[int, ...]]] = deque()
        self._pongs: deque[asyncio.Future[None]] = deque()
        self._seq = 0
        self._ended = False
        loop.add_reader(sock.fileno(), self._readable)

    def post(self, message: dict[str, object]) -> None:
        """Send `message`, to which no answer comes. Dropped where the channel is at its end."""
        self._send(0, frames.dumps(message), ())

    def ask(
        self,
        message: dict[str, object],
        fds: tuple[int, ...],
        on_answer: Callable[[Answer], None],
        body: bytes = b"",
    ) -> None:
        """Send `message` (one of ANSWERS) with the descriptors `fds`, the client's connection first, which are the channel's
        from here on.

        `on_answer` is called exactly once, maybe before this returns: with the launcher's message
        (`refused` too), or with an error where the launcher was not reached or ended. `fds` are still open
        then, and closed after it.
        """
        self._seq += 1
        seq = self._seq
        open_questions = len(self._questions)
        # What is done about the answer is done for this request.
        context = copy_context()
        self._questions[seq] = _Question(
            str(message["type"]), fds, lambda answer: context.run(on_answer, answer)
        )
        if open_questions >= MAX_QUESTIONS:
            self._settle(seq, _busy())
            return
        request = request_ids.current()
        data = frames.dumps({**message, "seq": seq, **({"request": request} if request else {})})
        self._send(seq, data + b"\n" + body if body else data, fds)

    async def catch_up(self, seconds: float = CATCH_UP_SECONDS) -> None:
        """Return when the reports that shims made before this call have been taken, or after `seconds` where the launcher is not
        up to it.

        The launcher answers a ping when it has read what was there by then.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                pong = self._loop.create_future()
                self._pongs.append(pong)
                self.post({"type": "ping"})
                await pong

    def end(self, error: DkrError | None) -> None:
        """Give up: every open question is answered with Unavailable, `on_end` is called. A second call does
        nothing.
        """
        if self._ended:
            return
        self._ended = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._queue.clear()
        for seq in list(self._questions):
            self._settle(seq, _gone())
        self._on_end(error)

    # --- out

    def _send(self, seq: int, data: bytes, fds: tuple[int, ...]) -> None:
        if self._ended:
            self._settle(seq, _gone())
        elif self._queue:
            self._wait(seq, data, fds)
        else:
            try:
                self._sendmsg(data, fds)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._writable)
                self._wait(seq, data, fds)
            except OSError as err:
                self._failed(seq, err)

    def _wait(self, seq: int, data: bytes, fds: tuple[int, ...]) -> None:
        if len(self._queue) >= MAX_QUEUE:
            self._settle(seq, _busy())
        else:
            self._queue.append((seq, data, fds))

    def _writable(self) -> None:
        while self._queue:
            seq, data, fds = self._queue[0]
            try:
                self._sendmsg(data, fds)
            except BlockingIOError:
                return
            except OSError as err:
                self._queue.popleft()
                self._failed(seq, err)
                if self._ended:
                    return
                continue
            self._queue.popleft()
        self._loop.remove_writer(self._sock.fileno())

    def _sendmsg(self, data: bytes, fds: tuple[int, ...]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)

    def _failed(self, seq: int, err: OSError) -> None:
        """One message could not be sent: only a broken channel concerns the others too."""
        if err.errno in _BROKEN:
            self.end(None)
        elif err.errno == errno.EMSGSIZE:
            self._settle(seq, LimitReached("cannot hand over the request: it is too large for the channel"))
        else:
            self._settle(
                seq,
                Unavailable(f"cannot reach the launcher: {err.strerror}", step="sendmsg", errno=err.errno),
            )

    # --- in

    def _readable(self) -> None:
        try:
            for _ in range(MAX_BATCH):
                message = receive(self._sock)
                if message is None:
                    self.end(None)
                    return
                self._take(message)
                if self._ended:
                    return
        except BlockingIOError:
            return
        except ProtocolError as err:
            self.end(err)
        except OSError as err:
            self.end(
                None
                if err.errno in _BROKEN
                else Unavailable(f"cannot read from the launcher: {err.strerror}")
            )

    def _take(self, message: dict[str, object]) -> None:
        kind = message.get("type")
        if kind in ("state", "gone", "event", "failed", "steps", "changed"):
            self._on_report(message)
        elif kind == "ping":
            self.post({"type": "pong"})
        elif kind in ("accepted", "done", "refused"):
            self._answered(str(kind), message)
        elif kind == "pong":
            if self._pongs and not (pong := self._pongs.popleft()).done():
                pong.set_result(None)
        else:
            raise ProtocolError(f"cannot read from the launcher: {kind!r} is not expected now")

    def _answered(self, kind: str, message: dict[str, object]) -> None:
        seq = message.get("seq")
        question = self._questions.get(seq) if isinstance(seq, int) else None
        if question is None or not isinstance(seq, int):
            raise ProtocolError(f"cannot read from the launcher: {kind} answers no question (seq {seq!r})")
        if kind not in ("refused", ANSWERS[question.kind]):
            raise ProtocolError(f"cannot read from the launcher: {kind} is no answer to {question.kind}")
        self._settle(seq, message)

    def _settle(self, seq: int, answer: Answer) -> None:
        question = self._questions.pop(seq, None)
        if question is None:
            return
        try:
            question.on_answer(answer)
        finally:
            for fd in question.fds:
                os.close(fd)


def _gone() -> Unavailable:
    return Unavailable("cannot reach the launcher: it has ended", hint="dkrd is being restarted; try again")


def _busy() -> LimitReached:
    return LimitReached("cannot reach the launcher: too many requests wait for it", hint="try again")
