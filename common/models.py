"""What crosses the HTTP border, as closed and bounded models: docs/protocol.md, section 1.

Only processes that have time load this file (pydantic: 60 ms, 5 MB): the api and the SDK, never the lean
client nor what runs as root. An unknown key, a value of another type ("1" for 1) and null for "absent" are
errors that name their path.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel

from common import checks

Status = Literal["creating", "created", "running", "paused", "stopped"]
Cause = Literal[
    "exited", "signalled", "oom", "timeout", "stopped", "client-gone", "start-failed", "shim-lost"
]

MAX_OUTPUT = 16 * 1024 * 1024  # bytes kept of one stream of a plain run
# SCM_MAX_FD of unix(7) less stdio's three and the two of a rootfs
MAX_PRESERVED_BESIDE_ROOT = 248

# Said outright: pydantic's own serializer for a plainly validated tuple complains of the list that it makes of it.
_AS_LIST = PlainSerializer(list, return_type=list)


class Model(BaseModel):
    """A closed, unchangeable object with the keys of the wire (camelCase)."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,  # for our own code; what comes over the wire is read by alias alone
        validate_by_alias=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    def to_wire(self) -> dict[str, Any]:
        """The object as JSON's types, with the keys of the wire and without what is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ConsoleSize(Model):
    """Rows and columns of a terminal."""

    height: Annotated[int, Field(ge=0, le=65535)]
    width: Annotated[int, Field(ge=0, le=65535)]


class RunRequest(Model):
    """What `POST /v1/run` takes. Its keys and their meaning: docs/protocol.md, section 1."""

    image: Annotated[str | None, AfterValidator(lambda v: checks.image(checks.given(v)))] = None
    rootfs: Annotated[str | None, AfterValidator(lambda v: checks.absolute(checks.given(v)))] = None
    args: Annotated[tuple[str, ...], PlainValidator(checks.command), _AS_LIST]
    entrypoint: Annotated[tuple[str, ...], PlainValidator(checks.texts), _AS_LIST] = ()
    env: Annotated[dict[str, str], PlainValidator(checks.env)] = {}
    cwd: Annotated[str, AfterValidator(checks.absolute)] = "/"
    user: Annotated[str, AfterValidator(checks.user)] = "0:0"
    name: Annotated[str | None, AfterValidator(lambda v: checks.name(checks.given(v)))] = None
    hostname: Annotated[str | None, AfterValidator(lambda v: checks.hostname(checks.given(v)))] = None
    labels: Annotated[dict[str, str], PlainValidator(checks.labels)] = {}
    readonly: bool = False
    tmpfs: Annotated[dict[str, str], PlainValidator(checks.tmpfs)] = {}
    terminal: bool = False
    console_size: Annotated[ConsoleSize | None, AfterValidator(checks.given)] = None
    namespaces: Annotated[dict[str, str], PlainValidator(checks.namespaces)] = {}
    preserve_fds: Annotated[int, Field(ge=0, le=250)] = 0
    init: bool = False
    rm: bool = False
    stop_signal: Annotated[int, PlainValidator(checks.signal)] = 15
    # 0 is docker's "do not wait": SIGKILL at once
    stop_timeout: Annotated[float, Field(ge=0), AfterValidator(checks.seconds)] = 10.0
    timeout: Annotated[
        float | None, AfterValidator(lambda v: checks.above_zero(checks.seconds(checks.given(v))))
    ] = None
    on_disconnect: Annotated[Literal["stop", "kill", "keep"] | None, AfterValidator(checks.given)] = None

    def to_request(self) -> dict[str, Any]:
        """What was given, with the keys of the wire: the defaults are filled in where policy fills them in."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def is_private(self, namespace: str) -> bool:
        """Whether the container gets a namespace of this type of its own (all but `time` by default)."""
        return self.namespaces.get(namespace, "host" if namespace == "time" else "private") == "private"

    @model_validator(mode="after")
    def _whole(self) -> RunRequest:
        command = (*self.entrypoint, *self.args)
        if not command[0]:
            checks.fault("entrypoint[0]" if self.entrypoint else "args[0]", "is empty: a command is wanted")
        if len(command) > checks.MAX_STRINGS:
            checks.fault(
                "args",
                f"with the entrypoint there are {len(command)} strings; at most {checks.MAX_STRINGS} are possible",
            )
        # as execve(2) counts: each string with its NUL, and a pointer to it
        size = sum(len(text.encode()) + 9 for text in command)
        size += sum(len(name.encode()) + len(text.encode()) + 10 for name, text in self.env.items())
        if size > checks.MAX_ARGUMENTS:
            checks.fault(
                "args",
                f"argument list too long: args and env take {size} bytes, {checks.MAX_ARGUMENTS} are possible",
            )
        if self.rootfs is not None:
            self._check_rootfs()
        if self.hostname is not None and not self.is_private("uts"):
            checks.fault("hostname", "cannot be set: the container has the UTS namespace of the host")
        if self.console_size is not None and not self.terminal:
            checks.fault("consoleSize", "has no meaning without terminal")
        return self

    def _check_rootfs(self) -> None:
        if self.image is not None:
            checks.fault("rootfs", "cannot be given with image")
        if self.preserve_fds > MAX_PRESERVED_BESIDE_ROOT:
            checks.fault(
                "preserveFds",
                f"is more than {MAX_PRESERVED_BESIDE_ROOT}: with rootfs two more descriptors are under way",
            )


class PlainRun(RunRequest):
    """What `POST /v1/run` takes without an upgrade: the request, its standard input, and how much of its output is kept.

    What needs descriptors of the client's own has no place here.
    """

    stdin: Annotated[str | None, AfterValidator(checks.given)] = None
    stdin_base64: Annotated[str | None, AfterValidator(checks.given)] = None
    max_output: Annotated[int, Field(ge=0, le=MAX_OUTPUT)] = 1024 * 1024  # bytes, of each stream
    rm: bool = True

    @model_validator(mode="after")
    def _without_descriptors(self) -> PlainRun:
        if self.stdin is not None and self.stdin_base64 is not None:
            checks.fault("stdinBase64", "cannot be there beside stdin")
        if self.terminal:
            checks.fault("terminal", "cannot be had over plain HTTP: use dkrctl, or a session")
        if self.rootfs is not None:
            checks.fault("rootfs", "cannot be passed over plain HTTP: use dkrctl, or a session")
        if self.preserve_fds:
            checks.fault("preserveFds", "cannot be passed over plain HTTP: use dkrctl, or a session")
        if not self.rm:
            checks.fault("rm", "cannot be false here: nobody could find what is left")
        if self.on_disconnect == "keep":
            checks.fault("onDisconnect", "cannot be keep here: nobody could find what is left")
        return self

    def to_request(self) -> dict[str, Any]:
        """The request that root's side is told: what was given of it, and that it is removed at its end."""
        own = {"stdin", "stdin_base64", "max_output"}
        given = self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude=own)
        return {**given, "rm": True}

    def asks(self) -> list[str]:
        """What it wants beyond a tenant's defaults (docs/protocol.md, section 3)."""
        return [
            f"{kind}:host" for kind, scope in self.namespaces.items() if scope == "host" and kind != "time"
        ]


class ExitStatus(Model):
    """How a container ended. Exactly one of `code` and `signal` is there, unless nobody could learn it."""

    code: Annotated[int, Field(ge=0, le=255)] | None = None
    signal: Annotated[int, Field(ge=1, le=64)] | None = None
    cause: Cause

    @model_serializer
    def _with_nulls(self) -> dict[str, Any]:
        """A client reads `code` and `signal` together: null is told, unlike elsewhere."""
        return {"code": self.code, "signal": self.signal, "cause": self.cause}


class RunAnswer(Model):
    """What `POST /v1/run` answers without an upgrade. Of a stream that is not UTF-8 the base64 is there, and not the text."""

    id: str
    exit: ExitStatus
    stdout: str | None = None
    stderr: str | None = None
    stdout_base64: str | None = None
    stderr_base64: str | None = None
    truncated: bool
    duration: float  # seconds, from the start to the end of the command


class KillRequest(Model):
    """What `POST /v1/containers/{container}/kill` takes."""

    signal: Annotated[int, PlainValidator(checks.signal)] = 9


class WaitAnswer(Model):
    """What `POST /v1/containers/{container}/wait` answers. `exit` is absent where nobody could learn it."""

    id: str
    exit: ExitStatus | None = None


class ContainerState(Model):
    """A shim's `state.json` (docs/protocol.md, section 6), as it comes over the channel."""

    version: Literal[1]
    id: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
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


class Container(Model):
    """A container as `GET /v1/containers` tells it. Times are RFC 3339; `exit` is absent while nobody knows
    it.
    """

    id: str
    name: str
    uid: int
    image: str
    args: tuple[str, ...]
    labels: dict[str, str]
    rm: bool
    status: Status
    pid: int | None = None
    created: str
    started: str | None = None
    finished: str | None = None
    exit: ExitStatus | None = None


class TraceStep(Model):
    """One step of a start: docs/protocol.md, section 7. Times are nanoseconds; `start` counts from the first step."""

    name: str
    call: str
    start: int
    duration: int
    process: str
    failed: bool | None = None


class Trace(Model):
    """The record of a start, as `GET /v1/containers/{container}/explain` tells it."""

    version: Literal[1]
    id: str
    outcome: Literal["started", "failed"]
    error: dict[str, Any] | None = None
    command: Annotated[list[str], Field(max_length=65536)]
    begun: str
    steps: list[TraceStep]
    omitted: int | None = None


class VersionInfo(Model):
    """What `GET /v1/version` answers."""

    version: str
    api_version: str
    os: str
    arch: str
    kernel: str
    python: str


class Fault(Model):
    """One fault of a request."""

    path: str
    message: str


class Problem(Model):
    """An error over HTTP: RFC 9457, with our code, the way out and the faults of a request."""

    type: Literal["about:blank"] = "about:blank"
    code: str
    title: str
    status: int
    detail: str
    hint: str | None = None
    step: str | None = None
    errno: int | None = None
    rule: str | None = None
    fields: tuple[Fault, ...] | None = None
