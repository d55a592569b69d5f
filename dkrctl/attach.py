"""`dkrctl attach`: be a client of a running container's terminal, beside others that are.

On the lean path (see lean.py): imports built-in modules and our lean ones.
"""

import posix

from common.errors import BadRequest
from common.options import ATTACH
from dkrctl import stdio
from dkrctl.http import ask_session
from dkrctl.keys import keys_of
from dkrctl.parse import Parsed, parse, utf8
from dkrctl.pump import Pump, never_wait
from dkrctl.report import note
from dkrctl.run import socket_path, status_of
from dkrctl.session import Attendance, Detached, Left, Session
from dkrctl.signals import Signals
from dkrctl.terminal import Terminal

_PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"


def _target(name: str) -> str:
    """The path of the request; a name that no container can have is refused here, where it would be another path."""
    if not name or not all(letter in _PLAIN for letter in name) or name.strip(".") == "":
        raise BadRequest(f"cannot attach to {ascii(name)[1:-1] or 'nothing'}: that is no name and no id")
    return f"/v1/containers/{name}/attach"


class _Attach:
    """One attached client."""

    __slots__ = ("given", "name", "parsed", "terminal", "typed")

    def __init__(self, parsed: Parsed, found: tuple[int, ...]) -> None:
        if len(parsed.rest) != 1:
            raise BadRequest(
                "cannot attach: one container is wanted",
                hint="dkrctl attach [OPTIONS] CONTAINER; see `dkrctl ps`",
            )
        self.parsed = parsed
        self.name = utf8(parsed.rest[0], "argument 1")
        self.given = 0 in found and not parsed.flag("no-stdin")
        keys = keys_of(parsed)
        shown = posix.isatty(1)
        # Keys are read also where they are not passed on: some of them leave.
        self.typed = 0 in found and posix.isatty(0) and (self.given or shown)
        self.terminal = (
            Terminal(1, typed=self.typed, passes=self.given, keys=keys) if self.typed or shown else None
        )

    def go(self, path: str) -> int:
        """Ask, attend; the exit status of the command, or 0 after leaving."""
        signals = Signals()
        container, descriptor = ask_session(path, _target(self.name))
        session = Session(descriptor)
        signals.record()
        if self.typed:
            signals.keep_job_control()
        rows, columns = (self.terminal.size() if self.terminal is not None else None) or (0, 0)
        session.first(
            {
                "type": "attach",
                "container": container,
                "onDisconnect": self.parsed.last("on-disconnect") or "keep",
                "stdin": self.given,
                "height": rows,
                "width": columns,
            },
            [],
        )
        attendance = Attendance(session, signals, [], self.terminal, self._copied, forwards=self.given)
        attendance.wanted = self.name
        try:
            attendance.until_started()
            ended = attendance.until_exit()
        except Left as left:
            return left.status
        except Detached:
            if self.terminal is not None:
                self.terminal.leave()  # first: what follows is a line for people
            if not self.parsed.flag("quiet"):
                note(f"left {self.name}, which runs on; to come back: dkrctl attach {self.name}")
            return 0
        finally:
            if self.terminal is not None:
                self.terminal.leave()
        return status_of(ended)

    def _copied(self, stream: int) -> list[Pump]:
        """What is no terminal here: what comes in goes to the command, what that shows goes out."""
        never_wait(stream)
        pumps = [] if self.terminal is not None else [Pump(stream, 1, outward=True)]
        if self.given and not self.typed:
            pumps.append(Pump(0, stream, outward=False))
        return pumps


def attach(words: list[str], socket: str | None) -> int:
    """`dkrctl attach WORDS...`; `socket` is what was given before the verb. The exit status; raises DkrError."""
    found = stdio.survey()  # first of all: nothing may be opened before
    parsed = parse(ATTACH.options, words, "dkrctl attach")
    if parsed.flag("help"):
        # Late: what the lean path must not load.
        from dkrctl.help import print_command

        return print_command(ATTACH)
    return _Attach(parsed, found).go(socket_path(parsed.last("socket"), socket))
