"""`dkrctl run`: a command in a new container, as if it ran here.

On the lean path (see lean.py): imports built-in modules and our lean ones.
"""

import posix

from common.errors import BadRequest, Internal
from common.options import RUN
from dkrctl import request as requests
from dkrctl import stdio
from dkrctl.http import ask_run, socket_path
from dkrctl.parse import Parsed, parse
from dkrctl.signals import Signals

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from dkrctl.pidfile import Pidfile
    from dkrctl.sdnotify import Manager
    from dkrctl.session import Attendance
    from dkrctl.terminal import Terminal


_ENDS = {
    "oom": "the command ran out of memory: the kernel ended it",
    "unhealthy": "the container was unhealthy: --health-on-failure ended it",
}


def status_of(ended: dict[str, object]) -> int:
    """The exit status for how a command ended: its code, or 128 and the signal. Raises Internal where neither is told."""
    cause, code, signal = ended.get("cause"), ended.get("code"), ended.get("signal")
    if isinstance(code, int) and not isinstance(code, bool):
        return code & 0xFF
    if isinstance(signal, int) and 0 < signal < 128:
        return 128 + signal
    raise Internal(f"cannot tell how the command ended: {cause!a}, without a code or a signal")


def is_typed(parsed: Parsed, found: tuple[int, ...]) -> bool:
    """Whether the command gets a terminal to type at: where asked for, or where input and output are one here. Raises BadRequest."""
    wanted = parsed.flag("tty")
    if parsed.flag("no-tty"):
        if wanted:
            raise BadRequest("cannot give the command a terminal and none: -t and -T")
        return False
    input_given = parsed.flag("interactive") is not False
    if wanted and not input_given:
        raise BadRequest("cannot give the command a terminal without input: -t and --interactive=false")
    if wanted is None:
        wanted = input_given and found[:2] == (0, 1) and posix.isatty(0) and posix.isatty(1)
    return wanted


def remark(cause: object, limit: object) -> None:
    """Tell of an end that neither the command nor the caller brought about. `limit`: the request's timeout."""
    if cause not in ("timeout", *_ENDS):
        return
    # Late: an ordinary end says nothing.
    from dkrctl.report import note

    if cause != "timeout":
        note(_ENDS[str(cause)])
        return
    shown = f" of {limit:g} s" if isinstance(limit, float) else ""
    note(f"the time limit{shown} ended the command")


class Cidfile:
    """The file of `--cidfile`: made before the daemon is asked, filled at the start, removed without one."""

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: str) -> None:
        """Raises BadRequest where it exists or cannot be made."""
        self._path = path
        try:
            self._descriptor = posix.open(
                path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC | posix.O_NOCTTY, 0o644
            )
        except FileExistsError as err:
            raise BadRequest(
                f"cannot write the id to {ascii(path)[1:-1]}: the file exists",
                hint="its container may still run; remove the file, or name another",
            ) from err
        except OSError as err:
            cause = (err.strerror or str(err)).lower()
            raise BadRequest(f"cannot write the id to {ascii(path)[1:-1]}: {cause}", errno=err.errno) from err

    def fill(self, container: str) -> None:
        """Write the id. Raises BadRequest where that fails, as on a full disk."""
        try:
            posix.write(self._descriptor, container.encode("ascii", "replace"))
        except OSError as err:
            cause = (err.strerror or str(err)).lower()
            raise BadRequest(
                f"cannot write the id to {ascii(self._path)[1:-1]}: {cause}",
                hint=f"the container is {container[:12]}",
                errno=err.errno,
            ) from err
        posix.close(self._descriptor)
        self._descriptor = -1

    def withdraw(self) -> None:
        """Remove the file unless it was filled."""
        if self._descriptor < 0:
            return
        posix.close(self._descriptor)
        self._descriptor = -1
        try:
            posix.unlink(self._path)
        except FileNotFoundError:
            return  # somebody tidied up


def pidfile_of(parsed: Parsed) -> "Pidfile | None":
    """What `--pidfile` wants written, if it was given. Raises BadRequest."""
    path = parsed.last("pidfile")
    if path is None:
        return None
    # Late: most have none.
    from dkrctl.pidfile import Pidfile

    return Pidfile(path)


def load_session() -> None:
    """Load what is needed once there is a session: half a millisecond that the daemon needs longer anyway."""
    __import__("dkrctl.session")


_ROOT = ["rootfs", "mntns"]  # what the descriptors of --rootfs are, in their order


class Run:
    """One run: what is decided before the daemon is asked. `exec` differs in what it overrides (exec.py)."""

    __slots__ = (
        "attendance",
        "cidfile",
        "extra",
        "found",
        "manager",
        "parsed",
        "path",
        "pidfile",
        "quiet",
        "request",
        "root",
        "typed",
    )

    def __init__(self, parsed: Parsed, path: str, found: tuple[int, ...]) -> None:
        self.parsed = parsed
        self.path = path
        self.found = found
        self.quiet = bool(parsed.flag("quiet"))
        # Before anything else is opened: a descriptor of the client's own must not pass for the caller's.
        self.extra, listening = self._extra()
        self.request = self._build()
        if listening:
            self._announce(listening)
        if self.extra:
            self.request["preserveFds"] = len(self.extra)
        self.root = self._root()
        self.typed = self._typed()
        self.cidfile: Cidfile | None = None
        self.pidfile: Pidfile | None = None
        self.manager = self._manager()
        self.attendance: Attendance | None = None

    def _build(self) -> dict[str, object]:
        """The request, but for what depends on the caller's descriptors."""
        wish = requests.restart_wish(self.parsed)
        if wish:
            raise BadRequest(
                f"cannot run with --{wish}: this input and output are there for one run alone",
                hint="add --detach; or use dkrctl create, and start it then",
            )
        return requests.build(self.parsed)

    def _extra(self) -> tuple[list[int], dict[str, str]]:
        count, listening = stdio.handed_on(requests.preserved(self.parsed))
        most = requests.most_preserved(self.parsed)
        if count > most:
            raise BadRequest(f"cannot pass {count} descriptors: LISTEN_FDS names more than {most}")
        return stdio.beyond(count), listening

    def _announce(self, listening: dict[str, str]) -> None:
        """Tell the command of the sockets it inherits. LISTEN_PID is set inside, where the command's pid is known."""
        env = self.request.get("env")
        given = env if isinstance(env, dict) else {}
        self.request["env"] = {**listening, **given}

    def _root(self) -> list[int]:
        """The descriptors for `--rootfs`."""
        path = self.parsed.last("rootfs")
        if path is None:
            return []
        # Late: another 0.15 ms that most runs need not pay.
        from dkrctl.rootfs import bring

        self.request["rootfs"], descriptors = bring(path)
        return descriptors

    def _manager(self) -> "Manager | None":
        """The service manager, where it is to be told of this run."""
        way = self.parsed.last("sdnotify")
        if way is None:
            return None
        # Late: most runs have no unit.
        from dkrctl.sdnotify import told_by

        return told_by(way, self.request)

    def _typed(self) -> bool:
        return is_typed(self.parsed, self.found)

    def _terminal(self, passing: stdio.Passing) -> "Terminal | None":
        """The caller's terminal as the command's own will be shown on it; None where it has none."""
        keys = b""
        if self.typed or self.parsed.last("detach-keys") is not None:
            from dkrctl.keys import keys_of

            keys = keys_of(self.parsed)
        record = self.parsed.last("record")
        if not passing.tty:
            if record is not None:
                raise BadRequest("cannot record: the command has no terminal", hint="give it one: -t")
            return None
        from dkrctl.terminal import Terminal

        terminal = Terminal(passing.shown, typed=self.typed, keys=keys)
        terminal.record(record)
        self.request["terminal"] = True
        size = terminal.size()
        if size is not None:
            self.request["consoleSize"] = {"height": size[0], "width": size[1]}
        return terminal

    def go(self) -> int:
        """Ask, start, attend, and tell what is to be told; the exit status."""
        if self.parsed.flag("dry-run"):
            return self._plan()
        if self.parsed.last("format") is not None and not self.parsed.flag("explain"):
            raise BadRequest("cannot take --format: it is for --explain and --dry-run")
        try:
            return self._attend()
        finally:
            # Of a start that failed as well: its error comes behind.
            if self.attendance is not None and self.attendance.trace is not None:
                from dkrctl.explain import tell

                tell(self.attendance.trace, self.parsed.last("format"))

    def _plan(self) -> int:
        from dkrctl import dry_run

        if self.parsed.last("record") is not None:
            raise BadRequest("cannot record a run that does not take place: --dry-run and --record")
        if self.parsed.flag("explain"):
            raise BadRequest("cannot explain a start that does not take place: --dry-run and --explain")
        dry_run.check(self.parsed.last("format"), self.parsed.last("cidfile"))
        own = not self.parsed.flag("no-tty")
        tty = [0, 1] if self.typed else [n for n in (1, 2) if own and n in self.found and posix.isatty(n)]
        if tty:
            self.request["terminal"] = True
        frame = {
            "asks": requests.asks(self.request),
            "stdio": [],
            "tty": tty,
            "root": _ROOT[: len(self.root)],
        }
        first = {"type": "start", "request": self.request, **frame}
        return dry_run.run(self.path, first, self.extra + self.root, self.parsed.last("format"))

    def _passing(self) -> stdio.Passing:
        """What the command gets of the caller's 0-2."""
        given = self.parsed.flag("interactive") is not False
        own = not self.parsed.flag("no-tty")
        return stdio.prepare(self.found, give_input=given, typed=self.typed, own=own)

    def _ask(self) -> int:
        """Ask the daemon; the descriptor of the session."""
        return ask_run(self.path, self.request, load_session)[1]

    def _head(self, passing: stdio.Passing) -> dict[str, object]:
        """The first frame."""
        return {
            "type": "start",
            "request": self.request,
            "asks": requests.asks(self.request),
            "stdio": passing.numbers,
            "tty": passing.tty,
            "want": (["trace"] if self.parsed.flag("explain") else []) + self._told(),
            "root": _ROOT[: len(self.root)],
        }

    def _told(self) -> list[str]:
        """What of the container the service manager is told."""
        if self.manager is None:
            return []
        return ["notify"] if self.manager.by_container else ["health"]

    def _attend(self) -> int:
        signals = Signals()
        passing = self._passing()
        terminal = self._terminal(passing)
        cidfile = self.parsed.last("cidfile")
        try:
            if cidfile is not None:
                self.cidfile = Cidfile(cidfile)
            self.pidfile = pidfile_of(self.parsed)
            ended = self._attend_session(self._ask(), signals, passing, terminal)
        finally:
            if terminal is not None:
                terminal.leave()
            if self.cidfile is not None:
                self.cidfile.withdraw()
            if self.pidfile is not None:
                self.pidfile.close()
        if isinstance(ended, int):
            return ended
        if self.pidfile is not None:
            self.pidfile.remove()
        return self._status(ended)

    def _attend_session(
        self, descriptor: int, signals: Signals, passing: stdio.Passing, terminal: "Terminal | None"
    ) -> "dict[str, object] | int":
        """Send the first frame, and attend until the command has ended: its exit; a status where we leave before."""
        from dkrctl.session import Attendance, Detached, Left, Session

        container = ""
        try:
            session = Session(descriptor)
            signals.record()
            if self.typed:
                signals.keep_job_control()
            session.first(self._head(passing), passing.descriptors + self.extra + self.root)
            passing.sent()
            self._let_go(passing.fed)
            attendance = self.attendance = Attendance(session, signals, [*passing.pumps], terminal)
            if self.pidfile is not None:
                attendance.on_started = self.pidfile.fill
            if self.manager is not None:
                attendance.on_health = self.manager.health
                attendance.on_notify = self.manager.relay if self.manager.by_container else None
            container = attendance.until_started()
            if self.cidfile is not None and container:
                self.cidfile.fill(container)
            return self._until_exit(attendance)
        except Left as left:
            return left.status
        except Detached:
            return self._detached(container, terminal)

    def _until_exit(self, attendance: "Attendance") -> "dict[str, object] | int":
        return attendance.until_exit()

    def _let_go(self, fed: bool) -> None:
        """Hold none of what the command has now: a pipe it closes must be closed, as if no client stood
        beside it.

        stderr stays, for messages; and what the client copies itself.
        """
        for descriptor in self.extra + self.root:
            posix.close(descriptor)
        if self.typed:
            return
        null = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
        if not fed:
            posix.dup2(null, 0, False)
        if not posix.isatty(1):
            posix.dup2(null, 1, False)
        posix.close(null)

    def _detached(self, container: str, terminal: "Terminal | None") -> int:
        if terminal is not None:
            terminal.leave()  # first: what follows is a line for people
        if not self.quiet:
            from dkrctl.report import note

            name = self.parsed.last("name") or container[:12]
            note(f"left {name}, which runs on; to come back: dkrctl attach {name}")
        return 0

    def _status(self, ended: dict[str, object]) -> int:
        if not self.quiet:
            remark(ended.get("cause"), self.request.get("timeout"))
        return status_of(ended)


def run(words: list[str], socket: str | None) -> int:
    """`dkrctl run WORDS...`; `socket` is what was given before the verb. The exit status; raises DkrError."""
    found = stdio.survey()  # first of all: nothing may be opened before
    parsed = parse(RUN.options, words, "dkrctl run")
    if parsed.flag("help"):
        # Late: what the lean path must not load.
        from dkrctl.help import print_command

        return print_command(RUN)
    try:
        return _run(parsed, socket_path(parsed.last("socket"), socket), found)
    except BadRequest as error:
        # Late: only an error needs it.
        from dkrctl.wording import in_options

        in_options(error, parsed, RUN.options)
        raise


def _run(parsed: Parsed, socket: str, found: tuple[int, ...]) -> int:
    if parsed.flag("detach"):
        # Late: no client stands for that command, and none of what is below is needed.
        from dkrctl.detached import run_detached

        return run_detached(parsed, socket, found)
    if parsed.last("log-driver") in ("json-file", "journald"):
        # Late as well: its guardian stands between, so it is none of the quick ones.
        from dkrctl.kept_run import run_kept

        return run_kept(parsed, socket, found)
    return Run(parsed, socket, found).go()
