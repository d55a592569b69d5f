"""The client: what the API has, as coroutines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter

from common.info import Info, VersionInfo
from common.models import Container, ExitStatus, RunAnswer, WaitAnswer
from common.options import DEFAULT_SOCKET, SOCKET_VARIABLE
from common.restarts import policy_from
from common.trace import Trace
from dkrctl.daemon import target
from dkrctl.request import asks
from dkrctl.sdk.acts import Acts
from dkrctl.sdk.answers import model
from dkrctl.sdk.copying import Copying
from dkrctl.sdk.creation import create
from dkrctl.sdk.descriptors import Passing
from dkrctl.sdk.execs import LIMIT, Execs, of_descriptors
from dkrctl.sdk.handover import ask_session
from dkrctl.sdk.housekeeping import Housekeeping
from dkrctl.sdk.logs import log_lines, query_of
from dkrctl.sdk.options import Options, request_of
from dkrctl.sdk.pipes import Pipes
from dkrctl.sdk.plain import PlainResult, input_of, result_of
from dkrctl.sdk.process import Process, Starting

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime
    from types import TracebackType
    from typing import Self, Unpack

    from dkrctl.sdk.descriptors import Descriptor
    from dkrctl.sdk.execs import Given
    from dkrctl.sdk.logs import LogLine

_CONTAINERS = TypeAdapter(list[Container])
_CONTAINER = TypeAdapter(Container)
_VERSION = TypeAdapter(VersionInfo)
_INFO = TypeAdapter(Info)
_TRACE = TypeAdapter(Trace)
_ANSWER = TypeAdapter(RunAnswer)
_WAIT = TypeAdapter(WaitAnswer)


class Client(Acts, Execs, Housekeeping, Copying):
    """A client of the daemon: `async with Client() as dkr:`.

    Every method raises the classes of common/errors.py: what the daemon said, or Unavailable and NotPermitted where it cannot be
    reached. No method has a limit of time of its own: `async with asyncio.timeout(5):` around a call gives it one.
    """

    def __init__(self, socket: str | os.PathLike[str] | None = None, *, retry: float = 5.0) -> None:
        """socket  the daemon's socket; without one the variable DKR_SOCKET, else the usual place
        retry   seconds for which a question (GET) is asked again while nobody answers, as in a restart of the daemon; nothing else
                is ever sent twice
        """
        path = os.fspath(socket) if socket is not None else os.environ.get(SOCKET_VARIABLE)
        super().__init__(path or DEFAULT_SOCKET, retry)

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave every command that still runs, as `Process.close` does, and every request that is under way."""
        for process in tuple(self._processes):
            await process.close()
        await self._transport.close()

    # Questions: sent again while nobody answers.

    async def ping(self) -> None:
        """Return once the daemon answers."""
        await self._transport.ask("GET", "/_ping")

    async def version(self) -> VersionInfo:
        """The daemon's release, and what it runs on."""
        return model(_VERSION, await self._transport.ask("GET", "/v1/version"))

    async def info(self) -> Info:
        """The daemon, its host, and what it is to the caller: roots, limits, rights, how many containers."""
        return model(_INFO, await self._transport.ask("GET", "/v1/info"))

    async def containers(self, *, all: bool = False, size: bool = False) -> list[Container]:
        """The caller's containers (an admin's: everybody's), newest first; `all`: those that have stopped too; `size`: with the bytes
        that they take, which may take seconds.
        """
        query = {name: "true" for name, wanted in (("all", all), ("size", size)) if wanted}
        return model(_CONTAINERS, await self._transport.ask("GET", "/v1/containers", query=query))

    async def inspect(self, container: str) -> Container:
        """One container, by id, name or unique beginning of its id. Raises NotFound."""
        return model(_CONTAINER, await self._transport.ask("GET", target(container)))

    async def explain(self, container: str) -> Trace:
        """How it was started: each step, with its call and duration (nanoseconds). Raises NotFound."""
        return model(_TRACE, await self._transport.ask("GET", target(container, "/explain")))

    # Acts: never sent twice.

    async def create(
        self,
        *args: str,
        terminal: bool = False,
        open_stdin: bool = False,
        restart: str = "no",
        **options: Unpack[Options],
    ) -> Container:
        """Make a container and start nothing. Its output will go to its log and to who is attached.

        args        the command and its arguments
        terminal    it gets a terminal of its own
        open_stdin  its input is what attached clients send; else it is empty
        restart     when it is started again after it has ended: "no", "on-failure", "on-failure:3", "always", "unless-stopped"
        options     see Options; `rootfs` and `on_disconnect` are refused: no descriptor can be kept until the start, and who attaches
                    says what follows when they vanish

        Raises BadRequest, NotPermitted, Conflict (the name is in use), LimitReached.
        """
        self._transport.check()
        request = request_of("create", args, options)
        for key, wanted in (("terminal", terminal), ("openStdin", open_stdin)):
            if wanted:
                request[key] = True
        if restart != "no":
            request["restart"] = policy_from(restart)
        return await self.inspect(await create(self._path, request))

    async def start(self, container: str) -> None:
        """Start a container that was created, or has ended; returns when its command runs, at once where it ran already.

        Raises NotFound, Conflict; CommandNotFound and the like where it could not be started.
        """
        await self._transport.ask("POST", target(container, "/start"))

    async def remove(self, container: str, *, force: bool = False) -> None:
        """Remove a container that has stopped or was never started; with `force` one that runs is killed before.

        Raises NotFound, Conflict where it runs.
        """
        query = {"force": "true"} if force else None
        await self._transport.ask("DELETE", target(container), query=query)

    async def kill(self, container: str, signal: str | int = "KILL") -> None:
        """Send a signal, by name or number, to a container's command; the default action is done to process 1 too.

        Raises NotFound, Conflict where it has ended.
        """
        wanted = signal if isinstance(signal, str) else str(int(signal))
        await self._transport.ask("POST", target(container, "/kill"), {"signal": wanted})

    async def wait(
        self, container: str, condition: Literal["stopped", "removed", "next-exit"] = "stopped"
    ) -> ExitStatus | None:
        """Wait until a container has ended, until nothing of it is left (`removed`), or for its next end (`next-exit`): how it ended,
        None where nobody could learn it.

        Raises NotFound; Unavailable where the daemon is restarted meanwhile, and then it may be asked again.
        """
        query = {"condition": condition}
        return model(_WAIT, await self._transport.ask("POST", target(container, "/wait"), query=query)).exit

    async def run_plain(
        self,
        *args: str,
        stdin: bytes | str | None = None,
        max_output: int | None = None,
        **options: Unpack[Options],
    ) -> PlainResult:
        """Run a command to its end as one plain request, and tell what it wrote.

        For short output: it passes the daemon, which keeps `max_output` bytes of each stream (1 MiB, at most 16 MiB) and drops the
        rest. The container is removed at its end, and stopped where this call is cancelled. Nothing beyond a tenant's defaults is
        given here, not even to root.

        args     the command and its arguments
        stdin    its input; empty without
        options  see Options

        Raises what the start raises: CommandNotFound and the like. A command that ends with an error raises nothing.
        """
        request = request_of("run_plain", args, options)
        request.update(input_of(stdin))
        if max_output is not None:
            request["maxOutput"] = max_output
        return result_of(model(_ANSWER, await self._transport.ask("POST", "/v1/run", request)))

    def run(
        self,
        *args: str,
        stdin: Descriptor | None = None,
        stdout: Descriptor | None = None,
        stderr: Descriptor | None = None,
        terminal: bool = False,
        size: tuple[int, int] | None = None,
        preserve_fds: Sequence[Descriptor] = (),
        limit: int = LIMIT,
        **options: Unpack[Options],
    ) -> Starting:
        """Start a command with descriptors of this process: `process = await dkr.run(…)`, or `async with dkr.run(…) as process:`.

        Nothing stands between the command and the descriptors. It returns when the command has been executed; cancelled before, it
        kills what may have begun. As in asyncio.create_subprocess_exec:

        args          the command and its arguments
        stdin         None: this process's own, except that a terminal is copied from, never passed; PIPE: `Process.stdin`;
                      DEVNULL; a descriptor, or a file object
        stdout        the same
        stderr        the same, and STDOUT: where stdout goes
        terminal      the command has a terminal of its own (`Process.terminal`) in the place of those of the three that are None;
                      where stdin is given it is for output only
        size          its rows and columns
        preserve_fds  descriptors or file objects that become 3, 4, … inside, up to 250
        limit         bytes that the readers of PIPE buffer before the command has to wait, twice over (asyncio.StreamReader)
        options       see Options

        Raises CommandNotFound, CommandNotExecutable, StartFailed, NotPermitted and the like; TypeError for what it does not know.
        """
        request = request_of("run", args, options)
        request.update(of_descriptors(terminal, size, preserve_fds))
        return Starting(
            self._run(request, (stdin, stdout, stderr), tuple(preserve_fds), terminal=terminal, limit=limit)
        )

    async def _run(
        self,
        request: dict[str, object],
        given: Given,
        preserved: tuple[Descriptor, ...],
        *,
        terminal: bool,
        limit: int,
    ) -> Process:
        rootfs = request.get("rootfs")
        passing = Passing(given, preserved, None if rootfs is None else str(rootfs), terminal=terminal)
        if passing.rootfs is not None:
            request["rootfs"] = passing.rootfs
        more = {"asks": asks(request), "root": passing.root, "want": []}
        return await self._begin("/v1/run", request, {"type": "start", **more}, passing, limit)

    def attach(
        self,
        container: str,
        *,
        stdin: bool = True,
        size: tuple[int, int] | None = None,
        on_disconnect: Literal["stop", "kill", "keep"] = "keep",
        limit: int = LIMIT,
    ) -> Starting:
        """Be a client of a running container, beside others that are: a Process with its `terminal`; of one that has none, and whose
        guardian has its stdio, with `stdout`, `stderr` and, where it is open, `stdin`.

        container      id, name or unique beginning of the id
        stdin          what is written is typed, or is its input; else this client only looks on
        size           rows and columns of the window here; the terminal has the smallest of its clients'
        on_disconnect  what becomes of the container when its last client vanishes, and that is this one
        limit          as of `run`

        Raises NotFound, Conflict (it has ended, or its output is its caller's), LimitReached.
        """
        return self._attaching(container, "/attach", stdin, size, on_disconnect, limit)

    def start_attached(
        self,
        container: str,
        *,
        stdin: bool = True,
        size: tuple[int, int] | None = None,
        on_disconnect: Literal["stop", "kill", "keep"] = "keep",
        limit: int = LIMIT,
    ) -> Starting:
        """As `start`, attached as by `attach` before the command runs, so that nothing of its output is missed.

        Raises Conflict (rule `running`) where it runs already. Cancelled, it leaves the container; the start may have taken place.
        """
        return self._attaching(container, "/start", stdin, size, on_disconnect, limit)

    def _attaching(
        self,
        wanted: str,
        act: Literal["/attach", "/start"],
        typed: bool,
        size: tuple[int, int] | None,
        on_disconnect: str,
        limit: int,
    ) -> Starting:
        height, width = size or (0, 0)
        head: dict[str, object] = {
            "type": "attach",
            "onDisconnect": on_disconnect,
            "stdin": typed,
            "height": height,
            "width": width,
        }
        return Starting(self._attach(wanted, act, head, typed=typed, limit=limit))

    async def _attach(
        self, wanted: str, act: str, head: dict[str, object], *, typed: bool, limit: int
    ) -> Process:
        self._transport.check()
        container, descriptor = await ask_session(self._path, target(wanted, act), b"")
        process = Process(container, Pipes(), [], self._processes.discard)
        self._processes.add(process)
        try:
            await process.begin(
                descriptor,
                {**head, "container": container},
                typed=typed,
                wanted=wanted,
                starts=act == "/start",
                limit=limit,
            )
        except BaseException:
            await process.close()
            raise
        return process

    def logs(
        self,
        container: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        stdout: bool = True,
        stderr: bool = True,
    ) -> AsyncGenerator[LogLine]:
        """What a container has written, oldest first: `async for line in dkr.logs(name):`.

        follow  go on as more is written, until the container ends; leave it by `break`, or `contextlib.aclosing` where that must be
                at once
        tail    the last so many lines only
        since   not what is older: a time that knows its zone, or RFC 3339
        until   not what is newer
        stdout  lines of its output, and of its terminal
        stderr  lines of its errors

        A question, asked again until its answer begins; what is followed goes on over a restart of the daemon, each line once, unless
        that takes longer than `retry`. Raises NotFound, Conflict (rule `no-log`: its output went to its caller), Unavailable where it is
        cut off.
        """
        query = query_of(follow, tail, since, until, stdout=stdout, stderr=stderr)
        return log_lines(self._transport, container, query)
