"""POST /v1/run without an upgrade: one plain request, whose answer holds how the command ended and what it said.

For tools that cannot pass descriptors. This process makes the pipes and the session in the client's place, so it is in the way of
the bytes, as it must be over HTTP; and so nothing above a tenant's defaults is given here (policy.judge_http). When the client
goes, or this process, the session ends, and the container as its `onDisconnect` says.
"""

from __future__ import annotations

import array
import asyncio
import base64
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

from common import frames
from common.errors import DkrError, LimitReached, ProtocolError, Unavailable, from_wire
from common.models import ExitStatus, RunAnswer
from dkrd.api.connections import on_lost, open_transport
from dkrd.api.spec_of import bundle_of
from dkrd.api.starts import Start, encode, reserve

if TYPE_CHECKING:
    from aiohttp import web

    from common.models import PlainRun
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

VERSION = 2
CHUNK = 65536  # bytes
MAX_FRAME = 256 * 1024  # bytes of a frame from the shim
LINGER_SECONDS = 5.0  # after the exit, for output that is still on its way


async def plain_run(context: Context, peer: Peer, request: web.Request, body: PlainRun) -> RunAnswer:
    """Run a command to its end and tell what became of it. Raises DkrError where it could not be started."""
    uid = peer.account()
    start = Start(context, uid, await reserve(context, uid, body), body)
    try:
        bundle = encode(bundle_of(body, context.settings, start.name))
        attempt = _Attempt(body, _stdin(body))
        with contextlib.closing(attempt), on_lost(request, attempt.give_up):
            fd = os.dup(open_transport(request).get_extra_info("socket").fileno())
            start.on_refused = attempt.failed
            start.hand_over((fd, attempt.theirs()), bundle)
            return await attempt.outcome()
    except BaseException:
        if start.fd < 0:
            start.release()
        raise


def _stdin(wanted: PlainRun) -> bytes:
    if wanted.stdin is not None:
        return wanted.stdin.encode()
    return base64.b64decode(wanted.stdin_base64 or "")


class _Output:
    """One stream of the command's: what it says up to a bound; the rest is read and dropped."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bound: int) -> None:
        self._loop = loop
        self._bound = bound
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.writer, True)
        # /dev/stdout is opened again inside, by an id that the pipe does not belong to (dkrctl/stdio.py).
        os.fchmod(self.writer, 0o602)
        self.data = bytearray()
        self.truncated = False
        self.ended = loop.create_future()

    def begin(self) -> None:
        os.close(self.writer)
        self.writer = -1
        self._loop.add_reader(self.reader, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self.reader, CHUNK)
        except BlockingIOError:
            return
        room = self._bound - len(self.data)
        self.data += data[:room]
        self.truncated |= len(data) > room
        if not data:
            self.close()

    def close(self) -> None:
        for fd in (self.reader, self.writer):
            if fd >= 0:
                self._loop.remove_reader(fd)
                os.close(fd)
        self.reader = self.writer = -1
        if not self.ended.done():
            self.ended.set_result(None)


class _Input:
    """The command's standard input, written as fast as it reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, data: bytes) -> None:
        self._loop = loop
        self._left = memoryview(data)
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.reader, True)

    def begin(self) -> None:
        os.close(self.reader)
        self.reader = -1
        if self._left:
            self._loop.add_writer(self.writer, self._write)
        else:
            self.close()

    def _write(self) -> None:
        try:
            self._left = self._left[os.write(self.writer, self._left[:CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._left = self._left[:0]  # it reads no more, which is its right
        if not self._left:
            self.close()

    def close(self) -> None:
        for fd in (self.reader, self.writer):
            if fd >= 0:
                self._loop.remove_writer(fd)
                os.close(fd)
        self.reader = self.writer = -1


class _Attempt:
    """The client's side of a session, for a client that has none."""

    def __init__(self, wanted: PlainRun, given: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._ended: asyncio.Future[ExitStatus] = loop.create_future()
        self._begun = 0.0
        self._duration = 0.0
        self._id = ""
        with contextlib.ExitStack() as undo:
            self._input = undo.enter_context(contextlib.closing(_Input(loop, given)))
            self._outputs = [
                undo.enter_context(contextlib.closing(_Output(loop, wanted.max_output))) for _ in range(2)
            ]
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self._ours.close)
            undo.callback(self._theirs.close)
            self._ours.setblocking(False)
            self._theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._send_first(wanted)
            undo.pop_all()
        self._input.begin()
        for output in self._outputs:
            output.begin()
        loop.add_reader(self._ours.fileno(), self._frame)

    def _send_first(self, wanted: PlainRun) -> None:
        frame = {
            "type": "start",
            "version": VERSION,
            "request": wanted.to_request(),
            "asks": wanted.asks(),
            "stdio": [0, 1, 2],
            "tty": [],
            "root": [],
            "want": [],
        }
        descriptors = array.array("i", [self._input.reader, *(output.writer for output in self._outputs)])
        try:
            self._ours.sendmsg([frames.dumps(frame)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        except OSError as err:
            raise LimitReached(
                f"cannot run: the request does not fit into a session: {err.strerror}",
                hint="use fewer or shorter args, env and labels",
                errno=err.errno,
            ) from err

    def theirs(self) -> int:
        """The other end, for root's side; the receiver closes it."""
        return self._theirs.detach()

    def failed(self, error: DkrError) -> None:
        """There will be no container."""
        if not self._ended.done():
            self._ended.set_exception(error)

    def give_up(self) -> None:
        """The client is gone."""
        self.failed(Unavailable("cannot answer: the client is gone"))

    async def outcome(self) -> RunAnswer:
        """What became of it. Raises DkrError."""
        exit_status = await self._ended
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                for output in self._outputs:
                    await output.ended
        out, err = self._outputs
        texts = {**_text("stdout", bytes(out.data)), **_text("stderr", bytes(err.data))}
        return RunAnswer(
            id=self._id,
            exit=exit_status,
            truncated=out.truncated or err.truncated,
            duration=round(self._duration, 6),
            **texts,
        )

    def _frame(self) -> None:
        try:
            data = self._ours.recv(MAX_FRAME)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._ours.fileno())
            self.failed(
                Unavailable(
                    "cannot tell how the command ended: lost the container's guardian",
                    hint="the container may run on",
                )
            )
            return
        try:
            self._take(frames.loads_object(data))
        except ValueError as err:
            self.failed(ProtocolError(f"cannot understand the container's guardian: its frame is {err}"))

    def _take(self, frame: dict[str, object]) -> None:
        kind = frame.get("type")
        if kind == "started":
            self._begun = time.monotonic()
            self._id = str(frame.get("id"))
        elif kind == "error":
            self.failed(from_wire(frame.get("error")))
        elif kind == "exited" and not self._ended.done():
            self._duration = time.monotonic() - self._begun
            self._ended.set_result(ExitStatus.model_validate(frame.get("exit"), by_alias=True))

    def close(self) -> None:
        """Let go of everything; a container that still runs has lost its client."""
        self._loop.remove_reader(self._ours.fileno())
        for end in (self._ours, self._theirs):
            end.close()
        self._input.close()
        for output in self._outputs:
            output.close()
        if not self._ended.done():
            self._ended.cancel()
        elif not self._ended.cancelled():
            self._ended.exception()  # seen, if nobody has


def _text(name: str, data: bytes) -> dict[str, str]:
    """The bytes as text under `name`, or where they are none as base64 under another."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode("ascii")}
