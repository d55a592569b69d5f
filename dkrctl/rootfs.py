"""`--rootfs DIR`: the directory that is to be the root, opened here, with the caller's own rights.

What the daemon is given is the descriptor. That it could be opened is the proof that the caller may reach it; nobody opens it
by its name in the caller's place. With it goes the mount namespace of this process: the directory's mount can only be
cloned there.

Loaded by a run that has the option (see lean.py): imports built-in modules and our lean ones.
"""

import errno
import posix

from common.errors import BadRequest
from dkrctl.parse import utf8

_S_IFMT, _S_IFLNK = 0o170000, 0o120000  # inode(7)


def bring(path: str) -> tuple[str, list[int]]:
    """The directory's absolute path, for people, and descriptors of it and, where there is a /proc, of the mount
    namespace.

    Raises BadRequest, saying why it cannot be opened.
    """
    text = utf8(path, "--rootfs")
    if not path:
        raise BadRequest("cannot use --rootfs: it is empty", hint="--rootfs DIR names a directory")
    try:
        descriptors = [posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)]
    except OSError as err:
        raise BadRequest(
            f"cannot use {ascii(text)[1:-1]} as the root: {_cause(path, err)}", errno=err.errno
        ) from err
    try:  # noqa: SIM105 - contextlib would cost 3.5 ms
        descriptors.append(posix.open("/proc/self/ns/mnt", posix.O_RDONLY | posix.O_CLOEXEC))
    except OSError:
        pass  # without /proc: the daemon tries its own namespace, and says where that is not enough
    return text if text.startswith("/") else f"{_here()}/{text.removeprefix('./')}", descriptors


def _cause(path: str, err: OSError) -> str:
    if err.errno == errno.ENOENT and _is_link(path):
        return "it is a symbolic link that leads nowhere"
    known = {
        errno.ENOENT: "there is no such directory",
        errno.ENOTDIR: "it is not a directory",
        errno.EACCES: "permission denied",
    }
    return known.get(err.errno or 0, (err.strerror or str(err)).lower())


def _is_link(path: str) -> bool:
    try:
        return posix.lstat(path).st_mode & _S_IFMT == _S_IFLNK
    except OSError:
        return False


def _here() -> str:
    try:
        here = utf8(posix.getcwd(), "the working directory")
    except OSError:
        return ""  # deleted; the daemon says so of what was opened in it
    return "" if here == "/" else here
