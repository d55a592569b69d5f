"""Which of the caller's descriptors go along, and in what shape.

On the lean path (see lean.py): imports built-in modules and errors; the pump only where a terminal has to be
fed.

A terminal is never passed, not even opened again for writing only: by ioctl the command could switch the echo off, take the
terminal for itself, change what its characters mean. Where the command has no terminal of its own to type at, its stdout and
stderr get one for output only, whose other side the client copies to the caller's; stdin goes through a pipe that the client
feeds. With -T all three are pipes.
"""

import fcntl
import posix

from common.errors import BadRequest, HostUnfit

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from dkrctl.pump import Pump

_S_IFMT = 0o170000  # inode(7)
_S_IFDIR = 0o040000
_S_IFIFO = 0o010000
_TIOCGPTN = 0x80045430  # ioctl_tty(2); works on the master of a pty only
_TIOCGDEV = 0x80045432  # ioctl_tty(2): the device, also behind /dev/tty
_NAMES = ("stdin", "stdout", "stderr")


def is_open(descriptor: int) -> bool:
    """Whether the process has this descriptor."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def survey(*, prints: bool = False) -> tuple[int, ...]:
    """Which of 0-2 the caller has; the others are filled with /dev/null for as long as the client runs.

    prints  it is this client that writes to 1: where the caller has none, that is to fail, not to be lost

    To be called before anything is opened: a socket of the client's that landed on 1 would get the command's
    output.
    """
    found = tuple(n for n in (0, 1, 2) if is_open(n))
    for number in range(3):
        if number not in found:
            way = posix.O_RDONLY if prints and number == 1 else posix.O_RDWR
            try:
                posix.open("/dev/null", way | posix.O_CLOEXEC)  # takes the lowest: `number`
            except OSError as err:
                raise HostUnfit(
                    f"cannot keep {_NAMES[number]} closed: /dev/null does not open", errno=err.errno
                ) from err
    return found


def beyond(count: int) -> list[int]:
    """Descriptors 3 to 2+count; BadRequest names one that is not open, or is the terminal the caller is at. Call
    before anything is opened.
    """
    numbers = list(range(3, 3 + count))
    for number in numbers:
        check_passable(number)
    return numbers


def check_passable(number: int) -> None:
    """BadRequest where a descriptor is not open, or is the terminal the caller is at."""
    if not is_open(number):
        raise BadRequest(
            f"cannot pass descriptor {number}: it is not open",
            hint="--preserve-fds N passes 3 to 2+N; open them as in `3<file`",
        )
    if posix.isatty(number) and not _is_master(number) and _is_here(number):
        raise BadRequest(
            f"cannot pass descriptor {number}: it is the terminal you are at",
            hint="what is typed could be read from it; 0 to 2 are shown here from a terminal of the command's own",
        )


def _is_here(number: int) -> bool:
    """Whether a terminal is the controlling one of this process, or one of 0-2. Another, as a serial line, is the caller's to give."""
    try:
        posix.tcgetpgrp(number)
    except OSError:
        return any(posix.isatty(n) and device_of(n) == device_of(number) for n in (0, 1, 2))
    return True


def _is_master(number: int) -> bool:
    """Whether a terminal is the master of a pty: what is behind it is another terminal."""
    try:
        fcntl.ioctl(number, _TIOCGPTN, b"\0\0\0\0")
    except OSError:
        return False
    return True


def handed_on(given: int) -> tuple[int, dict[str, str]]:
    """Sockets that systemd or its like passed to this process: how many descriptors from 3 on, and the
    variables.

    `given` is what `--preserve-fds` asked for; the larger counts. By sd_listen_fds(3) LISTEN_PID says for
    whom they are: what was meant for another process stays here.
    """
    environ = posix.environ
    count = environ.get(b"LISTEN_FDS", b"")
    if not count.isdigit() or len(count) > 3 or environ.get(b"LISTEN_PID") != b"%d" % posix.getpid():
        return given, {}
    env = {"LISTEN_FDS": str(int(count))}
    names = environ.get(b"LISTEN_FDNAMES")
    if names is not None and names.isascii():
        env["LISTEN_FDNAMES"] = names.decode("ascii")
    return max(given, int(count)), env


class Passing:
    """What goes along with the first frame.

    numbers      for which of 0-2 a descriptor is sent
    tty          which of 0-2 are the command's own terminal
    shown        the descriptor on which that is shown
    descriptors  for each of `numbers`, what is sent
    made         those of them that were made here; closed once they are sent
    pumps        what the client has to copy
    fed          stdin is read by the client itself
    """

    __slots__ = ("_relays", "descriptors", "fed", "made", "numbers", "pumps", "shown", "tty")

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.descriptors: list[int] = []
        self.made: list[int] = []
        self.pumps: list[Pump] = []
        self.tty: list[int] = []
        self.shown = -1
        self.fed = False
        self._relays: dict[bytes, int] = {}

    def add(self, number: int, descriptor: int, *, made: bool = False) -> None:
        """`descriptor` becomes the command's `number`."""
        self.numbers.append(number)
        self.descriptors.append(descriptor)
        if made:
            self.made.append(descriptor)

    def show(self, number: int) -> bool:
        """Have `number`, a terminal, be shown from the command's own; False where that one is shown on another."""
        if self.shown < 0:
            self.shown = number
        elif posix.isatty(self.shown) and device_of(self.shown) != device_of(number):
            return False
        self.tty.append(number)
        return True

    def relay(self, number: int) -> None:
        """Output for a terminal through a pipe that the client empties: one for all that go to one terminal, to keep their order."""
        from dkrctl.pump import Pump

        device = device_of(number)
        if device not in self._relays:
            reader, writer = posix.pipe2(posix.O_CLOEXEC)
            _open_up(writer, posix.fstat(writer))
            self._relays[device] = writer
            self.made.append(writer)
            again = open_terminal(number, posix.O_WRONLY)
            self.pumps.append(Pump(reader, again if again >= 0 else number, outward=True, owned=reader))
        self.add(number, self._relays[device])

    def sent(self) -> None:
        """Close what was made for sending."""
        for descriptor in self.made:
            posix.close(descriptor)
        self.made = []


def prepare(found: tuple[int, ...], *, give_input: bool, typed: bool, own: bool) -> Passing:
    """How 0-2 are passed.

    found       those the caller has
    give_input  else the command's stdin is /dev/null
    typed       the command has a terminal of its own to type at: 0, 1 unless it is closed, and 2 if that is one here
    own         terminals become one of the command's own for output, else pipes

    Raises BadRequest for a directory or an O_PATH descriptor.
    """
    passing = Passing()
    if typed:
        passing.tty = [0]
        if 1 in found:
            passing.tty, passing.shown = [0, 1], 1
    for number in found:
        if number in passing.tty:
            continue
        if number == 0 and not give_input:
            passing.add(0, posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC), made=True)
            continue
        status = posix.fstat(number)
        mode = fcntl.fcntl(number, fcntl.F_GETFL)
        if status.st_mode & _S_IFMT == _S_IFDIR or mode & posix.O_PATH:
            what = "an O_PATH descriptor" if mode & posix.O_PATH else "a directory"
            raise BadRequest(
                f"cannot pass {_NAMES[number]}: it is {what}",
                hint="give it a file, a pipe, a socket or a terminal",
            )
        if posix.isatty(number):
            if number == 0:
                _add_input(passing, mode)
            elif not (typed or own) or not passing.show(number):
                passing.relay(number)
            continue
        if number and status.st_mode & _S_IFMT == _S_IFIFO:
            _open_up(number, status)
        passing.add(number, number)
    if typed and passing.shown < 0:
        passing.shown = 1  # closed at the caller's, and ours is /dev/null
    return passing


def _open_up(number: int, status: posix.stat_result) -> None:
    """Let /dev/stdout be opened again inside: the pipe belongs to the caller's uid, which the container does
    not have.

    Only an anonymous pipe, which no path leads to except /proc/PID/fd, and never the one the command reads
    from: who may write there may speak in the caller's name. The owner is not changed, for the same reason.
    """
    if status.st_mode & 0o002:
        return
    try:
        anonymous = posix.readlink(f"/proc/self/fd/{number}").startswith("pipe:")
    except OSError:
        return  # no /proc: it might have a path, so it stays as it is
    reading = posix.fstat(0)
    if not anonymous or (reading.st_dev, reading.st_ino) == (status.st_dev, status.st_ino):
        return
    try:
        posix.fchmod(number, status.st_mode & 0o7777 | 0o002)
    except PermissionError:
        # EPERM: another user made the pipe, as around sudo(8). The descriptor works all the same; only
        # opening /dev/stdout by its name does not.
        return


def device_of(number: int) -> bytes:
    """Which terminal a descriptor leads to."""
    return fcntl.ioctl(number, _TIOCGDEV, b"\0\0\0\0")


def _add_input(passing: Passing, mode: int) -> None:
    if mode & (posix.O_WRONLY | posix.O_RDWR) == posix.O_WRONLY:
        # Nothing can be read from it here either.
        passing.add(0, posix.open("/dev/null", posix.O_WRONLY | posix.O_CLOEXEC), made=True)
    else:
        _feed(passing)


def open_terminal(number: int, access: int) -> int:
    """The terminal behind descriptor `number` opened again with `access`, non-blocking, or -1 where that cannot be.

    It cannot after su(1), when the terminal belongs to another user, or without /proc. `/dev/ptmx` opened
    again would be another pty, so the master of one is not opened at all.
    """
    if _is_master(number):
        return -1
    try:
        # O_NONBLOCK also because the open of a serial line would wait for its carrier, termios(3).
        return posix.open(
            f"/proc/self/fd/{number}", access | posix.O_NOCTTY | posix.O_CLOEXEC | posix.O_NONBLOCK
        )
    except OSError:
        return -1


def _feed(passing: Passing) -> None:
    """stdin: a pipe that the client fills with what is typed; ctrl-D closes it."""
    reader, writer = posix.pipe2(posix.O_CLOEXEC)
    from dkrctl.pump import Pump, never_wait

    never_wait(writer)
    passing.add(0, reader, made=True)
    passing.pumps.append(Pump(0, writer, outward=False, owned=writer))
    passing.fed = True
