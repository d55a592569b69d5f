"""Which of the caller's descriptors go along, and in what shape.

On the lean path (see lean.py): imports built-in modules and errors; the pump only where a terminal has to be
fed.

A terminal is never passed as it is: descriptors 0-2 of a shell are one open file description, readable and
writable, so a command that was given only the output of a terminal could read what is typed, switch the echo
off, take the terminal for itself. stdout and stderr are opened again for writing only, stdin goes through a
pipe that the client feeds.
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
_NAMES = ("stdin", "stdout", "stderr")


def is_open(descriptor: int) -> bool:
    """Whether the process has this descriptor."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def survey() -> tuple[int, ...]:
    """Which of 0-2 the caller has; the others are filled with /dev/null for as long as the client runs.

    To be called before anything is opened: a socket of the client's that landed on 1 would get the command's
    output.
    """
    found = tuple(n for n in (0, 1, 2) if is_open(n))
    for number in range(3):
        if number not in found:
            try:
                posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)  # takes the lowest: `number`
            except OSError as err:
                raise HostUnfit(
                    f"cannot keep {_NAMES[number]} closed: /dev/null does not open", errno=err.errno
                ) from err
    return found


def beyond(count: int) -> list[int]:
    """Descriptors 3 to 2+count; BadRequest names one that is not open. Call before anything is opened."""
    numbers = list(range(3, 3 + count))
    for number in numbers:
        if not is_open(number):
            raise BadRequest(
                f"cannot pass descriptor {number}: it is not open",
                hint="--preserve-fds N passes 3 to 2+N; open them as in `3<file`",
            )
    return numbers


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

    numbers      which of 0-2 the command gets
    descriptors  for each of them, what is sent
    made         those of them that were made here; closed once they are sent
    pumps        what the client has to copy
    fed          stdin is read by the client itself
    """

    __slots__ = ("descriptors", "fed", "made", "numbers", "pumps")

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.descriptors: list[int] = []
        self.made: list[int] = []
        self.pumps: list[Pump] = []
        self.fed = False

    def add(self, number: int, descriptor: int, *, made: bool = False) -> None:
        """`descriptor` becomes the command's `number`."""
        self.numbers.append(number)
        self.descriptors.append(descriptor)
        if made:
            self.made.append(descriptor)

    def sent(self) -> None:
        """Close what was made for sending."""
        for descriptor in self.made:
            posix.close(descriptor)
        self.made = []


def prepare(found: tuple[int, ...], *, give_input: bool) -> Passing:
    """How 0-2 are passed without a terminal of the command's own.

    found       those the caller has
    give_input  else the command's stdin is /dev/null

    Raises BadRequest for a directory or an O_PATH descriptor.
    """
    passing = Passing()
    for number in found:
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
            _add_terminal(passing, number, mode)
            continue
        if number and status.st_mode & _S_IFMT == _S_IFIFO:
            _open_up(number, status)
        passing.add(number, number)
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


def _add_terminal(passing: Passing, number: int, mode: int) -> None:
    access = mode & (posix.O_WRONLY | posix.O_RDWR)
    if number == 0:
        if access == posix.O_WRONLY:
            passing.add(0, 0)
        else:
            _feed(passing)
    elif access == posix.O_WRONLY:
        passing.add(number, number)
    else:
        again = open_terminal(number, posix.O_WRONLY)
        if again >= 0:
            passing.add(number, again, made=True)
        else:
            _relay(passing, number)


def open_terminal(number: int, access: int, *, waits: bool = True) -> int:
    """The terminal behind descriptor `number` opened again with `access`, or -1 where that cannot be.

    It cannot after su(1), when the terminal belongs to another user, or without /proc. `/dev/ptmx` opened
    again would be another pty, so the master of one is not opened at all.
    """
    try:
        fcntl.ioctl(number, _TIOCGPTN, b"\0\0\0\0")
        return -1
    except OSError:
        pass  # no master: the usual case
    flags = access | posix.O_NOCTTY | posix.O_CLOEXEC
    try:
        # O_NONBLOCK: the open of a serial line would wait for its carrier, termios(3).
        descriptor = posix.open(f"/proc/self/fd/{number}", flags | posix.O_NONBLOCK)
    except OSError:
        return -1
    if waits:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, access)
    return descriptor


def _feed(passing: Passing) -> None:
    """stdin: a pipe that the client fills with what is typed; ctrl-D closes it."""
    reader, writer = posix.pipe2(posix.O_CLOEXEC)
    from dkrctl.pump import Pump, never_wait

    never_wait(writer)
    passing.add(0, reader, made=True)
    passing.pumps.append(Pump(0, writer, outward=False, owned=writer))
    passing.fed = True


def _relay(passing: Passing, number: int) -> None:
    """stdout or stderr on a terminal that does not open again: a pipe that the client empties."""
    from dkrctl.pump import Pump

    reader, writer = posix.pipe2(posix.O_CLOEXEC)
    _open_up(writer, posix.fstat(writer))
    passing.add(number, writer, made=True)
    passing.pumps.append(Pump(reader, number, outward=True, owned=reader))
