"""A command in a container as its client sees it: the session, from the first frame to the exit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from common.errors import Conflict, DkrError, ProtocolError, from_wire
from common.models import ExitStatus
from dkrctl.sdk.channel import Channel
from dkrctl.sdk.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import TracebackType
    from typing import Self

    from dkrctl.sdk.channel import Frame
    from dkrctl.sdk.copies import Copy
    from dkrctl.sdk.descriptors import Passing
    from dkrctl.sdk.pipes import Pipes

WITHDRAW_SECONDS = 10.0  # how long a cancelled start waits for the end of what it has begun


class Process:
    """A command in a container, started or attached to by `Client`; not made by callers.

    Leaving `async with` closes it (`close`). What it has open closes by itself only where all output was read to its end.

    id        the container's id, 64 hex digits
    exec      the id of a further command in the container; None for its own
    pid       the command's process on the host; None for one that was attached to
    stdin     where PIPE was given; of a container whose guardian has its stdio, where that is open
    stdout    where PIPE was given; of a container whose guardian has its stdio
    stderr    the same
    terminal  where the command has one of its own
    """

    id: str
    exec: str | None
    pid: int | None
    terminal: Terminal | None

    def __init__(
        self, container: str, pipes: Pipes, copies: list[Copy], on_end: Callable[[Process], None]
    ) -> None:
        self.id = container
        self.exec = None
        self.pid = None
        self.terminal = None
        self._pipes = pipes
        self._copies = copies
        self._on_end = on_end
        self._typed = True
        self._wanted = ""  # by what name or beginning of an id it is attached to, where it is
        self._starts = False  # it is attached to before its start, which is yet to be told
        self._has_terminal = True
        self._streams: list[int] = []
        self._leaving = False
        self._exit: ExitStatus | None = None
        self._error: DkrError | None = None
        self._began = asyncio.Event()
        self._ended = asyncio.Event()
        self._channel: Channel | None = None

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        """The command's input, where PIPE was given."""
        return self._pipes.stdin

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """The command's output, where PIPE was given."""
        return self._pipes.stdout

    @property
    def stderr(self) -> asyncio.StreamReader | None:
        """The command's messages, where PIPE was given."""
        return self._pipes.stderr

    @property
    def exit(self) -> ExitStatus | None:
        """How the command ended: `code` or `signal`, and `cause`; None while this client has not heard of it."""
        return self._exit

    async def wait(self) -> ExitStatus:
        """Wait until the command has ended. May be called by several, and again; cancelling it changes nothing.

        With PIPE the output must be read meanwhile, or the command may wait for its reader for ever.

        Raises DkrError where this client cannot hear of it: its guardian is lost, the session was left, or taken away.
        """
        await self._ended.wait()
        if self._exit is not None:
            for copy in self._copies:
                if not copy.typed:
                    await copy.done.wait()
            return self._exit
        assert self._error is not None
        raise self._error

    async def communicate(self, input: bytes | None = None) -> tuple[bytes | None, bytes | None]:
        """Write `input`, close stdin, read stdout and stderr to their ends, wait: what was read, None where there is no PIPE.

        All of the output is kept in memory. Raises as `wait`; ValueError for `input` without stdin=PIPE, and with a terminal.
        """
        if self.terminal is not None:
            raise ValueError("communicate() is for pipes: read and write `terminal`")
        if input is not None and self.stdin is None:
            raise ValueError("communicate() has no stdin to write to: give stdin=PIPE")
        async with asyncio.TaskGroup() as group:
            out = group.create_task(_rest(self.stdout))
            err = group.create_task(_rest(self.stderr))
            if self.stdin is not None:
                group.create_task(_feed(self.stdin, input or b""))
        await self.wait()
        return out.result(), err.result()

    def send_signal(self, number: int) -> None:
        """Send a signal to the command; the default action is done to process 1 too.

        Raises Conflict where the command has ended or this client has left it, ValueError for a number outside of 1 to 64.
        """
        if not 1 <= number <= 64:
            raise ValueError(f"{number} is no signal")
        self._live("signal").post({"type": "signal", "signal": int(number)})

    def terminate(self) -> None:
        """SIGTERM; as `send_signal`."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; as `send_signal`."""
        self.send_signal(signal.SIGKILL)

    async def detach(self) -> None:
        """Leave the command to itself, whatever `on_disconnect` says: it runs on. Pipes stay open, the terminal does not.

        Raises Conflict where the command has ended or this client has left it.
        """
        self._live("leave").post({"type": "detach"})
        self._leaving = True
        await self._ended.wait()  # the guardian hangs up once it has read that
        self._leave()

    async def close(self) -> None:
        """Let go of all that is open here. A command that runs has lost this client: what follows says its `on_disconnect`."""
        self._leave()
        while self._streams:
            os.close(self._streams.pop())
        for copy in self._copies:
            copy.stop()
        self._pipes.close()
        await self._pipes.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "running" if not self._ended.is_set() else str(self._exit or self._error)
        return f"<Process {self.id[:12]} {state}>"

    # For the client that starts it.

    async def begin(
        self,
        descriptor: int,
        head: Frame,
        passing: Passing | None = None,
        *,
        typed: bool = True,
        wanted: str = "",
        starts: bool = False,
        limit: int = 0,
    ) -> None:
        """Send the first frame over the session socket `descriptor`, and wait until the command runs.

        passing  what goes along; None where it is attached to
        typed    its input, or what is typed at its terminal, comes from here
        wanted   by what name or id it is attached to
        starts   it is attached to before it is started
        limit    of the readers of its streams

        Raises DkrError where it does not. Cancelled, it withdraws a start: what may have begun is killed.
        """
        self._typed = typed
        self._wanted = wanted
        self._starts = starts
        self._has_terminal = passing is None or bool(passing.tty)
        self._channel = Channel(descriptor, self._frame, self._lost)
        try:
            self._channel.first(head, passing.descriptors if passing is not None else [])
            if passing is not None:
                passing.sent()
            await self._began.wait()
        except asyncio.CancelledError:
            if passing is not None and not self._ended.is_set():
                await self._withdraw()
            raise
        if self._error is not None:
            raise self._error
        if self._streams:
            await self._pipes.join(self._streams, limit, sends=self._typed)
        for copy in self._copies:
            copy.start()

    async def _withdraw(self) -> None:
        """Undo a start. The guardian reads what is sent to it once it has built the container, and only from who is still there."""
        assert self._channel is not None
        self._channel.post({"type": "signal", "signal": int(signal.SIGKILL)})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WITHDRAW_SECONDS):
                await self._ended.wait()

    def _live(self, verb: str) -> Channel:
        if self._ended.is_set() or self._channel is None:
            cause = "it has ended" if self._exit is not None else "this client has left it"
            raise Conflict(f"cannot {verb} {self.id[:12]}: {cause}", rule="ended")
        return self._channel

    def _leave(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self.terminal is not None:
            self.terminal.close()
        if not self._ended.is_set():
            self._end(self._left())

    def _left(self) -> DkrError:
        return Conflict(f"cannot wait for {self.id[:12]}: this client has left it", rule="left")

    def _end(self, error: DkrError | None) -> None:
        self._error = error
        self._began.set()
        self._ended.set()
        if self._channel is not None:
            self._channel.close()
        if self.terminal is not None:
            self.terminal.end()
        for copy in self._copies:
            if copy.typed:
                copy.stop()
        self._on_end(self)

    def _lost(self, error: DkrError | None) -> None:
        """No frame comes any more."""
        if self._ended.is_set():
            return
        if self._leaving:
            self._end(self._left())
            return
        self._end(
            error
            or ProtocolError(
                "cannot tell how the command ended: lost the container's guardian",
                hint="the container may run on; the daemon finds out how it ends",
            )
        )

    def _frame(self, frame: Frame, descriptors: list[int]) -> None:
        try:
            self._take(frame, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _take(self, frame: Frame, descriptors: list[int]) -> None:
        """One frame; takes what it uses off `descriptors`. Raises DkrError, which ends the session."""
        kind = frame.get("type")
        if kind == "started" and not self._began.is_set():
            self._started(frame, descriptors)
        elif kind == "attached" and self._wanted and not (self.terminal or self._streams):
            self._attached(frame, descriptors)
        elif kind == "exited":
            with contextlib.suppress(ValidationError):
                self._exit = ExitStatus.model_validate(frame.get("exit"), by_alias=True)
            if self._exit is None:
                raise ProtocolError("cannot understand the container's guardian: its exit")
            self._end(None)
        elif kind == "error":
            raise from_wire(frame.get("error"))
        elif kind == "yield" and self.terminal is not None and len(descriptors) == 1:
            assert self._channel is not None
            self.terminal.relay(descriptors.pop())
            self._channel.post({"type": "relay"})
            self.terminal.relayed()
        else:
            raise ProtocolError(f"cannot understand the container's guardian: a frame {kind!a}")

    def _started(self, frame: Frame, descriptors: list[int]) -> None:
        # Who is attached has the terminal already.
        if (self._has_terminal and not self._wanted) != bool(descriptors) or self._starts != bool(
            self._wanted
        ):
            raise ProtocolError(
                "cannot take the terminal: the container's guardian sent none, or one unasked"
            )
        pid, executed = frame.get("pid"), frame.get("exec")
        self.exec = executed if isinstance(executed, str) else None
        self.pid = pid if isinstance(pid, int) else None
        if descriptors:
            self._show(descriptors.pop(), master=True)
        self._began.set()

    def _attached(self, frame: Frame, descriptors: list[int]) -> None:
        wanted = self._wanted
        if not str(frame.get("id")).startswith(wanted) and frame.get("name") != wanted:
            # The api chose the container, its guardian says which it is: one that was taken over may lead elsewhere.
            raise ProtocolError(f"cannot attach to {wanted}: the daemon led to another container")
        self._has_terminal = frame.get("terminal") is not False
        if len(descriptors) != (1 if self._has_terminal else 2):
            raise ProtocolError(
                f"cannot attach to {wanted}: the container's guardian sent none of its streams"
            )
        self._typed = self._typed and frame.get("input") is not False
        if self._has_terminal:
            self._show(descriptors.pop(), master=False)
        else:
            self._streams = descriptors[:]
            descriptors.clear()
        if not self._starts:
            self._began.set()

    def _show(self, descriptor: int, *, master: bool) -> None:
        self.terminal = Terminal(descriptor, master=master, typed=self._typed, tell=self._tell_size)

    def _tell_size(self, rows: int, columns: int) -> None:
        if self._channel is not None:
            self._channel.post({"type": "resize", "height": rows, "width": columns})


class Starting:
    """What `Client.run` and `Client.attach` give: to be awaited, or entered by `async with`, which closes the process when it is left."""

    def __init__(self, start: Coroutine[Any, Any, Process]) -> None:
        self._start = start
        self._process: Process | None = None

    def __await__(self) -> Generator[Any, None, Process]:
        return self._start.__await__()

    async def __aenter__(self) -> Process:
        self._process = await self._start
        return self._process

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        await self._process.close()


async def _rest(reader: asyncio.StreamReader | None) -> bytes | None:
    return None if reader is None else await reader.read()


async def _feed(writer: asyncio.StreamWriter, data: bytes) -> None:
    # A command may end, or close its input, before it has read all: that is no error of the caller's.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        if data:
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await writer.wait_closed()
