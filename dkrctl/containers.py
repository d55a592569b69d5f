"""A container as the API tells it, and as tables and templates of `ps` show it."""

import time

from common.errors import ProtocolError
from dkrctl.ages import ago, duration, parse
from dkrctl.cells import ELLIPSIS, plain
from dkrctl.sizes import human
from dkrctl.templates import Labels, Method, Record

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

SHORT_ID = 12  # digits, as everywhere
SHORT_COMMAND = 20  # characters, as Docker's tables have them

# What a container of the API can have (common/models.py, a test compares): absent is not unknown.
FIELDS = (
    *("id", "name", "uid", "image", "args", "labels", "rm", "status", "pid"),
    *("created", "started", "finished", "exit", "health", "size", "logSize", "restart", "restarts"),
    "limits",
)
LIMIT_FIELDS = ("memory", "swap", "cpus", "pidsLimit")
HEALTH_FIELDS = ("status", "failingStreak", "log")
EXIT_FIELDS = ("code", "signal", "cause")
# Field of a `ps` template -> its heading in a table.
HEADINGS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "State": "STATE",
    "Status": "STATUS",
    "Names": "NAMES",
    "Labels": "LABELS",
    "Uid": "UID",
    "Pid": "PID",
    "ExitCode": "EXIT CODE",
    "Cause": "CAUSE",
    "Size": "SIZE",
    "RestartPolicy": "RESTART POLICY",
    "RestartCount": "RESTARTS",
}
# Causes that the exit code alone does not tell.
_TOLD_CAUSES = frozenset(("oom", "timeout", "unhealthy", "client-gone", "start-failed", "shim-lost"))

_HEALTH = {
    "starting": " (health: starting)",
    "healthy": " (healthy)",
    "unhealthy": " (unhealthy)",
}


def checked(value: object) -> "dict[str, object]":
    """A container as it came. Raises ProtocolError for what is none."""
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        raise ProtocolError("cannot understand the daemon: it told of a container without an id")
    return value


def record_of(value: object) -> Record:
    """The record of a container; what is absent is None. Raises ProtocolError for what is none."""
    found = checked(value)
    record = Record(dict.fromkeys(FIELDS))
    record.update(found)
    for key, fields in (("exit", EXIT_FIELDS), ("health", HEALTH_FIELDS), ("limits", LIMIT_FIELDS)):
        inner = found.get(key)
        if isinstance(inner, dict):
            record[key] = Record({**dict.fromkeys(fields), **inner})
    return record


class Shown:
    """A container for people; `whole`: nothing is shortened."""

    __slots__ = ("now", "record", "whole")

    def __init__(self, record: "Mapping[str, object]", *, whole: bool, now: float | None = None) -> None:
        self.record = record
        self.whole = whole
        self.now = time.time() if now is None else now

    def text(self, key: str) -> str:
        """A field that is a text; empty where it is none."""
        value = self.record.get(key)
        return value if isinstance(value, str) else ""

    @property
    def id(self) -> str:
        """The id, or its beginning."""
        return self.text("id") if self.whole else self.text("id")[:SHORT_ID]

    @property
    def name(self) -> str:
        """Its one name."""
        return self.text("name")

    @property
    def labels(self) -> Labels:
        """Its labels."""
        found = self.record.get("labels")
        return Labels({str(k): str(v) for k, v in found.items()}) if isinstance(found, dict) else Labels()

    @property
    def command(self) -> str:
        """What it runs, in quotes: words with blanks between, what is not printable as an escape."""
        args = self.record.get("args")
        text = plain(" ".join(map(str, args))) if isinstance(args, list) else ""
        if not self.whole and len(text) > SHORT_COMMAND:
            text = text[: SHORT_COMMAND - 1] + ELLIPSIS
        return f'"{text}"'

    @property
    def exit_code(self) -> int | None:
        """The status that a shell would tell; None while nobody knows one."""
        ended = self.record.get("exit")
        if not isinstance(ended, dict):
            return None
        code, signal = ended.get("code"), ended.get("signal")
        if isinstance(code, int):
            return code
        return 128 + signal if isinstance(signal, int) else None

    @property
    def cause(self) -> str:
        """Why it ended, in the API's words; empty while it has not."""
        ended = self.record.get("exit")
        return str(ended.get("cause") or "") if isinstance(ended, dict) else ""

    @property
    def size(self) -> str:
        """What it has written, as people read it: of its root and, where it has one, of its log. Empty where nobody asked."""
        size, log = self.record.get("size"), self.record.get("logSize")
        if not isinstance(size, int):
            return ""
        return human(size) + (f" (log {human(log)})" if isinstance(log, int) and log else "")

    @property
    def health(self) -> str:
        """`starting`, `healthy` or `unhealthy`; `none` where it has no health check, or was not started."""
        found = self.record.get("health")
        return str(found.get("status")) if isinstance(found, dict) else "none"

    @property
    def status(self) -> str:
        """`Up 3 minutes`, `Exited (0) 2 hours ago`, with the cause where the code alone does not tell it."""
        state = self.text("status")
        if state in ("running", "paused"):
            since = parse(self.record.get("started"))
            up = "Up" if since is None else f"Up {duration(self.now - since)}"
            return f"{up} (Paused)" if state == "paused" else up + _HEALTH.get(self.health, "")
        if state in ("restarting", "stopped"):
            code = self.exit_code
            cause = f" ({self.cause})" if self.cause in _TOLD_CAUSES else ""
            finished = self.record.get("finished")
            when = f" {ago(finished, self.now)}" if finished else ""
            what = "Exited" if state == "stopped" else "Restarting"
            return f"{what} ({'unknown' if code is None else code}){when}{cause}"
        return state.capitalize()

    @property
    def restart_policy(self) -> str:
        """As people write it: `on-failure:3`; `no` without one."""
        from common.restarts import word_of  # late: no column of the usual table

        return word_of(self.record.get("restart"))

    def fields(self) -> Record:
        """What a template of `ps` can ask for."""
        return Record({name: value(self) for name, value in _VALUES.items()})

    def cells(self, names: "Iterable[str]") -> list[str]:
        """The fields of these names, for a table."""
        return [str(_VALUES[name](self)) for name in names]


def _label(container: Shown) -> Method:
    labels = container.labels
    return Method(lambda key: labels.get(key, ""))


# Field of a `ps` template -> its value.
_VALUES: "dict[str, Callable[[Shown], object]]" = {
    "ID": lambda container: container.id,
    "Image": lambda container: container.text("image"),
    "Command": lambda container: container.command,
    "CreatedAt": lambda container: container.text("created"),
    "RunningFor": lambda container: ago(container.record.get("created"), container.now),
    "State": lambda container: container.text("status"),
    "Status": lambda container: container.status,
    "Names": lambda container: container.name,
    "Labels": lambda container: container.labels,
    "Uid": lambda container: container.record.get("uid"),
    "Pid": lambda container: container.record.get("pid"),
    "ExitCode": lambda container: container.exit_code,
    "Cause": lambda container: container.cause,
    "Size": lambda container: container.size,
    "RestartPolicy": lambda container: container.restart_policy,
    "RestartCount": lambda container: container.record.get("restarts") or 0,
    "Label": _label,
}


def heading() -> Record:
    """The values that make a template of `ps` its own heading."""
    return Record({**HEADINGS, "Label": Method(lambda key: key)})
