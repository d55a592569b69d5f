"""The plan of a dry run (docs/protocol.md, section 7) for people."""

from collections.abc import Iterator
from typing import Any

from dkrctl.cells import plain
from dkrctl.lines import BOLD, Repeats, indented, paint, wrap

Json = dict[str, Any]

_RIGHTS = {"admin": "an administrator", "tenant": "a tenant"}
_LABEL = 16  # columns of what stands in front


def text(plan: Json, width: int, *, coloured: bool = False) -> str:
    """The whole text."""
    return "\n".join(_Page(plan, max(width, 40), coloured).lines()) + "\n"


class _Page:
    def __init__(self, plan: Json, width: int, coloured: bool) -> None:
        self.plan = plan
        self.width = width
        self.coloured = coloured

    def lines(self) -> Iterator[str]:
        process, end = self._part("process"), self._part("end")
        yield from indented("What this run would do. Nothing of it was done.", self.width, 0)
        yield from self._title("Container")
        asks = self.plan.get("asks")
        yield from self._entry("name", self.plan.get("name"))
        yield from self._entry(
            "owner",
            f"uid {self.plan.get('uid')}, with the rights of {_RIGHTS.get(str(self.plan.get('rights')))}",
        )
        if asks:
            yield from self._entry("asked for", _words(asks))
        root = self._part("root")
        yield from self._entry(
            "root", f"{root.get('name')}, {'read-only' if root.get('readonly') else 'writable'}"
        )
        yield from self._entry("id map", self._ids())
        yield from self._entry("namespaces", self._namespaces())
        yield from self._title("Process")
        yield from self._entry("exec", process.get("exec"))
        yield from self._entry("user", self._user(process))
        yield from self._entry("directory", process.get("cwd"))
        if process.get("hostname") is not None:
            yield from self._entry("host name", process.get("hostname"))
        yield from self._entry("environment", _words(process.get("env")))
        terminal = process.get("terminal")
        yield from self._entry("terminal", f"one of its own, as {_words(terminal)}" if terminal else "none")
        if process.get("preserveFds"):
            yield from self._entry("descriptors", f"0 to 2, and {process.get('preserveFds')} from 3 on")
        yield from self._entry(
            "process 1", "dkr's init, the command is its child" if process.get("init") else "the command"
        )
        yield from self._entry("output", self._output())
        if self._part("health"):
            yield from self._entry("health", self._health(self._part("health")))
        yield from self._entry("end", self._end(end))
        yield from self._title("Rights")
        sets: dict[str, list[str]] = {}
        for name, capabilities in self._part("capabilities").items():
            sets.setdefault(_words(capabilities), []).append(name)
        for words, names in sets.items():
            yield from self._entry("capabilities", f"{', '.join(names)}: {words}")
        yield from self._entry(
            "new privileges", "none" if process.get("noNewPrivileges") else "as execve gives"
        )
        yield from self._entry("filter", self._filter())
        yield from self._calls("Files, in this order", self.plan.get("files"))
        yield from self._calls("Cgroup", self.plan.get("cgroup"))
        yield from self._mounts()

    def _part(self, key: str) -> Json:
        value = self.plan.get(key)
        return value if isinstance(value, dict) else {}

    def _ids(self) -> str:
        maps = self.plan.get("idMaps")
        if not isinstance(maps, list) or not maps:
            return "none: the host's user namespace"
        first = maps[0]
        return f"a free range, e.g. {first.get('containerID')} {first.get('hostID')} {first.get('size')}"

    def _namespaces(self) -> str:
        found: dict[str, list[str]] = {}
        for name, scope in self._part("namespaces").items():
            found.setdefault(str(scope), []).append(plain(name))
        words = {"own": "its own", "host": "the host's"}
        return "; ".join(f"{words.get(scope, scope)}: {', '.join(names)}" for scope, names in found.items())

    def _user(self, process: Json) -> str:
        more = process.get("additionalGids")
        groups = f", groups {', '.join(map(str, more))}" if isinstance(more, list) and more else ""
        return f"{process.get('user')}{groups}"

    def _output(self) -> str:
        log = self._part("log")
        driver = log.get("driver")
        if driver == "passthrough":
            return "to its caller's own descriptors, and kept nowhere"
        if driver == "none":
            return "to who is attached, and kept nowhere"
        parts = [f"to who is attached, and kept by the log driver {driver}"]
        if log.get("maxFiles") is not None:
            parts.append(f"{log.get('maxFiles')} files of {log.get('maxSize')} bytes")
        if log.get("tag") is not None:
            parts.append(f"tag {log.get('tag')}")
        held = (
            "the command waits" if log.get("mode") == "blocking" else f"{log.get('maxBufferSize')} bytes wait"
        )
        return "; ".join([*parts, f"while the log takes nothing {held}"])

    def _health(self, check: Json) -> str:
        probe = next(
            (f"{key} {_words(check[key])}" for key in ("args", "http", "tcp") if check.get(key)), "none"
        )
        parts = [
            f"{probe}, every {check.get('interval')} s, at most {check.get('timeout')} s long",
            f"unhealthy after {check.get('retries')} that fail",
        ]
        if check.get("startPeriod"):
            parts.append(
                f"in the first {check.get('startPeriod')} s none counts, and one is made every {check.get('startInterval')} s"
            )
        return "; ".join([*parts, f"then: {check.get('onFailure')}"])

    def _end(self, end: Json) -> str:
        parts = ["removed when it ends" if end.get("rm") else "kept when it ends"]
        if end.get("timeout") is not None:
            parts.append(f"stopped after {end.get('timeout')} s")
        parts.append(
            f"a stop is signal {end.get('stopSignal')}, and SIGKILL after {end.get('stopTimeout')} s"
        )
        parts.append(f"when the client vanishes: {end.get('onDisconnect')}")
        policy = end.get("restart")
        if isinstance(policy, dict):
            retries = f", at most {policy['retries']} times" if "retries" in policy else ""
            parts.append(f"started again by its policy {policy.get('policy')}{retries}")
        return "; ".join(parts)

    def _filter(self) -> str:
        f = self._part("seccomp")
        return (
            f"{f.get('profile')}: {f.get('allowed')} system calls allowed, {f.get('checked')} by an argument, "
            f"{f.get('refused')} refused (EPERM), all others {f.get('default')}; {f.get('instructions')} instructions"
        )

    def _mounts(self) -> Iterator[str]:
        mounts = self.plan.get("mounts")
        entries = [m for m in mounts if isinstance(m, dict)] if isinstance(mounts, list) else []
        yield from self._title("Mounts, in this order")
        repeats = Repeats()
        for number, entry in enumerate(entries, 1):
            step = plain(str(entry.get("step", "")))
            calls = plain(str(entry.get("call", ""))).split("; ")
            short = repeats.short(step, calls)
            yield from self._labelled(f"{number:3}  {step}", calls if short is None else [short])
        omitted = self.plan.get("omitted")
        if isinstance(omitted, int):
            yield f"     {omitted} more are not shown"

    def _calls(self, title: str, calls: object) -> Iterator[str]:
        yield from self._title(title)
        for call in calls if isinstance(calls, list) else []:
            yield from indented(plain(str(call)), self.width, 5, 4)

    def _title(self, title: str) -> Iterator[str]:
        yield ""
        yield paint(title, BOLD, coloured=self.coloured)

    def _entry(self, label: str, value: object) -> Iterator[str]:
        yield from self._labelled(f"  {label}", [plain(str(value))])

    def _labelled(self, label: str, texts: list[str]) -> Iterator[str]:
        indent = _LABEL + 4
        room = self.width - indent
        lines = [line for text in texts for line in wrap(text, room, room)]
        for place, line in enumerate(lines or [""]):
            yield (label.ljust(indent) if place == 0 else " " * indent) + line


def _words(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
