"""`process.user` by name: looked up in the container's own /etc/passwd and /etc/group, by init, inside the
container.

Read as data, bounded, by our own parser: NSS would load libraries that the root chose (CVE-2019-14271), and
a file of gigabytes or a FIFO in place of /etc/passwd must not hold anybody. A word of digits is a number,
and never looked up as a name.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from common.errors import StartFailed
from dkrd.runtime import syscalls

MAX_FILE = 1024 * 1024  # bytes of passwd or group that are read
MAX_GROUPS = 256


@dataclass(frozen=True, slots=True)
class User:
    """uid, gid and supplementary gids inside; home is "/" where passwd knows none."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def is_number(word: str) -> bool:
    """Whether `word` is an id rather than a name."""
    return word.isascii() and word.isdecimal() and len(word) <= 5 and int(word) <= 65535


def resolve(user: str | None, uid: int, gid: int, additional: tuple[int, ...]) -> User:
    """The user to become: `user` ("NAME[:GROUP]", either part may be a number) where given, else the spec's
    numbers.

    Raises StartFailed, naming the missing user or group.
    """
    passwd = _entries("/etc/passwd")
    if user is None:
        home = next((e[5] for e in passwd if len(e) > 5 and e[2] == str(uid)), "/")
        return User(uid, gid, additional, home or "/")
    name, _, group = user.partition(":")
    index = 2 if is_number(name) else 0
    entry = next((e for e in passwd if len(e) > 5 and e[index] == name and is_number(e[2])), None)
    if entry is None and index == 0:
        raise StartFailed(
            f"cannot run as {user!r}: there is no user {name!r} in the container's /etc/passwd",
            step="user",
            hint="give a number: --user UID[:GID]",
        )
    own_uid = int(entry[2]) if entry else int(name)
    own_gid = int(entry[3]) if entry and is_number(entry[3]) else 0
    home = (entry[5] if entry else "") or "/"
    groups = _entries("/etc/group")
    if group:
        return User(own_uid, _group(group, groups, user), additional, home)
    member = entry[0] if entry else None
    supplementary = [
        int(g[2]) for g in groups if len(g) > 3 and is_number(g[2]) and member in g[3].split(",")
    ]
    return User(own_uid, own_gid, (*additional, *supplementary[:MAX_GROUPS]), home)


def _group(group: str, groups: list[list[str]], user: str) -> int:
    if is_number(group):
        return int(group)
    for entry in groups:
        if len(entry) > 2 and entry[0] == group and is_number(entry[2]):
            return int(entry[2])
    raise StartFailed(
        f"cannot run as {user!r}: there is no group {group!r} in the container's /etc/group",
        step="user",
        hint="give a number: --user UID:GID",
    )


def _entries(path: str) -> list[list[str]]:
    """The fields of each line of `path`; nothing where it is absent or not a regular file."""
    try:
        # O_NONBLOCK: a FIFO opens at once and is then seen not to be a file. A link of /proc/self/fd would be one of the
        # descriptors that this process has for the command, or for its own work.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
        fd = syscalls.openat2(syscalls.AT_FDCWD, path, flags, syscalls.RESOLVE_NO_MAGICLINKS)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        data = b""
        while len(data) < MAX_FILE and (chunk := os.read(fd, MAX_FILE - len(data))):
            data += chunk
    finally:
        os.close(fd)
    return [line.split(":") for line in data.decode("utf-8", "surrogateescape").split("\n") if line]
