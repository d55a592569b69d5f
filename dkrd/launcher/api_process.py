"""The api as the launcher sees it: a process it starts without any right, talks to, and starts again.

Nothing the api sends is believed. What does not fit the protocol ends it; a fresh one takes its place, while
clients wait in the listening socket's queue and containers notice nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import time
from dataclasses import dataclass
from functools import partial

from common import frames
from common.errors import HostUnfit, ProtocolError, Unavailable
from dkrd.launcher import runner, wire
from dkrd.runtime import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from dkrd.launcher.loop import Loop
    from dkrd.log import Log
    from dkrd.loop import Timer

_BATCH = 32  # messages read in one go
_HEAD_MAX = 64 * 1024  # bytes of a message's JSON line; the bundle comes after it
_QUICK_SECONDS = 5.0  # a life shorter than this is a failure
_FAILURES_MAX = 3  # in a row, before it was ever ready: then the launcher gives up
_DELAY_MAX = 5.0
_TERM_SECONDS, _KILL_SECONDS = 3.0, 6.0  # of an orderly end
_LISTENER, _CHANNEL = 3, 4
_HIGH = 16  # above every descriptor that is put in its place
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
# It speaks no TLS, but a module of aiohttp's that it never uses reads the host's trust anchors when it is loaded: 50 ms of a start.
_NO_ANCHORS = {"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": "/nonexistent"}
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent", **_NO_ANCHORS}
_PASSED_ON = (
    "JOURNAL_STREAM",
)  # tells that standard error, which the api shares, is the journal; systemd.exec(5)


@dataclass(frozen=True, slots=True)
class Identity:
    """What is to be executed, and as whom."""

    argv: tuple[str, ...]
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the api: its JSON, what came after the line, its descriptors (the receiver's)."""

    body: dict[str, object]
    rest: bytes
    descriptors: list[int]


class ApiProcess:
    """Starts the api, keeps it running, passes messages.

    on_start    called after each start: the first messages are sent here
    on_message  called for each message; raises ProtocolError where the api has to go
    on_end      called once the orderly end asked for by `stop` is reached
    """

    def __init__(self, loop: Loop, log: Log, identity: Identity, listener: int) -> None:
        self._loop = loop
        self._log = log
        self._identity = identity
        self._listener = listener
        self._channel: socket.socket | None = None
        self._sender: wire.Sender | None = None
        self._pidfd = -1
        self._started = 0.0
        self._failures = 0
        self._was_ready = False
        self._stopping = False
        self._timers: list[Timer] = []
        self.pid = 0
        self.gave_up: Unavailable | None = None
        self.on_start: Callable[[], None] = lambda: None
        self.on_message: Callable[[Message], None] = lambda message: None
        self.on_end: Callable[[], None] = lambda: None

    # --- life

    def start(self) -> None:
        """Start the api. Raises HostUnfit where it cannot be executed."""
        try:
            channel, read = self._fork()
        except OSError as err:
            raise HostUnfit(f"cannot fork the api: {err.strerror}", errno=err.errno) from err
        self._started = time.monotonic()
        self._check_exec(read, channel)
        self._channel, self._sender = channel, wire.Sender(channel)
        self._loop.watch(channel.fileno(), select.EPOLLIN, self._on_channel)
        self._loop.watch(self._pidfd, select.EPOLLIN, self._on_end_of_process)
        self._log.info("api started", pid=self.pid)
        self.on_start()

    def _fork(self) -> tuple[socket.socket, int]:
        """Fork the api: our end of its channel, the pipe that brings what fails. Raises OSError."""
        parent = os.getpid()
        with contextlib.ExitStack() as both, contextlib.ExitStack() as undo:
            channel, theirs = wire.pair()
            both.callback(theirs.close)
            undo.callback(channel.close)
            read, write = os.pipe2(os.O_CLOEXEC)
            both.callback(os.close, write)
            undo.callback(os.close, read)
            self.pid = runner.fork(self._loop, lambda: self._become(theirs.fileno(), write, parent))
            self._pidfd = runner.open_child(self.pid)
            undo.pop_all()
        return channel, read

    def _check_exec(self, read: int, channel: socket.socket) -> None:
        """Wait until the child has executed the program: the pipe closes, or brings what failed."""
        with open(read, "rb") as pipe:
            record = pipe.read(4096)
        if not record:
            return
        channel.close()
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1
        raise HostUnfit(
            f"cannot start the api: {record.decode(errors='replace')}",
            hint="run `make install`: it makes the environment that the api runs in",
        )

    def ready(self) -> None:
        """Note that the api serves."""
        self._was_ready = True

    def kill(self, why: str) -> None:
        """End the api at once; a new one follows."""
        if self._pidfd >= 0:
            self._log.error(f"the api is killed: {why}", pid=self.pid)
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._close_channel()

    def stop(self) -> None:
        """End the api in order: its channel closes, later come SIGTERM and SIGKILL; then `on_end` is
        called.
        """
        self._stopping = True
        self._close_channel()
        if self._pidfd < 0:
            self._loop.later(0, self.on_end)
            return
        for seconds, number in ((_TERM_SECONDS, signal.SIGTERM), (_KILL_SECONDS, signal.SIGKILL)):
            self._timers.append(self._loop.later(seconds, partial(self._signal, number)))

    def abandon(self) -> None:
        """End the api at once and for good, and wait for that: the launcher cannot go on."""
        self._stopping = True
        if self._pidfd >= 0:
            self._loop.forget(self._pidfd)
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            os.close(self._pidfd)
            self._pidfd = -1
        self._close_channel()

    def _signal(self, number: int) -> None:
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, number)

    def _on_end_of_process(self, events: int) -> None:
        self._loop.forget(self._pidfd)
        status = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1
        self._close_channel()
        if self._stopping:
            for timer in self._timers:
                timer.cancel()
            self.on_end()
            return
        lived = time.monotonic() - self._started
        self._failures = self._failures + 1 if lived < _QUICK_SECONDS else 0
        ending = f"{status.si_status}" if status is not None else "unknown"
        self._log.error("the api ended", pid=self.pid, status=ending, seconds=round(lived, 3))
        self._again()

    def _again(self) -> None:
        if not self._was_ready and self._failures >= _FAILURES_MAX:
            self.gave_up = Unavailable(
                f"cannot start the api: it ended {self._failures} times before it was ready",
                hint="its own lines in the log say why",
            )
            self._stopping = True
            self.on_end()
            return
        # The first new start comes at once, since clients wait; a defect that repeats must not burn a core.
        delay = min(_DELAY_MAX, 0.1 * 2 ** (self._failures - 2)) if self._failures > 1 else 0.0
        self._loop.later(delay, self._start_again)

    def _start_again(self) -> None:
        if self._stopping:
            return
        try:
            self.start()
        except HostUnfit as err:
            self._failures += 1
            self._log.error(err.message, hint=err.hint)
            self._again()

    # --- messages

    def send(self, message: dict[str, object]) -> None:
        """Send without waiting. Without an api it is dropped: the next one's hello tells what stands."""
        if self._sender is None or self._channel is None:
            return
        try:
            self._sender.send(message)
        except ProtocolError as err:
            self.kill(err.message)
        except OSError:
            return  # it has closed its end; its death is on its way
        else:
            self._watch_channel()

    def answer(self) -> Callable[[dict[str, object]], None]:
        """What sends to the api that is there now: another one would not know what an answer is about."""
        asked = self._sender

        def send(message: dict[str, object]) -> None:
            if self._sender is asked:
                self.send(message)

        return send

    def _watch_channel(self) -> None:
        if self._channel is not None and self._sender is not None and self._sender.waiting:
            events = select.EPOLLIN | select.EPOLLOUT
            self._loop.watch(self._channel.fileno(), events, self._on_channel)

    def _on_channel(self, events: int) -> None:
        if events & select.EPOLLOUT and self._sender is not None and self._channel is not None:
            with contextlib.suppress(OSError):  # reading finds the end
                self._sender.flush()
            if not self._sender.waiting:
                self._loop.watch(self._channel.fileno(), select.EPOLLIN, self._on_channel)
        if events & ~select.EPOLLOUT:
            self._read()

    def _read(self) -> None:
        for _ in range(_BATCH):
            if self._channel is None:
                return
            try:
                received = wire.receive(self._channel)
                if received is None:
                    raise ProtocolError("it closed its channel")
                self._take(*received)
            except BlockingIOError:
                return
            except ProtocolError as err:
                self.kill(err.message)
            except OSError as err:
                self.kill(f"its channel failed: {err.strerror}")

    def _take(self, data: bytes, descriptors: list[int]) -> None:
        head, _, rest = data.partition(b"\n")
        try:
            if len(head) > _HEAD_MAX:
                raise ValueError("the line is too long")
            body = frames.loads_foreign(head)
        except ValueError as err:
            wire.close_all(descriptors)
            raise ProtocolError(f"it sent what is no message: {err}") from None
        self.on_message(Message(body, rest, descriptors))

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._loop.forget(self._channel.fileno())
            self._channel.close()
        self._channel = self._sender = None

    # --- in the child

    def _become(self, channel: int, errors: int, parent: int) -> None:
        """Give up every right, arrange descriptors, execute. What fails goes up the pipe."""
        step = "arrange descriptors"
        try:
            os.setsid()
            _arrange(self._listener, channel, errors)
            os.chdir("/")
            os.umask(0o077)
            step = f"become uid {self._identity.uid}"
            _drop(self._identity.uid, self._identity.gid)
            # An api that hangs must not keep the listener and its database from the next launcher's.
            syscalls.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            step = f"execute {self._identity.argv[0]}"
            passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            os.execve(self._identity.argv[0], self._identity.argv, _ENVIRONMENT | passed)
        except OSError as err:
            os.write(_HIGH, f"{step}: {err.strerror}".encode())
            os._exit(1)


def _arrange(listener: int, channel: int, errors: int) -> None:
    """0 /dev/null, 1 and 2 the log, 3 the listener, 4 the channel, _HIGH the error pipe; all else is
    closed.
    """
    # First all of them out of the way: one may sit where another belongs.
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH + 4) for fd in (listener, channel, errors)]
    os.dup2(moved[2], _HIGH, inheritable=False)
    os.dup2(moved[0], _LISTENER)
    os.dup2(moved[1], _CHANNEL)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(2, 1)
    runner.keep_only((_LISTENER, _CHANNEL, _HIGH))


def _drop(uid: int, gid: int) -> None:
    """Become `uid` with no group but its own, no capability in any set, and no way to gain one;
    capabilities(7).
    """
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as stream:
        last = int(stream.read())
    # The bounding set while CAP_SETPCAP is still there; the change of uid empties permitted and effective.
    for capability in range(last + 1):
        syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    os.setresuid(uid, uid, uid)
    syscalls.capset(0, 0, 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
