"""Further commands in a container that runs; and what they have in common with a run: descriptors, session, process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeVar

from pydantic import TypeAdapter

from common.exec_models import Exec
from common.frames import dumps
from common.models import RunAnswer
from dkrctl.daemon import target
from dkrctl.sdk.answers import model
from dkrctl.sdk.descriptors import Descriptor, Passing
from dkrctl.sdk.handover import ask_session
from dkrctl.sdk.options import words_of
from dkrctl.sdk.pipes import Pipes
from dkrctl.sdk.plain import PlainResult, input_of, result_of
from dkrctl.sdk.process import Process, Starting
from dkrctl.sdk.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

T = TypeVar("T")
Given: TypeAlias = "tuple[Descriptor | None, Descriptor | None, Descriptor | None]"
LIMIT = 65536  # bytes
_EXECS = TypeAdapter(list[Exec])
_ANSWER = TypeAdapter(RunAnswer)
_KEYS = {"env": "env", "cwd": "cwd", "user": "user", "on_disconnect": "onDisconnect"}


class ExecOptions(TypedDict, total=False):
    """Keyword arguments of `Client.exec` and `Client.exec_plain`; what is left out, or None, is the container's, or the daemon's to choose.

    env            variables, added to those of the container
    cwd            absolute path inside
    user           `UID[:GID]` or `NAME[:GROUP]`, inside
    on_disconnect  what becomes of it when this client goes before it ends: `stop`, `kill`, `keep`
    """

    env: Mapping[str, str] | None
    cwd: str | None
    user: str | None
    on_disconnect: Literal["stop", "kill", "keep"] | None


class Execs:
    """What `Client` stands on."""

    def __init__(self, path: str, retry: float) -> None:
        self._path = path
        self._transport = Transport(path, retry)
        self._processes: set[Process] = set()

    async def _begin(
        self, where: str, request: dict[str, object], head: dict[str, object], passing: Passing, limit: int
    ) -> Process:
        """Ask for a session by POST `where`, say `head`, wait until the command runs."""
        pipes = Pipes()
        process = None
        try:
            self._transport.check()
            await pipes.connect(passing, limit)
            container, descriptor = await ask_session(self._path, where, dumps(request))
            process = Process(container, pipes, passing.copies, self._processes.discard)
            self._processes.add(process)
            first = {**head, "request": request, "stdio": passing.numbers, "tty": passing.tty}
            await process.begin(descriptor, first, passing, typed=0 in passing.tty)
        except BaseException:
            passing.close()
            pipes.close()
            if process is not None:
                await process.close()
            await pipes.wait_closed()
            raise
        return process

    def exec(
        self,
        container: str,
        *args: str,
        stdin: Descriptor | None = None,
        stdout: Descriptor | None = None,
        stderr: Descriptor | None = None,
        terminal: bool = False,
        size: tuple[int, int] | None = None,
        preserve_fds: Sequence[Descriptor] = (),
        limit: int = LIMIT,
        **options: Unpack[ExecOptions],
    ) -> Starting:
        """Execute a further command in a running container with descriptors of this process: `process = await dkr.exec("web", …)`, or
        `async with dkr.exec(…) as process:`. As `run` in all else; `Process.exec` is its id.

        container  id, name or unique beginning of the id
        options    see ExecOptions

        Raises NotFound, Conflict (it does not run), LimitReached, CommandNotFound and the like.
        """
        request = _request("exec", args, options)
        request.update(of_descriptors(terminal, size, preserve_fds))
        given = (stdin, stdout, stderr)
        return Starting(
            self._exec(container, request, given, tuple(preserve_fds), terminal=terminal, limit=limit)
        )

    async def _exec(
        self,
        container: str,
        request: dict[str, object],
        given: Given,
        preserved: tuple[Descriptor, ...],
        *,
        terminal: bool,
        limit: int,
    ) -> Process:
        where = target(container, "/exec")
        passing = Passing(given, preserved, terminal=terminal)
        return await self._begin(where, request, {"type": "exec", "container": container}, passing, limit)

    async def exec_plain(
        self,
        container: str,
        *args: str,
        stdin: bytes | str | None = None,
        max_output: int | None = None,
        **options: Unpack[ExecOptions],
    ) -> PlainResult:
        """Execute a further command to its end as one plain request, as `run_plain` does a run; `PlainResult.id` is that of the exec.

        Refused in a container that was granted anything beyond a tenant's defaults (NotPermitted, rule `http`).
        """
        request = _request("exec_plain", args, options)
        request.update(input_of(stdin))
        if max_output is not None:
            request["maxOutput"] = max_output
        return result_of(
            model(_ANSWER, await self._transport.ask("POST", target(container, "/exec"), request))
        )

    async def execs(self, container: str) -> list[Exec]:
        """What is executed in a running container, the oldest first. Raises NotFound, Conflict."""
        return model(_EXECS, await self._transport.ask("GET", target(container, "/execs")))

    async def kill_exec(self, container: str, exec: str, signal: str | int = "KILL") -> None:
        """Send a signal, by name or number, to one of them, named by its id or the unique beginning of that. Raises NotFound, Conflict."""
        wanted = signal if isinstance(signal, str) else str(int(signal))
        where = target(container, f"/execs/{exec}/kill")
        await self._transport.ask("POST", where, {"signal": wanted})


def _request(call: str, args: tuple[object, ...], options: ExecOptions) -> dict[str, object]:
    """The request. Raises TypeError for a keyword that is none of `ExecOptions`."""
    request: dict[str, object] = {"args": words_of(call, args)}
    for name, value in options.items():
        if name not in _KEYS:
            raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")
        if value is not None:
            request[_KEYS[name]] = dict(value) if name == "env" else value  # type: ignore[call-overload]
    return request


def of_descriptors(
    terminal: bool, size: tuple[int, int] | None, preserve_fds: Sequence[Descriptor]
) -> dict[str, Any]:
    """What a request says of a terminal and of further descriptors. Raises ValueError."""
    if size is not None and not terminal:
        raise ValueError("size has no meaning without terminal=True")
    told: dict[str, Any] = {}
    if terminal:
        told["terminal"] = True
    if size is not None:
        told["consoleSize"] = {"height": size[0], "width": size[1]}
    if preserve_fds:
        told["preserveFds"] = len(preserve_fds)
    return told
