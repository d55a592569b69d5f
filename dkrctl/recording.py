"""`--record FILE`: what is shown of a command's terminal, as asciicast v2 (https://docs.asciinema.org/manual/asciicast/v2/).

Loaded only for it; imports built-in modules, so that it can be, from the lean path. What is typed is not recorded: passwords would be.
"""

import _codecs
import fcntl
import posix
import time

from common.errors import BadRequest
from common.frames import dumps

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Callable

_S_IFMT, _S_IFREG = 0o170000, 0o100000  # inode(7)
_FLAGS = posix.O_WRONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NOCTTY | posix.O_NONBLOCK
_USUAL = (24, 80)  # rows and columns where nobody knows


class Recording:
    """The file at `path`, which is made for its owner alone; as script(1) does, one that exists is overwritten, and no link
    followed.

    Nothing of it is touched before `begin`. A disk that is full ends the recording, not the session.

    Raises BadRequest where it cannot be written.
    """

    __slots__ = ("_begun", "_failure", "_fd", "_made", "_path", "_rest", "_returns", "_size", "_start")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd, self._made = _open(path)
        self._begun = False
        self._failure = ""
        self._rest = b""  # the beginning of a character
        self._returns = False
        self._size = (0, 0)
        self._start = 0.0

    def begin(self, size: tuple[int, int] | None, *, whole: bool) -> "Callable[[bytes], tuple[bytes, bool]]":
        """The command's terminal is here, of this size (rows, columns). What is to see all that it shows from now on: as the `watch` of
        a pump.

        whole  it makes its own line ends; else the caller's terminal does, and the recording has to
        """
        self._begun, self._returns = True, not whole
        self._start = time.monotonic()
        self._size = size or _USUAL
        rows, columns = self._size
        env = {}
        for name in ("TERM", "SHELL"):
            value = posix.environ.get(name.encode())
            if value is not None:
                env[name] = value.decode("utf-8", "replace")
        header = {"version": 2, "width": columns, "height": rows, "timestamp": int(time.time()), "env": env}
        try:
            posix.ftruncate(self._fd, 0)
        except OSError as err:
            self._fail(err)
        self._write(dumps(header))
        return self._output

    def resized(self, size: tuple[int, int]) -> None:
        """It has so many rows and columns now."""
        if self._begun and size != self._size:
            self._size = size
            self._event("r", f"{size[1]}x{size[0]}")

    def close(self) -> str:
        """No more comes; why it is not whole, or nothing. May be called again."""
        if self._fd < 0:
            return ""
        if self._rest:
            self._event("o", self._rest.decode("utf-8", "replace"))
        posix.close(self._fd)
        self._fd = -1
        if self._made and not self._begun:
            _remove(self._path)  # there was nothing to record
        return self._failure

    def _output(self, data: bytes) -> tuple[bytes, bool]:
        text, taken = _codecs.utf_8_decode(self._rest + data, "replace", False)
        self._rest = (self._rest + data)[taken:]
        if text:
            self._event("o", text.replace("\n", "\r\n") if self._returns else text)
        return data, False

    def _event(self, kind: str, text: str) -> None:
        self._write(dumps([round(time.monotonic() - self._start, 6), kind, text]))

    def _write(self, line: bytes) -> None:
        if self._failure:
            return
        data = line + b"\n"
        try:
            while data:
                data = data[posix.write(self._fd, data) :]
        except OSError as err:
            self._fail(err)

    def _fail(self, err: OSError) -> None:
        cause = (err.strerror or str(err)).lower()
        self._failure = f"the recording {ascii(self._path)[1:-1]} is not whole: {cause}"


def _open(path: str) -> tuple[int, bool]:
    """The file, and whether it was made."""
    try:
        try:
            return posix.open(path, _FLAGS | posix.O_CREAT | posix.O_EXCL, 0o600), True
        except FileExistsError:
            fd = posix.open(path, _FLAGS)
    except OSError as err:
        cause = (err.strerror or str(err)).lower()
        raise BadRequest(f"cannot record to {ascii(path)[1:-1]}: {cause}", errno=err.errno) from err
    status = posix.fstat(fd)
    what = ""
    if status.st_mode & _S_IFMT != _S_IFREG:
        what = "it is no file"
    elif status.st_nlink > 1:
        what = "it is a link: it has another name"
    elif status.st_uid != posix.geteuid():
        what = f"it is uid {status.st_uid}'s, who could read what is recorded"
    if what:
        posix.close(fd)
        raise BadRequest(f"cannot record to {ascii(path)[1:-1]}: {what}", hint="name another file")
    posix.fchmod(fd, 0o600)
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    return fd, False


def _remove(path: str) -> None:
    try:
        posix.unlink(path)
    except OSError:
        return  # somebody tidied up
