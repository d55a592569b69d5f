"""Which descriptors a command gets, made of what a caller named in the manner of `subprocess`.

As in dkrctl/stdio.py no terminal of the caller's goes along: what would be one is a pipe that this process copies to or from it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from common.errors import BadRequest
from dkrctl.rootfs import bring
from dkrctl.sdk.copies import Copy
from dkrctl.stdio import check_passable, device_of, open_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

Descriptor: TypeAlias = "int | IO[Any]"
PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
STDOUT = subprocess.STDOUT
MAX_PRESERVED = 250  # docs/protocol.md


class Passing:
    """What goes along with the first frame, and what stays here.

    numbers      for which of 0-2 a descriptor is sent
    tty          which of 0-2 are the command's own terminal
    root         what was opened of a rootfs: `rootfs`, and `mntns` where there is a /proc
    rootfs       its absolute path, or None
    descriptors  what is sent: for each of `numbers`, then those that become 3, 4, …, then those of `root`; all made here, closed
                 by `sent`
    pipes        of 0-2, where a pipe was asked for: our end of it
    copies       terminals of the caller's that are copied from or to
    """

    def __init__(
        self,
        given: Sequence[Descriptor | None],
        preserved: Sequence[Descriptor],
        rootfs: str | None = None,
        *,
        terminal: bool,
    ) -> None:
        """given      of stdin, stdout, stderr: None, PIPE, DEVNULL, STDOUT (stderr alone), a descriptor or what has a `fileno()`
        preserved  what becomes 3, 4, … inside
        rootfs     a directory that is to be the root
        terminal   None means the command's own terminal, else the caller's descriptor

        Raises BadRequest, OSError, ValueError; then nothing is left open.
        """
        self.numbers: list[int] = []
        self.tty: list[int] = []
        self.root: list[str] = []
        self.rootfs = rootfs
        self.descriptors: list[int] = []
        self.pipes: dict[int, int] = {}
        self.copies: list[Copy] = []
        self._shown: dict[bytes, int] = {}
        if len(preserved) > MAX_PRESERVED:
            raise BadRequest(
                f"cannot pass {len(preserved)} descriptors: at most {MAX_PRESERVED} are possible"
            )
        # All of them before anything is opened here: it would get the number of one that is closed, and pass for it.
        for wanted in (*given, *preserved):
            if wanted is not None and wanted not in (PIPE, DEVNULL, STDOUT):
                _number_of(wanted)
        try:
            for number, wanted in enumerate(given):
                if terminal and wanted is None:
                    self.tty.append(number)
                else:
                    self._add(number, wanted)
            if terminal and not self.tty:
                raise ValueError(
                    "terminal=True leaves nothing to the terminal: stdin, stdout and stderr are all given"
                )
            for one in preserved:
                check_passable(_number_of(one))
                self.descriptors.append(os.dup(_number_of(one)))
            if rootfs is not None:
                self.rootfs, opened = bring(rootfs)
                self.root = ["rootfs", "mntns"][: len(opened)]
                self.descriptors += opened
        except BaseException:
            self.close()
            raise

    def sent(self) -> None:
        """Close what was made for sending."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def close(self) -> None:
        """Close everything that is still here."""
        self.sent()
        for descriptor in self.pipes.values():
            os.close(descriptor)
        self.pipes.clear()
        for copy in self.copies:
            copy.stop()

    def _add(self, number: int, wanted: Descriptor | None) -> None:
        if wanted is None:
            # Python itself found the descriptor closed when it began: what has its number now is something else.
            if (sys.__stdin__, sys.__stdout__, sys.__stderr__)[number] is not None:
                self._pass(number, number)
        elif wanted == PIPE:
            self.pipes[number] = self._pipe(number)
        elif wanted == DEVNULL:
            self._keep(number, os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        elif wanted == STDOUT:
            self._as_stdout(number)
        else:
            self._pass(number, _number_of(wanted))

    def _keep(self, number: int, descriptor: int) -> None:
        self.numbers.append(number)
        self.descriptors.append(descriptor)

    def _pipe(self, number: int) -> int:
        """A pipe for the command; our end."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        theirs, ours = (reader, writer) if number == 0 else (writer, reader)
        self._keep(number, theirs)
        if number:
            # /dev/stdout is opened again inside, by an id that the pipe does not belong to (dkrctl/stdio.py).
            os.fchmod(writer, 0o602)
        return ours

    def _as_stdout(self, number: int) -> None:
        if number != 2:
            raise ValueError("STDOUT is for stderr alone")
        if 1 in self.tty:
            self.tty.append(2)
        elif 1 in self.numbers:
            self._keep(2, os.dup(self.descriptors[self.numbers.index(1)]))

    def _pass(self, number: int, descriptor: int) -> None:
        if os.isatty(descriptor):
            self._copy(number, descriptor)
            return
        own = os.dup(descriptor)  # from here on it is what it was, whatever the caller does with the number
        self._keep(number, own)
        if number:
            self._open_up(own)

    def _copy(self, number: int, terminal: int) -> None:
        device = device_of(terminal)
        if number and device in self._shown:
            self._keep(number, os.dup(self._shown[device]))  # one pipe, to keep their order
            return
        again = open_terminal(terminal, os.O_WRONLY if number else os.O_RDONLY)
        near = again if again >= 0 else os.dup(terminal)
        try:
            ours = self._pipe(number)
        except BaseException:
            os.close(near)
            raise
        if number:
            self._shown[device] = self.descriptors[-1]
            self.copies.append(Copy(ours, near, typed=False))
        else:
            os.set_blocking(ours, False)
            self.copies.append(Copy(near, ours, typed=True))

    def _open_up(self, descriptor: int) -> None:
        """Let /dev/stdout be opened again inside, as dkrctl/stdio.py does and for its reasons."""
        status = os.fstat(descriptor)
        if not stat.S_ISFIFO(status.st_mode) or status.st_mode & 0o002:
            return
        try:
            anonymous = os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
            read = self.numbers[0] == 0 and os.path.samestat(os.fstat(self.descriptors[0]), status)
            if anonymous and not read:
                os.fchmod(descriptor, stat.S_IMODE(status.st_mode) | 0o002)
        except OSError as err:
            if err.errno not in (errno.EPERM, errno.ENOENT):
                raise


def _number_of(given: Descriptor) -> int:
    """The number of an open descriptor. Raises BadRequest where it is none, TypeError, ValueError for a closed file."""
    number = given if isinstance(given, int) else given.fileno()
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except (OSError, ValueError, OverflowError) as err:
        raise BadRequest(f"cannot pass descriptor {number}: it is not open") from err
    return number
