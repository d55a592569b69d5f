"""What a client wants executed in a container that runs: the request of its first frame, a closed schema (docs/protocol.md, 1).

It names what is the command's own. Where it runs, with which rights, is the container's, as its grant has it: nothing here can ask
for more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common.bundle import numeric_user
from common.errors import BadRequest, NotPermitted, ProtocolError
from dkrd.runtime.document import Reader, refuse
from dkrd.shim import first as firsts
from dkrd.shim.config import DISCONNECT, MAX_PRESERVED
from dkrd.shim.session import VERSION

if TYPE_CHECKING:
    from dkrd.runtime.spec import Process
    from dkrd.shim.config import Config

_KEYS = {"type", "version", "container", "request", "stdio", "tty"}
_STREAMS = "streams"  # one more, of a client that has no descriptors to pass
_ALL = (0, 1, 2)
# Of the container's own environment: they tell of descriptors that only its first process has; sd_listen_fds(3).
_NOT_INHERITED = ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A command, and what it gets of its caller's.

    process        the container's own, with what is the command's in place
    user           "NAME[:GROUP]" to look up inside, or None
    on_disconnect  what happens when the client vanishes
    stdio          {0..2: descriptor}
    tty            those of 0..2 that get a terminal of the command's own
    preserved      descriptors for 3, 4, ...
    streams        its caller has none of these: the guardian holds the other ends, and the caller streams to it
    """

    process: Process
    user: str | None
    on_disconnect: str
    stdio: dict[int, int]
    tty: tuple[int, ...]
    preserved: tuple[int, ...]
    streams: bool = False


def read(
    frame: dict[str, object], descriptors: list[int], container: tuple[str, str], config: Config
) -> Wanted:
    """What the first frame wants. `container`: id and name. Raises ProtocolError, BadRequest, NotPermitted; `descriptors` stay the
    caller's then.
    """
    streams = frame.get(_STREAMS) is True
    keys = _KEYS | {_STREAMS} if streams else _KEYS
    if set(frame) != keys or frame["type"] != "exec" or frame["version"] != VERSION:
        raise ProtocolError(
            f"cannot read the first frame: it is not a version {VERSION} exec",
            hint="use a dkrctl of the daemon's release",
        )
    check_container(frame["container"], *container, "execute in")
    request = frame["request"]
    if not isinstance(request, dict):
        raise ProtocolError("cannot read the first frame: request is no object")
    try:
        process, user, on_disconnect = _request(Reader(request, ""), config)
    except BadRequest as err:
        where = err.fields[0] if err.fields else {"path": "user", "message": err.message}
        raise BadRequest(
            f"cannot read the request: {where['path']}: {where['message']}", fields=err.fields
        ) from None
    stdio, tty, preserved = firsts.passed(frame, descriptors, firsts.preserved(request))
    if streams:
        if stdio or tty or preserved:
            raise ProtocolError(
                "cannot read the first frame: with streams it brings no descriptors, and no terminal"
            )
        return Wanted(process, user, on_disconnect, {}, _ALL if process.terminal else (), (), streams=True)
    if bool(tty) != process.terminal:
        raise NotPermitted(
            "cannot execute the command: its first frame and its request differ on a terminal",
            rule="terminal",
        )
    return Wanted(process, user, on_disconnect, stdio, tty, preserved)


def check_container(wanted: object, container: str, name: str, verb: str) -> None:
    """Raise NotPermitted where the client has named another container than this one. It says itself which it means, by name, id or
    the beginning of that: whom the api leads to another one would not see it before it was done there.
    """
    if not isinstance(wanted, str) or not wanted or not (container.startswith(wanted) or name == wanted):
        raise NotPermitted(
            f"cannot {verb} {container[:12]}: the client asked for another container",
            rule="other-container",
            hint="the api that sent the client here was taken over, or has a defect",
        )


def _request(reader: Reader, config: Config) -> tuple[Process, str | None, str]:
    args = reader.texts("args")
    if not args or not args[0]:
        refuse("args", "is empty: a command is wanted")
    cwd = reader.text("cwd", config.spec.process.cwd)
    if not cwd.startswith("/"):
        refuse("cwd", "is not absolute")
    own = reader.pairs("env")
    for name in own:
        if not name or "=" in name:
            refuse("env", f"{name!r} is no name of a variable")
    terminal = reader.flag("terminal", False)
    rows = columns = 0
    if reader.has("consoleSize"):
        size = reader.child("consoleSize")
        rows, columns = size.integer("height", 0, 65535), size.integer("width", 0, 65535)
        size.done()
    reader.integer("preserveFds", 0, MAX_PRESERVED, 0)
    on_disconnect = reader.one_of("onDisconnect", DISCONNECT) if reader.has("onDisconnect") else "stop"
    process = replace(
        config.spec.process,
        args=args,
        env=environment(config.spec.process.env, own, terminal),
        cwd=cwd,
        terminal=terminal,
        rows=rows,
        columns=columns,
    )
    process, user = _as_user(process, config.user, reader.optional_text("user"))
    reader.done()
    return process, user, on_disconnect


def environment(inherited: tuple[str, ...], own: dict[str, str], terminal: bool) -> tuple[str, ...]:
    """The environment of what is executed beside the container's process: that of this one, and `own` variables over it."""
    env = dict(entry.split("=", 1) for entry in inherited)
    for name in _NOT_INHERITED:
        env.pop(name, None)
    if terminal:
        env.setdefault("TERM", "xterm")
    env.update(own)
    return tuple(f"{name}={value}" for name, value in env.items())


def _as_user(process: Process, inherited: str | None, wanted: str | None) -> tuple[Process, str | None]:
    """The process with its numbers, and the name that is to be looked up inside."""
    if wanted is None:
        return process, inherited
    if not wanted:
        refuse("user", "is empty")
    numbers = numeric_user(wanted)
    if numbers is None:
        return process, wanted
    return replace(process, uid=numbers[0], gid=numbers[1]), None
