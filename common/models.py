"""What crosses the HTTP border, as closed and bounded models: docs/protocol.md, section 1.

Only processes that have time load this file (pydantic: 60 ms, 5 MB): the api and the SDK, never the lean
client nor what runs as root. An unknown key, a value of another type ("1" for 1) and null for "absent" are
errors that name their path.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, model_serializer, model_validator

from common import checks, log_shapes, restart_shapes, shapes
from common.health_models import Health, HealthRequest, HealthState
from common.limit_models import Limits
from common.model_base import About, Id, Model, Time

Status = Literal["creating", "created", "running", "paused", "restarting", "stopped"]
Cause = Literal[
    "exited",
    "signalled",
    "oom",
    "timeout",
    "unhealthy",
    "stopped",
    "client-gone",
    "start-failed",
    "shim-lost",
]

MAX_OUTPUT = 16 * 1024 * 1024  # bytes kept of one stream of a plain run
# SCM_MAX_FD of unix(7) less stdio's three and the two of a rootfs
MAX_PRESERVED_BESIDE_ROOT = 248


class ConsoleSize(Model):
    """Rows and columns of a terminal."""

    height: Annotated[int, Field(ge=0, le=65535), shapes.WHOLE]
    width: Annotated[int, Field(ge=0, le=65535), shapes.WHOLE]


RUN_SCHEMA: dict[str, Any] = {
    "examples": [{"args": ["/bin/echo", "hello"], "rm": True}],
    # The command's first word is not empty, wherever it comes from.
    "if": {"required": ["entrypoint"], "properties": {"entrypoint": {"minItems": 1}}},
    "then": {"properties": {"entrypoint": shapes.NOT_EMPTY}},
    "else": {"properties": {"args": shapes.NOT_EMPTY}},
    "dependentRequired": {"swap": ["memory"]},
    "dependentSchemas": {
        "consoleSize": {"required": ["terminal"], "properties": {"terminal": {"const": True}}},
        "hostname": {"properties": {"namespaces": {"properties": {"uts": {"const": "private"}}}}},
        "rootfs": {
            "not": {"required": ["image"]},
            "properties": {"preserveFds": {"maximum": MAX_PRESERVED_BESIDE_ROOT}},
        },
    },
}


class RunRequest(Model):
    """Which container is wanted. Its keys and their meaning: docs/protocol.md, section 1."""

    model_config = ConfigDict(json_schema_extra=RUN_SCHEMA)

    image: Annotated[shapes.Image, About("built-in root, `host` or `busybox`; the daemon's default_root")] = (
        None
    )
    rootfs: Annotated[
        shapes.Rootfs,
        About("a directory that the client passes as descriptor is the root; its path, for people only"),
    ] = None
    args: Annotated[shapes.Command, About("the command and its arguments")]
    entrypoint: Annotated[shapes.Words, About("put in front of args")] = ()
    env: Annotated[
        shapes.Env, About("variables, added to the defaults; each with name and value within 128 KiB")
    ] = {}
    cwd: Annotated[shapes.Cwd, About("working directory")] = "/"
    user: Annotated[shapes.User, About("UID[:GID] or NAME[:GROUP], inside the container")] = "0:0"
    name: Annotated[shapes.Name, About("the container's name; one is made if absent")] = None
    hostname: Annotated[shapes.Hostname, About("its host name, `container` if absent")] = None
    labels: Annotated[shapes.Labels, About("kept and shown, never interpreted; each within 8 KiB")] = {}
    readonly: Annotated[bool, About("the root is read-only")] = False
    tmpfs: Annotated[shapes.Tmpfs, About("scratch space: destination -> options as in mount(8)")] = {}
    terminal: Annotated[bool, About("it gets a terminal of its own")] = False
    console_size: Annotated[
        ConsoleSize | None, AfterValidator(checks.given), About("of its terminal at the start")
    ] = None
    namespaces: Annotated[
        shapes.Namespaces, About("type -> `private` or `host`; `private` if absent, of time `host`")
    ] = {}
    preserve_fds: Annotated[
        int,
        Field(ge=0, le=250),
        shapes.WHOLE,
        About("how many of the caller's descriptors from 3 on come along"),
    ] = 0
    memory: Annotated[shapes.Memory, About("bytes that it may use; without bound if absent")] = None
    swap: Annotated[
        shapes.Swap,
        About("bytes of swap that it may use beside memory; -1: without bound; as much as memory if absent"),
    ] = None
    cpus: Annotated[shapes.Cpus, About("processors' worth of time that it may use, as in 1.5")] = None
    pids_limit: Annotated[
        shapes.Pids,
        About("processes and threads; -1: without bound, as for admins if absent, else the daemon's bound"),
    ] = None
    log: Annotated[log_shapes.Log, About("where its output goes: driver and options, as Docker's")] = None
    init: Annotated[bool, About("process 1 is dkr's own: it reaps, and forwards signals")] = False
    rm: Annotated[bool, About("it is removed when it ends")] = False
    stop_signal: Annotated[
        shapes.Signal,
        About("name or number of the signal that asks it to end"),
        Field(json_schema_extra={"default": "SIGTERM"}),
    ] = 15
    # 0 is docker's "do not wait": SIGKILL at once
    stop_timeout: Annotated[shapes.StopSeconds, About("seconds from the stop signal to SIGKILL")] = 10.0
    timeout: Annotated[shapes.TimeLimit, About("seconds that the command may take, then it is stopped")] = (
        None
    )
    on_disconnect: Annotated[
        Literal["stop", "kill", "keep"] | None,
        AfterValidator(checks.given),
        About("what becomes of it when its client vanishes: `stop` with rm, else `keep`"),
    ] = None
    health: Annotated[
        HealthRequest | None,
        AfterValidator(checks.given),
        About("how its guardian finds out whether it is well"),
    ] = None

    def to_request(self) -> dict[str, Any]:
        """What was given, with the keys of the wire: the defaults are filled in where policy fills them in."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def is_private(self, namespace: str) -> bool:
        """Whether the container gets a namespace of this type of its own (all but `time` by default)."""
        return self.namespaces.get(namespace, "host" if namespace == "time" else "private") == "private"

    def asks(self) -> list[str]:
        """What it wants beyond a tenant's defaults (docs/protocol.md, section 3)."""
        return [
            f"{kind}:host" for kind, scope in self.namespaces.items() if scope == "host" and kind != "time"
        ]

    @model_validator(mode="after")
    def _whole(self) -> RunRequest:
        command = (*self.entrypoint, *self.args)
        if not command[0]:
            checks.fault("entrypoint[0]" if self.entrypoint else "args[0]", "is empty: a command is wanted")
        checks.fits(command, self.env)
        if self.rootfs is not None:
            self._check_rootfs()
        if self.hostname is not None and not self.is_private("uts"):
            checks.fault("hostname", "cannot be set: the container has the UTS namespace of the host")
        if self.console_size is not None and not self.terminal:
            checks.fault("consoleSize", "has no meaning without terminal")
        if self.swap is not None and self.memory is None:
            checks.fault("swap", "has no meaning without memory")
        return self

    def _check_rootfs(self) -> None:
        if self.image is not None:
            checks.fault("rootfs", "cannot be given with image")
        if self.preserve_fds > MAX_PRESERVED_BESIDE_ROOT:
            checks.fault(
                "preserveFds",
                f"is more than {MAX_PRESERVED_BESIDE_ROOT}: with rootfs two more descriptors are under way",
            )


def _plain_schema(schema: dict[str, Any]) -> None:
    """Without what has no meaning here, and with what two keys have to do with each other."""
    schema.update(deepcopy(RUN_SCHEMA))
    for key in ("consoleSize", "rootfs"):
        del schema["properties"][key], schema["dependentSchemas"][key]
    schema["not"] = {"required": ["stdin", "stdinBase64"]}
    schema["examples"] = [
        {"args": ["/bin/sh", "-c", "tr a-z A-Z; exit 3"], "stdin": "some words\n", "timeout": 5}
    ]


class PlainRun(RunRequest):
    """A run as one request: which container is wanted, its standard input, and how much of its output is kept.

    What needs descriptors of the client's own has no place here.
    """

    model_config = ConfigDict(json_schema_extra=_plain_schema)

    stdin: Annotated[shapes.Text, About("its standard input as text, empty if absent")] = None
    stdin_base64: Annotated[shapes.Base64, About("its standard input as bytes, in place of stdin")] = None
    max_output: Annotated[
        int,
        Field(ge=0, le=MAX_OUTPUT),
        shapes.WHOLE,
        About("bytes of each stream that are kept; the rest is read and dropped"),
    ] = 1024 * 1024
    terminal: Annotated[shapes.NoTerminal, About("a terminal needs a session")] = False
    rootfs: Annotated[shapes.NoRootfs, About("a directory of one's own needs a session")] = None
    preserve_fds: Annotated[shapes.NoDescriptors, About("descriptors need a session")] = 0
    log: Annotated[log_shapes.PlainLog, About("its output is the answer")] = None
    rm: Annotated[shapes.Removed, About("it is removed when it ends: nobody could find what is left")] = True
    on_disconnect: Annotated[
        shapes.Ends, About("what becomes of it when its client goes away before the answer; `stop` if absent")
    ] = None

    @model_validator(mode="after")
    def _one_input(self) -> PlainRun:
        if self.stdin is not None and self.stdin_base64 is not None:
            checks.fault("stdinBase64", "cannot be there beside stdin")
        return self

    def to_request(self) -> dict[str, Any]:
        """The request that root's side is told: what was given of it, and that it is removed at its end."""
        own = {"stdin", "stdin_base64", "max_output"}
        given = self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude=own)
        return {**given, "rm": True}


_NULLABLE: dict[str, Any] = {
    "properties": {
        "code": {"type": ["integer", "null"], "minimum": 0, "maximum": 255, "description": "its exit status"},
        "signal": {
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": 64,
            "description": "the signal that ended it",
        },
        "cause": {"enum": list(get_args(Cause)), "description": "why it ended"},
    },
    "required": ["code", "signal", "cause"],
    "examples": [{"code": 3, "signal": None, "cause": "exited"}],
}


class ExitStatus(Model):
    """How a container ended. Exactly one of `code` and `signal` is there, unless nobody could learn it."""

    model_config = ConfigDict(json_schema_extra=_NULLABLE)

    code: Annotated[int, Field(ge=0, le=255)] | None = None
    signal: Annotated[int, Field(ge=1, le=64)] | None = None
    cause: Cause

    @model_serializer
    def _with_nulls(self) -> dict[str, Any]:
        """A client reads `code` and `signal` together: null is told, unlike elsewhere."""
        return {"code": self.code, "signal": self.signal, "cause": self.cause}


class RunAnswer(Model):
    """What became of a run. Of a stream that is not UTF-8 the base64 is there, and not the text."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["stdout"]}, {"required": ["stdoutBase64"]}],
            "allOf": [{"oneOf": [{"required": ["stderr"]}, {"required": ["stderrBase64"]}]}],
            "examples": [
                {
                    "id": "6f" * 32,
                    "exit": {"code": 3, "signal": None, "cause": "exited"},
                    "stdout": "SOME WORDS\n",
                    "stderr": "",
                    "truncated": False,
                    "duration": 0.004,
                }
            ],
        }
    )

    id: Id
    exit: ExitStatus
    stdout: str | None = None
    stderr: str | None = None
    stdout_base64: shapes.Base64 = None
    stderr_base64: shapes.Base64 = None
    truncated: Annotated[bool, About("a stream was longer than maxOutput")]
    duration: Annotated[float, About("seconds, from the start to the end of the command")]


class KillRequest(Model):
    """Which signal a container's command is to get."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"signal": "TERM"}]})

    signal: Annotated[
        shapes.Signal, About("its name or number"), Field(json_schema_extra={"default": "SIGKILL"})
    ] = 9


class WaitQuery(Model):
    """For what is waited, and how long."""

    condition: Annotated[
        Literal["stopped", "removed", "next-exit"],
        About("that its command has ended, that nothing of it is left, or its next end"),
    ] = "stopped"
    timeout: Annotated[shapes.Seconds, About("seconds; for ever if absent")] = None


class WaitAnswer(Model):
    """The end of a container. `exit` is absent where nobody could learn it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"id": "6f" * 32, "exit": {"code": 3, "signal": None, "cause": "exited"}}]
        }
    )

    id: Id
    exit: ExitStatus | None = None


class ContainerState(Model):
    """A shim's `state.json` (docs/protocol.md, section 6), as it comes over the channel."""

    version: Literal[1]
    id: Id
    name: Annotated[str, AfterValidator(checks.name)]
    uid: Annotated[int, Field(ge=0, lt=2**32)]
    status: Status
    pid: int | None = None
    pid_start_time: int | None = None
    shim_pid: int | None = None
    shim_start_time: int | None = None
    slot: int | None = None
    cgroup: Any = None
    rm: bool = False
    created: str
    started: str | None = None
    finished: str | None = None
    exit: ExitStatus | None = None
    took: float | None = None
    health: HealthState | None = None
    restart: dict[str, Any] | None = None
    restarts: int | None = None
    backoff: float | None = None
    due: float | None = None
    stop_asked: bool | None = None
    again: bool | None = None
    updated: str | None = None
    on_unhealthy: str | None = None
    reason: str | None = None
    limits: Limits | None = None


class Container(Model):
    """A container. `pid` is there while it runs; `exit` is absent while nobody knows it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "6f" * 32,
                    "name": "calm_otter4821",
                    "uid": 1000,
                    "image": "host",
                    "args": ["/bin/sleep", "60"],
                    "labels": {},
                    "rm": True,
                    "status": "running",
                    "pid": 4711,
                    "created": "2026-01-31T12:00:00.000000000Z",
                    "started": "2026-01-31T12:00:00.010000000Z",
                }
            ]
        }
    )

    id: str
    name: str
    uid: Annotated[int, About("whose it is, on the host")]
    image: str
    args: tuple[str, ...]
    labels: dict[str, str]
    rm: bool
    status: Status
    pid: Annotated[int | None, About("of its process 1, on the host")] = None
    created: Time
    started: Time | None = None
    finished: Time | None = None
    exit: ExitStatus | None = None
    health: Annotated[Health | None, About("of one that has a health check and was started")] = None
    restart: Annotated[restart_shapes.Policy, About("when it is restarted; absent where it is not")] = None
    restarts: Annotated[
        int | None, About("how often it was, since somebody has started it; absent where nothing restarts it")
    ] = None
    limits: Annotated[Limits | None, About("what bounds it; absent where it is not known")] = None
    size: Annotated[
        int | None, About("bytes on the disk that its root has beside its layers; where asked for")
    ] = None
    log_size: Annotated[int | None, About("the same of its log")] = None


class ContainersQuery(Model):
    """Which containers are listed."""

    all: Annotated[shapes.Flag, About("those too that have not been started yet, or have stopped")] = False
    size: Annotated[shapes.Flag, About("with the bytes that each takes, which has to be measured")] = False
