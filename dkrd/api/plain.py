"""POST /v1/run without an upgrade: one plain request, whose answer holds how the command ended and what it said.

For tools that cannot pass descriptors. This process makes the pipes and the session in the client's place, so it is in the way of
the bytes, as it must be over HTTP; and so nothing above a tenant's defaults is given here (policy.judge_http). When the client
goes, or this process, the session ends, and the container as its `onDisconnect` says.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import time
from typing import TYPE_CHECKING

from common.models import ExitStatus, RunAnswer
from dkrd.api.sessions import Session, close_all, starting

if TYPE_CHECKING:
    from aiohttp import web

    from common.exec_models import PlainExec
    from common.models import PlainRun
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

CHUNK = 65536  # bytes
LINGER_SECONDS = 5.0  # after the exit, for output that is still on its way


async def plain_run(context: Context, peer: Peer, request: web.Request, body: PlainRun) -> RunAnswer:
    """Run a command to its end and tell what became of it. Raises DkrError where it could not be started."""
    first: dict[str, object] = {
        "type": "start",
        "request": body.to_request(),
        "asks": body.asks(),
        "stdio": [0, 1, 2],
        "tty": [],
        "root": [],
        "want": [],
    }
    with (
        contextlib.closing(Streams(body)) as streams,
        contextlib.closing(Session("run", first, streams.theirs())) as session,
    ):
        streams.begin()
        async with starting(context, peer, request, body, session):
            return await outcome(session, streams, "id")


def _stdin(wanted: PlainRun | PlainExec) -> bytes:
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


class Streams:
    """The three pipes."""

    def __init__(self, wanted: PlainRun | PlainExec) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:
            self._input = undo.enter_context(contextlib.closing(_Input(loop, _stdin(wanted))))
            self._outputs = [
                undo.enter_context(contextlib.closing(_Output(loop, wanted.max_output))) for _ in range(2)
            ]
            undo.pop_all()

    def theirs(self) -> list[int]:
        """The ends that are the command's."""
        return [self._input.reader, *(output.writer for output in self._outputs)]

    def begin(self) -> None:
        """Let go of those, and serve ours."""
        self._input.begin()
        for output in self._outputs:
            output.begin()

    async def ended(self) -> tuple[_Output, _Output]:
        """Both outputs, as they are at their end, or when the command has been over for long enough."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                for output in self._outputs:
                    await output.ended
        out, err = self._outputs
        return out, err

    def close(self) -> None:
        self._input.close()
        for output in self._outputs:
            output.close()


async def outcome(session: Session, streams: Streams, key: str) -> RunAnswer:
    """What becomes of it; its id is that of the frame `started` under `key`. Raises DkrError."""
    frame, fds = await session.expect("started")
    close_all(fds)
    begun, found = time.monotonic(), str(frame.get(key))
    frame, fds = await session.expect("exited")
    close_all(fds)
    duration = time.monotonic() - begun
    exit_status = ExitStatus.model_validate(frame.get("exit"), by_alias=True)
    out, err = await streams.ended()
    return RunAnswer(
        id=found,
        exit=exit_status,
        truncated=out.truncated or err.truncated,
        duration=round(duration, 6),
        **_text("stdout", bytes(out.data)),
        **_text("stderr", bytes(err.data)),
    )


def _text(name: str, data: bytes) -> dict[str, str]:
    """The bytes as text under `name`, or where they are none as base64 under another."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode("ascii")}
