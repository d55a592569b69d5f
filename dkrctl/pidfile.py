"""`--pidfile FILE`: the host's number of the container's process 1, in a file that this client writes with its caller's own rights.

Loaded by a verb that has the option (see lean.py): imports built-in modules and our lean ones.
"""

import posix

from common.errors import BadRequest

_S_IFMT, _S_IFDIR = 0o170000, 0o040000  # inode(7)


class Pidfile:
    """It is whole or not there: written beside its place and renamed, so that one of before is replaced in the moment of the start."""

    __slots__ = ("_descriptor", "_path", "_temporary", "_written")

    def __init__(self, path: str) -> None:
        """Make what will be the file. Raises BadRequest where that cannot be, before anything is started."""
        self._path = path
        self._temporary = f"{path}.{posix.getpid()}"
        self._descriptor = -1
        self._written = False
        if _is_directory(path):
            raise BadRequest(f"cannot write the pid to {ascii(path)[1:-1]}: it is a directory")
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
        try:
            self._descriptor = posix.open(self._temporary, flags, 0o644)
        except OSError as err:
            raise self._cannot(err) from err

    def fill(self, pid: object) -> None:
        """The container runs. Raises BadRequest where it cannot be written, as on a full disk."""
        if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0 or self._written:
            return
        try:
            posix.write(self._descriptor, b"%d\n" % pid)
            posix.rename(self._temporary, self._path)
        except OSError as err:
            raise self._cannot(err) from err
        self._written = True
        self.close()

    @property
    def written(self) -> bool:
        """Whether it is there."""
        return self._written

    def close(self) -> None:
        """Nothing is left of it but what was written."""
        if self._descriptor >= 0:
            posix.close(self._descriptor)
            self._descriptor = -1
            if not self._written:
                self._unlink(self._temporary)

    def remove(self) -> None:
        """The container has ended: the number may become another's."""
        if self._written:
            self._unlink(self._path)

    @staticmethod
    def _unlink(path: str) -> None:
        try:
            posix.unlink(path)
        except OSError:
            return  # somebody tidied up, or the directory may not be written any more

    def _cannot(self, err: OSError) -> BadRequest:
        cause = (err.strerror or str(err)).lower()
        return BadRequest(f"cannot write the pid to {ascii(self._path)[1:-1]}: {cause}", errno=err.errno)


def _is_directory(path: str) -> bool:
    try:
        return posix.lstat(path).st_mode & _S_IFMT == _S_IFDIR
    except OSError:
        return False
