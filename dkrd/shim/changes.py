"""What a container has changed of its root, as the overlay's upper layer tells it: a job of the launcher's.

overlayfs keeps what is new or changed in the upper layer, a device 0:0 for what is gone, and on a directory that hides the one below it the
mark `opaque`; what it copied up before it was changed has the mark `origin` (Documentation/filesystems/overlayfs.rst in Linux). Where the
layer below is the daemon's own it is looked at too, for what was removed and made anew.

What is in the layer is the container's, which may run: all goes by descriptors, no link is followed, and it is bounded.
"""

from __future__ import annotations

import binascii
import contextlib
import os
import socket
import stat
import time
from typing import TYPE_CHECKING

from common import frames
from common.errors import DkrError, Internal, LimitReached, Unavailable
from dkrd.shim import cleanup
from dkrd.shim import config as configs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkrd.settings import Settings
    from dkrd.shim.matter import Matter

SECONDS = 5.0
MAX_CHANGES = 50_000
MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 256  # directories in directories: each is a descriptor or two
SEND_SECONDS = 10.0  # for who takes them
# Laid down before the first start where the root has none (container.py): not the container's doing.
_LAID = frozenset(f"/etc/{name}" for name in ("hostname", "hosts", "resolv.conf"))
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Changes:
    """The lines that tell them. `laid`: the root has no /etc but what was laid down."""

    def __init__(self, name: str, *, laid: bool) -> None:
        self._name = name
        self._laid = laid
        self._ends = time.monotonic() + SECONDS
        self._bytes = 0
        self.lines: list[bytes] = []

    def enter(self, place: int, below: int, path: str, depth: int) -> None:
        """What has changed in the directory `place`, below which that of the layer (-1: none, or it is not known) lies; in order."""
        names = self._names(place)
        hidden = set(os.listdir(below)) - names if below >= 0 and _mark(place, "opaque") == b"y" else set()
        for name in sorted(names | hidden):
            if time.monotonic() > self._ends:
                raise Unavailable(
                    f"cannot tell what {self._name} has changed: it takes too long", hint="try again"
                )
            inner = f"{path}/{name}"
            if name in hidden:
                self._add("D", inner)
                continue
            with contextlib.suppress(FileNotFoundError):  # gone by now
                self._entry(place, below, name, inner, depth)

    def _entry(self, place: int, below: int, name: str, path: str, depth: int) -> None:
        found = os.stat(name, dir_fd=place, follow_symlinks=False)
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            self._add("D", path)
            return
        copied = _is_copied(place, name)
        if self._laid and not copied and path in _LAID:
            return
        before = len(self.lines)
        self._add("C" if copied or _is_there(below, name) else "A", path)
        if not stat.S_ISDIR(found.st_mode):
            return
        with contextlib.ExitStack() as stack:
            try:
                inner = os.open(name, _DIRECTORY, dir_fd=place)
            except OSError:
                return  # another thing by now
            stack.callback(os.close, inner)
            lower = _directory(below, name)
            if lower >= 0:
                stack.callback(os.close, lower)
            if depth >= MAX_DEPTH:
                raise self._too_much("has directories deeper than can be looked at")
            self.enter(inner, lower, path, depth + 1)
        # Copied or laid cannot be told of a directory: overlayfs marks one that it finds above another too.
        if self._laid and path == "/etc" and len(self.lines) == before + 1:
            self.lines.pop()

    def _names(self, place: int) -> set[str]:
        """What is in a directory of the upper layer; each of it is a change, so there is a bound."""
        names: set[str] = set()
        with os.scandir(place) as entries:
            for entry in entries:
                names.add(entry.name)
                if len(names) > MAX_CHANGES:
                    raise self._too_much("are too many to be told")
        return names

    def _add(self, kind: str, path: str) -> None:
        raw = os.fsencode(path)
        try:
            told = {"kind": kind, "path": raw.decode()}
        except UnicodeDecodeError:
            told = {"kind": kind, "pathBase64": binascii.b2a_base64(raw, newline=False).decode()}
        line = frames.dumps(told) + b"\n"
        self._bytes += len(line)
        if len(self.lines) >= MAX_CHANGES or self._bytes > MAX_BYTES:
            raise self._too_much("are too many to be told")
        self.lines.append(line)

    def _too_much(self, cause: str) -> LimitReached:
        return LimitReached(
            f"cannot tell what {self._name} has changed: its changes {cause}",
            hint=f"at most {MAX_CHANGES} changes, {MAX_DEPTH} directories deep, are told",
        )


def _mark(directory: int, name: str) -> bytes:
    try:
        return os.getxattr(directory, f"trusted.overlay.{name}")
    except OSError:
        return b""


def _is_copied(place: int, name: str) -> bool:
    try:
        os.getxattr(f"/proc/self/fd/{place}/{name}", "trusted.overlay.origin", follow_symlinks=False)
    except OSError:
        return False
    return True


def _is_there(directory: int, name: str) -> bool:
    if directory < 0:
        return False
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


def _directory(parent: int, name: str) -> int:
    if parent < 0:
        return -1
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError:
        return -1


def tell(matter: Matter, layers: Mapping[str, str | DkrError], given: int) -> dict[str, object]:
    """Write the changes of a container, which must be theirs who ask, a line each, into the socket `given`. `layers`: of the built-in
    roots, by name. Raises DkrError.
    """
    matter.check_owner()
    directory = matter.directory
    laid, layer = _root(f"{directory}/config.json", matter.settings, layers)
    changes = _Changes(matter.short, laid=laid)
    with contextlib.ExitStack() as stack:
        try:
            upper = os.open(f"{directory}/upper", _DIRECTORY)
        except FileNotFoundError as err:
            raise Unavailable(f"cannot tell what {matter.short} has changed: it is going") from err
        stack.callback(os.close, upper)
        below = -1
        if layer is not None:
            with contextlib.suppress(OSError):
                below = os.open(layer, _DIRECTORY)
                stack.callback(os.close, below)
        changes.enter(upper, below, "", 1)
    _send(given, b"".join(changes.lines))
    return {}


def _root(path: str, settings: Settings, layers: Mapping[str, str | DkrError]) -> tuple[bool, str | None]:
    """Whether files were laid into its /etc, and the layer below it, where that is ours. Of one that is not kept nothing is written
    down: its files are taken for those that were laid.
    """
    try:
        with open(path, "rb") as file:
            config = configs.parse(file.read(cleanup.MAX_DOCUMENT))
    except (FileNotFoundError, DkrError):
        return True, None
    layer = layers.get(config.root) if config.root_kind == "builtin" else None
    return not config.root_has_etc, f"{settings.state_dir}/layers/{layer}" if isinstance(layer, str) else None


def _send(given: int, data: bytes) -> None:
    try:
        with socket.socket(fileno=os.dup(given)) as sock:
            sock.settimeout(SEND_SECONDS)
            sock.sendall(data)
    except OSError as err:
        raise Internal(f"cannot tell the changes: {err}", errno=err.errno) from err
