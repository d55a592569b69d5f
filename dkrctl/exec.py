"""`dkrctl exec`: a further command in a running container, as if it ran here.

On the lean path (see lean.py): imports built-in modules and our lean ones.
"""

import posix

from common.errors import BadRequest
from common.exec_options import EXEC
from common.frames import dumps
from dkrctl import request as requests
from dkrctl import stdio
from dkrctl.http import ask_session, socket_path, target_of
from dkrctl.parse import Parsed, parse, utf8
from dkrctl.run import Run, load_session

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from dkrctl.session import Attendance
    from dkrctl.terminal import Terminal

_TEXTS = (("workdir", "cwd"), ("user", "user"), ("on-disconnect", "onDisconnect"))


class Exec(Run):
    """One command: what is decided before the daemon is asked."""

    __slots__ = ("_detach", "_name", "_target")

    def __init__(self, parsed: Parsed, path: str, found: tuple[int, ...]) -> None:
        self._detach = bool(parsed.flag("detach"))
        super().__init__(parsed, path, found)
        self._target = target_of(self._name, "exec", "execute in")

    def _build(self) -> dict[str, object]:
        words = [utf8(word, f"argument {place}") for place, word in enumerate(self.parsed.rest, 1)]
        if len(words) < 2:
            raise BadRequest(
                f"cannot execute in {words[0]}: there is no command"
                if words
                else "cannot execute: no container is named",
                hint=f"{EXEC.usage}; see `dkrctl ps`",
            )
        self._name = words.pop(0)
        request: dict[str, object] = {"args": words}
        for long, key in _TEXTS:
            text = self.parsed.last(long)
            if text is not None:
                request[key] = utf8(text, f"--{long}")
        env = requests.environment(self.parsed)
        if env:
            request["env"] = env
        if self._detach:
            self._check_detached()
            request["onDisconnect"] = "keep"
        return request

    def _check_detached(self) -> None:
        if self.parsed.flag("tty") and self.parsed.flag("no-tty"):
            raise BadRequest("cannot give the command a terminal and none: -t and -T")
        for long in ("interactive", "detach-keys", "record", "on-disconnect", "preserve-fds"):
            if self.parsed.last(long) not in (None, "false"):
                raise BadRequest(
                    f"cannot execute with --detach and --{long}: that is for who stays until it ends",
                    hint="leave out one of the two",
                )

    def _let_go(self, fed: bool) -> None:
        if not self._detach:  # else nothing of the caller's has gone along, and the id is still to be printed
            super()._let_go(fed)

    def _typed(self) -> bool:
        # Nobody is there to type, or to look at it: the terminal is the command's all the same, if it is asked for.
        return False if self._detach else super()._typed()

    def _passing(self) -> stdio.Passing:
        if not self._detach:
            return super()._passing()
        passing = stdio.Passing()
        if self.parsed.flag("tty"):
            passing.tty = [0, 1, 2]
            self.request["terminal"] = True
            return passing
        for number in range(3):
            passing.add(number, posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC), made=True)
        return passing

    def _terminal(self, passing: stdio.Passing) -> "Terminal | None":
        return None if self._detach else super()._terminal(passing)

    def _ask(self) -> int:
        return ask_session(self.path, self._target, dumps(self.request), load_session)[1]

    def _head(self, passing: stdio.Passing) -> dict[str, object]:
        return {
            "type": "exec",
            "container": self._name,
            "request": self.request,
            "stdio": passing.numbers,
            "tty": passing.tty,
        }

    def _until_exit(self, attendance: "Attendance") -> "dict[str, object] | int":
        if not self._detach:
            return super()._until_exit(attendance)
        attendance.leave()
        # Late: whoever stays prints nothing here.
        from dkrctl.report import say

        say(1, f"{attendance.executed}\n")
        return 0

    def _detached(self, container: str, terminal: "Terminal | None") -> int:
        if terminal is not None:
            terminal.leave()  # first: what follows is a line for people
        if not self.quiet:
            from dkrctl.report import note

            note(f"left the command in {self._name}, which runs on")
        return 0


def execute(words: list[str], socket: str | None) -> int:
    """`dkrctl exec WORDS...`; `socket` is what was given before the verb. The exit status; raises DkrError."""
    if words and words[0] in ("ls", "kill"):
        # Late: what looks at commands, or ends them, is no command.
        from dkrctl.verbs import dispatch

        return dispatch(f"exec {words[0]}", words[1:], socket)
    found = stdio.survey()  # first of all: nothing may be opened before
    parsed = parse(EXEC.options, words, "dkrctl exec")
    if parsed.flag("help"):
        # Late: what the lean path must not load.
        from dkrctl.help import print_command

        return print_command(EXEC)
    try:
        return Exec(parsed, socket_path(parsed.last("socket"), socket), found).go()
    except BadRequest as error:
        # Late: only an error needs it.
        from dkrctl.wording import in_options

        in_options(error, parsed, EXEC.options)
        raise
