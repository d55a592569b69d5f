"""Bytes from one descriptor to another, bounded, without ever waiting.

Loaded where a terminal is involved, or who is attached; imports built-in modules. All else is the container's own descriptor and
passes nothing here.
"""

import errno
import fcntl
import posix
import select

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 65536  # bytes held at most
SAFE = select.PIPE_BUF  # bytes that a descriptor which may block takes at once after POLLOUT, pipe(7)
_IN = select.POLLIN | select.POLLHUP | select.POLLERR | select.POLLNVAL
_OUT = select.POLLOUT | select.POLLHUP | select.POLLERR | select.POLLNVAL
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


def never_wait(descriptor: int) -> None:
    """Make a descriptor of our own non-blocking (it is shared by all who hold the open file description)."""
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | posix.O_NONBLOCK)


class Pump:
    """Copies `source` to `target`.

    outward   from the command to the caller: its rest is copied after the exit
    owned     the one of the two that is closed when the copying is over, or -1
    master    `source` is the master of a pty: EIO means that nobody holds the other side *now*
    held      nothing is read for the time being
    watch     sees what was read and says what of it goes on, and whether to leave
    over      called once, when the copying is over

    After each `step`: `eof` (source ended), `broken` (target takes nothing any more), `resting` (a master's other side
    is nobody's), `blocked` (the same, seen in writing to it), `left` (`watch` said so). `resting` and `blocked` are worth
    another look a little later.
    """

    __slots__ = (
        "_data",
        "blocked",
        "broken",
        "eof",
        "held",
        "left",
        "master",
        "outward",
        "over",
        "owned",
        "resting",
        "source",
        "target",
        "watch",
    )

    def __init__(
        self, source: int, target: int, *, outward: bool, owned: int = -1, master: bool = False
    ) -> None:
        self.source = source
        self.target = target
        self.outward = outward
        self.owned = owned
        self.master = master
        self.eof = False
        self.broken = False
        self.resting = False
        self.blocked = False
        self.held = False
        self.left = False
        self.watch: Callable[[bytes], tuple[bytes, bool]] | None = None
        self.over: Callable[[], None] | None = None
        self._data = bytearray()

    def redirect(self, source: int = -1, target: int = -1) -> None:
        """Copy from, or to, another descriptor from now on; the bytes held keep their place."""
        if source >= 0:
            self.source, self.master, self.resting = source, False, False
        if target >= 0:
            self.target, self.blocked = target, False

    def done(self) -> bool:
        """Nothing more will be copied."""
        return self.broken or (self.eof and not self._data)

    def holding(self) -> bool:
        """Bytes wait for the target."""
        return bool(self._data) and not self.broken

    def interest(self, table: dict[int, int]) -> None:
        """Add to `table` what poll(2) should look for."""
        if self.done():
            return
        if not self.eof and not self.resting and not self.held and len(self._data) < CHUNK:
            table[self.source] = table.get(self.source, 0) | select.POLLIN
        if self._data and not self.blocked:
            table[self.target] = table.get(self.target, 0) | select.POLLOUT
        elif self.owned == self.target:
            # POLLERR alone: the reader of the pipe has gone, so what the caller types next is not ours.
            table.setdefault(self.target, 0)

    def step(self, ready: dict[int, int]) -> None:
        """Copy what can be copied now; `ready` is what poll(2) found."""
        if self.done():
            return
        target = ready.get(self.target, 0)
        if self.owned == self.target and target & select.POLLERR:
            self.broken = True
        waits = not (self.eof or self.held or self.broken)
        if waits and len(self._data) < CHUNK and ready.get(self.source, 0) & _IN:
            self._read()
        if not self.broken and self._data and target & _OUT:
            self._write(bool(target & _GONE))
        if self.done():
            self.finish()

    def finish(self) -> None:
        """The copying is over: close what it owns. May be called again."""
        if self.over is not None:
            over, self.over = self.over, None
            over()
        if self.owned >= 0:
            posix.close(self.owned)
            self.owned = -1
            self.broken = True

    def _read(self) -> None:
        try:
            data = posix.read(self.source, CHUNK - len(self._data))
        except BlockingIOError:
            return
        except OSError as err:
            if self.master and err.errno == errno.EIO:
                self.resting = True
                return
            # A terminal that hung up, or is read in the background while SIGTTIN is ignored: EIO.
            data = b""
        self.eof = not data
        if self.watch is not None:
            data, self.left = self.watch(data)
            self.held = self.left
        self._data += data

    def _write(self, gone: bool) -> None:
        waits = not fcntl.fcntl(self.target, fcntl.F_GETFL) & posix.O_NONBLOCK
        try:
            sent = posix.write(self.target, self._data[:SAFE] if waits else self._data)
        except BlockingIOError:
            self.blocked = gone  # else poll(2) would come back at once, for ever
            return
        except OSError:
            self.broken = True
            self._data.clear()
            return
        del self._data[:sent]
