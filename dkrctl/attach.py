"""`dkrctl attach`: be a client of a running container, beside others that are: at its terminal, or with its input and output.

On the lean path (see lean.py): imports built-in modules and our lean ones.
"""

import posix

from common.errors import BadRequest
from common.options import ATTACH
from dkrctl import stdio
from dkrctl.http import ask_session, socket_path, target_of
from dkrctl.keys import keys_of
from dkrctl.parse import Parsed, parse, utf8
from dkrctl.pump import Pump, never_wait
from dkrctl.report import note
from dkrctl.run import pidfile_of, status_of
from dkrctl.session import Attendance, Detached, Left, Session
from dkrctl.signals import Signals
from dkrctl.terminal import Terminal


class Attachment:
    """One client of the container `name`, attached while it runs or, with `starts`, in the moment of its start.

    given  what comes in here goes to the command

    Made before the daemon is asked; raises BadRequest.
    """

    __slots__ = (
        "_given",
        "_name",
        "_parsed",
        "_pidfile",
        "_starts",
        "_terminal",
        "_typed",
        "ended",
        "vanished",
    )

    def __init__(
        self, name: str, parsed: Parsed, found: tuple[int, ...], *, given: bool, starts: bool = False
    ) -> None:
        self._name = name
        self._parsed = parsed
        self._starts = starts
        self.vanished = parsed.last("on-disconnect") or "keep"  # what follows when this client does
        self.ended: dict[str, object] = {}  # how the command did, once it has
        self._pidfile = pidfile_of(parsed) if starts else None
        self._given = given and 0 in found
        keys = keys_of(parsed)
        shown = posix.isatty(1)
        # Keys are read also where they are not passed on: some of them leave.
        self._typed = 0 in found and posix.isatty(0) and (self._given or shown)
        self._terminal = (
            Terminal(1, typed=self._typed, passes=self._given, keys=keys) if self._typed or shown else None
        )
        record = parsed.last("record")
        if record is not None and self._terminal is None:
            raise BadRequest("cannot record: there is no terminal here")
        if self._terminal is not None:
            self._terminal.record(record)

    def go(self, path: str, target: str) -> int:
        """Ask the daemon at `path` for a session by POST `target`, attend; the exit status of the command, or 0 after leaving."""
        try:
            return self._go(path, target)
        finally:
            if self._pidfile is not None:
                self._pidfile.close()
            if self._terminal is not None:
                self._terminal.leave()

    def _go(self, path: str, target: str) -> int:
        signals = Signals()
        container, descriptor = ask_session(path, target)
        session = Session(descriptor)
        signals.record()
        if self._typed:
            signals.keep_job_control()
        rows, columns = (self._terminal.size() if self._terminal is not None else None) or (0, 0)
        session.first(
            {
                "type": "attach",
                "container": container,
                "onDisconnect": self.vanished,
                "stdin": self._given,
                "height": rows,
                "width": columns,
            },
            [],
        )
        # Who starts a container stands for it, as in a run; who comes to one that runs is one of several.
        forwards, alone = self._given or self._starts, not self._starts
        attendance = Attendance(
            session, signals, [], self._terminal, self._join, forwards=forwards, alone=alone
        )
        attendance.wanted = self._name
        if self._pidfile is not None:
            attendance.on_started = self._pidfile.fill
        try:
            attendance.until_started()
            self.ended = attendance.until_exit()
            if self._pidfile is not None:
                self._pidfile.remove()
        except Left as left:
            return left.status
        except Detached:
            if self._terminal is not None:
                self._terminal.leave()  # first: what follows is a line for people
            if not self._parsed.flag("quiet"):
                note(f"left {self._name}, which runs on; to come back: dkrctl attach {self._name}")
            return 0
        return status_of(self.ended)

    def _join(
        self, session: Session, frame: dict[str, object], streams: list[int]
    ) -> tuple[Terminal | None, list[Pump]]:
        """What is attended from the frame `attached` on: the terminal, and what to copy."""
        takes = frame.get("input") is not False
        for stream in streams:
            never_wait(stream)
        if len(streams) == 2:
            if self._terminal is not None and self._terminal.records:
                raise BadRequest(
                    f"cannot record: {self._name} has no terminal",
                    hint="it runs; dkrctl logs shows what it has written",
                )
            # Late: a terminal does not need it.
            from dkrctl.streams import copied

            return copied(streams, self._terminal if self._typed else None, given=self._given and takes)
        [stream] = streams
        terminal = self._terminal
        pumps = [Pump(stream, 1, outward=True)]
        if terminal is not None:
            pumps = terminal.begin(session, stream=stream, whole=takes)
        if self._given and not self._typed:
            pumps.append(Pump(0, stream, outward=False))  # no terminal here: what comes in is typed
        return self._terminal, pumps


def attach(words: list[str], socket: str | None) -> int:
    """`dkrctl attach WORDS...`; `socket` is what was given before the verb. The exit status; raises DkrError."""
    found = stdio.survey()  # first of all: nothing may be opened before
    parsed = parse(ATTACH.options, words, "dkrctl attach")
    if parsed.flag("help"):
        # Late: what the lean path must not load.
        from dkrctl.help import print_command

        return print_command(ATTACH)
    if len(parsed.rest) != 1:
        raise BadRequest(
            "cannot attach: one container is wanted",
            hint="dkrctl attach [OPTIONS] CONTAINER; see `dkrctl ps`",
        )
    name = utf8(parsed.rest[0], "argument 1")
    attachment = Attachment(name, parsed, found, given=not parsed.flag("no-stdin"))
    return attachment.go(socket_path(parsed.last("socket"), socket), target_of(name, "attach", "attach to"))
