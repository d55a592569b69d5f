"""The one tree of errors, its stable codes, and what they mean at each border.

Imports nothing: the lean client and every process that runs as root load this file.

A message reads "cannot VERB OBJECT: cause", lower case, no full stop; `hint` is the way out.
"""


class DkrError(Exception):
    """The root of the tree. `code` is stable; a caller acts on it, never on the message.

    message  what could not be done, to what, and why
    hint     the way out, where there is one
    step     the system call or step of a start that failed
    errno    its error number
    rule     the policy rule that refused
    fields   ({"path": "env.A", "message": "..."}, ...) of bad input
    """

    code = "internal"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        step: str | None = None,
        errno: int | None = None,
        rule: str | None = None,
        fields: tuple[dict[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.step = step
        self.errno = errno
        self.rule = rule
        self.fields = fields

    def to_wire(self) -> dict[str, object]:
        """The error object of docs/protocol.md, without the absent parts."""
        wire: dict[str, object] = {"code": self.code, "message": self.message}
        for name in ("hint", "step", "errno", "rule"):
            value = getattr(self, name)
            if value is not None:
                wire[name] = value
        if self.fields:
            wire["fields"] = list(self.fields)
        return wire


class BadRequest(DkrError):
    """The request is not well-formed; `fields` says where."""

    code = "bad-request"


class NotPermitted(DkrError):
    """Policy or evidence refused; `rule` names the rule."""

    code = "not-permitted"


class NotFound(DkrError):
    """No such container, image or root (or not the caller's)."""

    code = "not-found"


class Conflict(DkrError):
    """The name is in use, or the container's status does not allow this now."""

    code = "conflict"


class LimitReached(DkrError):
    """A bound of the daemon, of the caller or of the machine is reached."""

    code = "limit-reached"


class Unavailable(DkrError):
    """The daemon, or a part of it, does not answer now; trying again may help."""

    code = "unavailable"


class HostUnfit(DkrError):
    """The machine lacks something that this needs (kernel feature, filesystem, permission)."""

    code = "host-unfit"


class StartFailed(DkrError):
    """A step of the start failed for a reason of its own; `step` and `errno` say which."""

    code = "start-failed"


class CommandNotFound(StartFailed):
    """There is no such command in the container."""

    code = "command-not-found"


class CommandNotExecutable(StartFailed):
    """The command is there but cannot be executed."""

    code = "command-not-executable"


class ProtocolError(DkrError):
    """The other side sent what the protocol does not allow now."""

    code = "protocol"


class Internal(DkrError):
    """A defect of dkr."""

    code = "internal"


CLASSES: dict[str, type[DkrError]] = {
    cls.code: cls
    for cls in (
        BadRequest,
        NotPermitted,
        NotFound,
        Conflict,
        LimitReached,
        Unavailable,
        HostUnfit,
        StartFailed,
        CommandNotFound,
        CommandNotExecutable,
        ProtocolError,
        Internal,
    )
}

# Docker's exit codes of `run`: 125 the engine failed, 126 cannot be executed, 127 not found.
EXIT_ENGINE = 125
EXIT_CODES = {"command-not-executable": 126, "command-not-found": 127}


def exit_code(code: str) -> int:
    """The exit status of `dkrctl run` for an error `code`."""
    return EXIT_CODES.get(code, EXIT_ENGINE)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def from_wire(wire: object) -> DkrError:
    """The exception for an error object; whatever does not fit becomes `Internal`, never a crash."""
    if not isinstance(wire, dict):
        return Internal("cannot read an error: it is no object")
    fields = wire.get("fields")
    kept = tuple(f for f in fields if isinstance(f, dict)) if isinstance(fields, list) else ()
    number = wire.get("errno")
    return CLASSES.get(str(wire.get("code")), Internal)(
        _text(wire.get("message")) or "an error without a message",
        hint=_text(wire.get("hint")),
        step=_text(wire.get("step")),
        errno=number if isinstance(number, int) else None,
        rule=_text(wire.get("rule")),
        fields=kept,
    )
