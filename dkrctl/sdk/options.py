"""What a run can be told besides its command and its descriptors, and the request that comes of it."""

from __future__ import annotations

from os import fspath
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence


class Options(TypedDict, total=False):
    """Keyword arguments of `Client.run` and `Client.run_plain`; what is left out, or None, is the daemon's to choose.

    Their meaning is that of docs/protocol.md, section 1; the daemon judges them, and refuses by name.

    image          the root: `host`, `busybox`; without one the setting `default_root`
    rootfs         a directory that is the root, opened with the caller's own rights; not beside `image`, and not for `run_plain`
    entrypoint     put in front of the command
    env            variables, added to the defaults
    cwd            absolute path inside; `/`
    user           `UID[:GID]` or `NAME[:GROUP]`, inside; `0:0`
    name           a name of its own among the caller's containers
    hostname       `container`
    labels         texts to find it by
    readonly       the root cannot be written to
    tmpfs          destination -> options of mount(8), as in {"/scratch": "size=64m"}
    namespaces     type -> `private` or `host`; `host` is for admins
    memory         bytes that it may use
    swap           bytes of swap beside them, -1: without bound; as much as `memory`
    cpus           processors' worth of time, as in 1.5
    pids_limit     processes and threads; -1, without bound, is for admins
    log            where its output goes: `{"driver": "json-file", "options": {"max-size": "10m"}}`; see docs/logging.md
    init           process 1 is dkr's own, reaps and forwards
    rm             remove the container when it ends
    stop_signal    name or number; SIGTERM
    stop_timeout   seconds from the stop signal to SIGKILL; 10
    timeout        seconds that the run may take, then it is stopped, with the cause `timeout`
    health         how it is found out whether it is well: the request's `health`, as in {"tcp": 80, "interval": 10}
    on_disconnect  what becomes of it when this client goes before it ends: `stop` (with `rm` the default), `kill`, `keep`
    """

    image: str | None
    rootfs: str | os.PathLike[str] | None
    entrypoint: Sequence[str] | None
    env: Mapping[str, str] | None
    cwd: str | None
    user: str | None
    name: str | None
    hostname: str | None
    labels: Mapping[str, str] | None
    readonly: bool | None
    tmpfs: Mapping[str, str] | None
    namespaces: Mapping[str, Literal["private", "host"]] | None
    memory: int | None
    swap: int | None
    cpus: float | None
    pids_limit: int | None
    log: Mapping[str, object] | None
    init: bool | None
    rm: bool | None
    stop_signal: str | int | None
    stop_timeout: float | None
    timeout: float | None
    health: Mapping[str, object] | None
    on_disconnect: Literal["stop", "kill", "keep"] | None


_KEYS = {name: to_camel(name) for name in Options.__annotations__}


def words_of(call: str, args: tuple[object, ...]) -> list[object]:
    """The words of a command. Raises TypeError for what is no text among them."""
    for word in args:
        if not isinstance(word, str):
            raise TypeError(f"{call}() takes the words of a command as str, not {type(word).__name__}")
    return list(args)


def request_of(call: str, args: tuple[object, ...], options: Options) -> dict[str, object]:
    """The request of docs/protocol.md, section 1, for a `call` with these arguments.

    Raises TypeError, as any function does, for a keyword that is none of `Options`, and for what is no text among `args`.
    """
    request: dict[str, object] = {"args": words_of(call, args)}
    for name, value in options.items():
        if name not in _KEYS:
            raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")
        if value is not None:
            request[_KEYS[name]] = _plain(name, value)
    return request


def _plain(name: str, value: Any) -> object:  # noqa: ANN401 - whatever a caller gave
    """`value` in JSON's own types."""
    if name in ("env", "labels", "tmpfs", "namespaces", "health"):
        return dict(value)
    if name == "log":
        return {key: dict(part) if key == "options" else part for key, part in dict(value).items()}
    if name == "entrypoint":
        if isinstance(value, str):
            raise TypeError("entrypoint is a list of words, not one text")
        return list(value)
    if name == "rootfs":
        return fspath(value)
    if name == "stop_signal" and isinstance(value, int):
        return str(int(value))  # of signal.Signals the number
    return value
