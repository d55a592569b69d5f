"""Builds the request of docs/protocol.md, section 1, from the parsed command line.

On the lean path (see lean.py): imports posix, our parser and errors. Only what was given is sent; defaults
are the daemon's.
"""

import posix

from common import options
from common.errors import BadRequest
from dkrctl.parse import Parsed, count, decimal, seconds, size, utf8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PRESERVED = 250  # docs/protocol.md; with 0-2 the 253 of SCM_MAX_FD, unix(7)
MAX_PIDS = 4194304  # PID_MAX_LIMIT, proc_sys_kernel(5)
MAX_BESIDE_ROOTFS = 248  # two more go along with --rootfs
MAX_ENV_FILE = 16 * 1024 * 1024  # bytes; guards against a device or a log named by mistake

_TEXTS = ("name", "workdir", "user", "hostname", "stop-signal", "on-disconnect")
_FLAGS = ("rm", "read-only", "init")
_NAMESPACES = ("pid", "ipc", "uts", "cgroupns", "network", "userns", "timens")


def build(parsed: Parsed, command: options.Command = options.RUN) -> dict[str, object]:
    """The request without what depends on the caller's descriptors (`terminal`, `preserveFds`, …).

    command  the verb, for what is told of an error

    Raises BadRequest.
    """
    keys = {option.long: option.key for option in options.RUN_OPTIONS}
    request: dict[str, object] = {}
    _command(parsed, request, command)
    for long in _TEXTS:
        text = parsed.last(long)
        if text is not None:
            request[keys[long]] = utf8(text, f"--{long}")
    for long in _FLAGS:
        flag = parsed.flag(long)
        if flag is not None:
            request[keys[long]] = flag
    namespaces: dict[str, object] = {}
    for long in _NAMESPACES:
        scope = parsed.last(long)
        if scope is not None:
            namespaces[keys[long].partition(".")[2]] = scope
    for key, value in (
        ("namespaces", namespaces),
        ("env", environment(parsed)),
        ("labels", _labels(parsed)),
        ("tmpfs", _tmpfs(parsed)),
    ):
        if value:
            request[key] = value
    _log(parsed, request)
    _times(parsed, request)
    take_limits(parsed, request)
    if parsed.named("health-"):
        # Late: most runs have none.
        from dkrctl.health import check_of

        request["health"] = check_of(parsed)
    return request


def restart_wish(parsed: Parsed) -> str:
    """The option, with its value, by which a container may be started again; empty without one."""
    policy = parsed.last("restart")
    if policy not in (None, "no"):
        return f"restart {policy}"
    return "health-on-failure restart" if parsed.last("health-on-failure") == "restart" else ""


def asks(request: dict[str, object]) -> list[str]:
    """What the request wants beyond a tenant's defaults (docs/protocol.md, section 3)."""
    namespaces = request.get("namespaces")
    if not isinstance(namespaces, dict):
        return []
    # The host's time is everybody's default, not a lift.
    return [f"{kind}:host" for kind, scope in namespaces.items() if scope == "host" and kind != "time"]


def preserved(parsed: Parsed) -> int:
    """How many descriptors from 3 on `--preserve-fds` names."""
    text = parsed.last("preserve-fds")
    return 0 if text is None else count(text, "preserve-fds", most_preserved(parsed))


def most_preserved(parsed: Parsed) -> int:
    """How many descriptors from 3 on can go along."""
    return MAX_PRESERVED if parsed.last("rootfs") is None else MAX_BESIDE_ROOTFS


def _command(parsed: Parsed, request: dict[str, object], command: options.Command) -> None:
    words = [utf8(word, f"argument {place}") for place, word in enumerate(parsed.rest, 1)]
    named = bool(words) and parsed.last("rootfs") is None and not words[0].startswith("/")
    image = words.pop(0) if named else None
    if image == "":
        raise BadRequest(f"cannot {command.name} a container: the name of the image is empty")
    entry = parsed.last("entrypoint")
    if entry and not words:
        words = [utf8(entry, "--entrypoint")]
    elif entry is not None:
        request["entrypoint"] = [utf8(entry, "--entrypoint")] if entry else []
    if not words:
        what = f"image {image}" if image else "a container"
        raise BadRequest(
            f"cannot {command.name} {what}: there is no command",
            hint=f"{command.usage}; a command in the default root begins with /",
        )
    if image is not None:
        request["image"] = image
    request["args"] = words


def _times(parsed: Parsed, request: dict[str, object]) -> None:
    text = parsed.last("stop-timeout")
    if text is not None:
        request["stopTimeout"] = seconds(text, "stop-timeout")
    text = parsed.last("timeout")
    if text is not None:
        limit = seconds(text, "timeout")
        if not limit:
            raise BadRequest(
                "cannot take --timeout 0: it would end before it begins", hint="leave it out for none"
            )
        request["timeout"] = limit


def _log(parsed: Parsed, request: dict[str, object]) -> None:
    driver, log_options = parsed.last("log-driver"), {}
    for word in parsed.every("log-opt"):
        key, equals, value = utf8(word, "--log-opt").partition("=")
        if not key or not equals:
            raise BadRequest(
                f"cannot take --log-opt {word}: KEY=VALUE is wanted", hint="as in --log-opt max-size=10m"
            )
        log_options[key] = value
    if driver is not None or log_options:
        wanted: dict[str, object] = {} if driver is None else {"driver": driver}
        request["log"] = {**wanted, "options": log_options} if log_options else wanted


def take_limits(parsed: Parsed, request: dict[str, object], *, lifts: bool = False) -> None:
    """Put what bounds a container into `request`. As Docker's, 0 is no bound, which is said where there may be one (`lifts`). Raises
    BadRequest.
    """
    memory, both = parsed.last("memory"), parsed.last("memory-swap")
    _bound(request, "memory", memory, size, lifts)
    if both is not None:
        request["swap"] = -1 if lifts and both == "-1" else _swap(both, memory)
    _bound(request, "cpus", parsed.last("cpus"), decimal, lifts)
    text = parsed.last("pids-limit")
    if text is not None:
        request["pidsLimit"] = (
            -1 if text in ("-1", "0") else count(text, "pids-limit", MAX_PIDS, "-1 is no bound")
        )


def _bound(
    request: dict[str, object],
    key: str,
    text: str | None,
    read: "Callable[[str, str], float]",
    lifts: bool,
) -> None:
    if text == "0" or (lifts and text == "-1"):
        if lifts:
            request[key] = -1
    elif text is not None:
        request[key] = read(text, key)


def _swap(both: str, memory: str | None) -> int:
    """The request's swap: Docker's is of memory and swap together, the request's of swap alone."""
    if memory is None:
        raise BadRequest(
            f"cannot take --memory-swap {both}: it needs --memory",
            hint="it is memory and swap together: say how much of it is memory",
        )
    if both == "-1":
        return -1
    swap = size(both, "memory-swap") - size(memory, "memory")
    if swap < 0:
        raise BadRequest(
            f"cannot take --memory-swap {both}: it is less than --memory",
            hint="it is memory and swap together; as much as --memory is no swap",
        )
    return swap


def _labels(parsed: Parsed) -> dict[str, str]:
    labels: dict[str, str] = {}
    for word in parsed.every("label"):
        key, _, value = utf8(word, "--label").partition("=")
        if not key:
            raise BadRequest(f"cannot take --label {word}: its key is empty")
        labels[key] = value
    return labels


def _tmpfs(parsed: Parsed) -> dict[str, str]:
    mounts: dict[str, str] = {}
    for word in parsed.every("tmpfs"):
        where, _, mount_options = utf8(word, "--tmpfs").partition(":")
        if not where.startswith("/"):
            raise BadRequest(f"cannot take --tmpfs {word}: {where or 'the path'} is not absolute")
        mounts[where] = mount_options
    return mounts


def environment(parsed: Parsed) -> dict[str, str]:
    """Variables of `--env-file` and, over them, of `--env`. Raises BadRequest."""
    env: dict[str, str] = {}
    for path in parsed.every("env-file"):
        for number, line in enumerate(_lines(path), 1):
            line = line.lstrip()
            if line and not line.startswith("#"):
                _variable(line, env, f"line {number} of {ascii(path)[1:-1]}")
    for word in parsed.every("env"):
        _variable(utf8(word, "--env"), env, "--env")
    return env


def _variable(text: str, env: dict[str, str], where: str) -> None:
    name, equals, value = text.partition("=")
    if not name:
        raise BadRequest(f"cannot take {where} {text}: the variable has no name")
    if where != "--env" and name.split() != [name]:
        raise BadRequest(f"cannot take {where}: the name {name!a} holds white space")
    if equals:
        env[name] = value
        return
    raw = posix.environ.get(name.encode())
    if raw is None:
        return  # as Docker: what the caller does not have is left out
    try:
        env[name] = raw.decode("utf-8")
    except UnicodeError:
        raise BadRequest(f"cannot pass the variable {name}: its value is not UTF-8") from None


def _lines(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_ENV_FILE + 1)
    except OSError as err:
        raise BadRequest(f"cannot read --env-file {ascii(path)[1:-1]}: {_cause(err)}") from err
    if len(data) > MAX_ENV_FILE:
        raise BadRequest(f"cannot read --env-file {ascii(path)[1:-1]}: it is larger than 16 MiB")
    if b"\0" in data:
        raise BadRequest(f"cannot read --env-file {ascii(path)[1:-1]}: it holds a NUL")
    try:
        text = data.decode("utf-8")
    except UnicodeError:
        raise BadRequest(f"cannot read --env-file {ascii(path)[1:-1]}: it is not UTF-8") from None
    return [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]


def _cause(err: OSError) -> str:
    return (err.strerror or str(err)).lower()
