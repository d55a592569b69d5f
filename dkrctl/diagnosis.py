"""Why the daemon cannot be reached or understood, and what to do: looked for on the host when it has
happened.

Not on the lean path: loaded only on the way to an error.
"""

import errno
import grp
import os
import pwd
import stat

from common.errors import DkrError, Internal, NotPermitted, ProtocolError, Unavailable
from common.version import API_VERSION, VERSION

ELSEWHERE = "or name another socket: --socket PATH, or the variable DKR_SOCKET"
LOG = "see its log: journalctl -u dkrd, or /var/log/dkrd.log after `make run`"
RESTART = "restart it, containers live on: systemctl restart dkrd"


def shown(path: str) -> str:
    """`path` for a message: without what could steer a terminal."""
    return ascii(path)[1:-1]


def start_hint() -> str:
    """How to get a daemon."""
    return (
        "start it, as root: `systemctl start dkrd.socket`; in a checkout: `make run`\n"
        f"`dkrctl doctor` looks for what is missing\n{ELSEWHERE}"
    )


def unreachable(path: str, err: OSError) -> DkrError:
    """The error for a connect(2) to the socket at `path` that failed with `err`."""
    number = err.errno
    if isinstance(err, PermissionError):
        cause, hint = no_permission(path)
        return NotPermitted(
            f"cannot reach dkrd at {shown(path)}: {cause}", hint=f"{hint}\n{ELSEWHERE}", errno=number
        )
    hint = start_hint()
    if isinstance(err, FileNotFoundError):
        cause = "there is no such socket"
    elif isinstance(err, ConnectionRefusedError):
        cause = "nobody listens there"
        kind = _kind(path)
        if kind != "a socket":  # connect(2) says the same of any other file
            cause, hint = f"that is {kind}, no socket", ELSEWHERE.removeprefix("or ")
    elif isinstance(err, BlockingIOError):
        cause, hint = "it takes no connection: its queue is full and stays so", f"{RESTART}\n{LOG}"
    elif number == errno.EPROTOTYPE:
        cause, hint = "that is a socket of another type, not dkrd's", ELSEWHERE.removeprefix("or ")
    elif number == errno.ENOTDIR:
        cause = "a part of the path is no directory"
    elif number is None:  # Python itself: sun_path of unix(7) has 108 bytes
        cause, hint = "a socket's path has at most 107 bytes", ELSEWHERE.removeprefix("or ")
    else:
        cause = (err.strerror or str(err)).lower()
    return Unavailable(f"cannot reach dkrd at {shown(path)}: {cause}", hint=hint, errno=number)


def _kind(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return "a socket"  # gone meanwhile, or not to be looked at: nothing else is known
    kinds = (
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
    )
    return next((word for test, word in kinds if test(mode)), "a device")


def no_permission(path: str) -> tuple[str, str]:
    """Why this process may not connect to the socket at `path`, and the way out."""
    closed = _closed_directory(path)
    place = closed or path
    try:
        status = os.stat(place)
    except OSError:
        return "permission denied", "ask whoever runs dkrd here"
    mode = stat.S_IMODE(status.st_mode)
    opened_by = stat.S_IXGRP if closed else stat.S_IWGRP
    what = f"the directory {shown(place)}" if closed else "the socket"
    if not mode & opened_by:
        return (
            f"permission denied: {what} is for its owner only (mode {mode:04o})",
            "the settings socket_mode and socket_group of dkrd.toml open the socket to a group"
            if not closed
            else f"let others through, as root: `chmod a+x {shown(place)}`, or move the socket (setting `socket`)",
        )
    if status.st_gid in (os.getegid(), *os.getgroups()):
        return (
            "permission denied, though this user is in its group",
            "a security module of the host may forbid it: see `journalctl -k`, or dmesg",
        )
    return f"permission denied: {what} is for the group {_group(status.st_gid)}", _join(status.st_gid)


def _closed_directory(path: str) -> str | None:
    """The first directory on the way to `path` that this process may not pass through."""
    place = "/" if path.startswith("/") else "."
    for part in path.split("/")[:-1]:
        place = os.path.join(place, part)
        if not os.access(place, os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            return place
    return None


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def user_name() -> str:
    """The name of this process's user, or its number."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def is_listed(gid: int) -> bool:
    """Whether the host's databases have this process's user in the group, whatever the process has."""
    try:
        entry = pwd.getpwuid(os.geteuid())
        return entry.pw_gid == gid or entry.pw_name in grp.getgrgid(gid).gr_mem
    except KeyError:
        return False


def _join(gid: int) -> str:
    name, group = user_name(), _group(gid)
    if gid == 0:
        return "only root may connect: the setting socket_group of dkrd.toml names a group that may"
    if is_listed(gid):
        return (
            f"{name} is a member of {group}, but this session began before: log in again, "
            f"or go on in a shell of `newgrp {group}`"
        )
    return f"join the group, as root: `usermod -aG {group} {name}`, then log in again"


# --- what answers there


def foreign(path: str, said: bytes) -> ProtocolError:
    """The error where something that speaks no HTTP listens at `path`; `said` is what it said."""
    begin = ascii(said[:40])[2:-1]
    return ProtocolError(
        f'cannot understand what listens at {shown(path)}: it is no dkrd, it says "{begin}"',
        hint=f"give the socket of dkrd: --socket PATH, or the variable DKR_SOCKET\n{LOG}",
    )


def unexplained(path: str, status: int, server: str) -> DkrError:
    """The error for an answer with the HTTP status `status` that says nothing in our manner; `server` is its
    header.
    """
    if server == "dkr":
        return Internal(f"cannot understand dkrd: it answered {status} without saying why", hint=LOG)
    who = f"it is {ascii(server)[1:-1][:60]}" if server else f"it answered {status}"
    return ProtocolError(
        f"cannot talk to what listens at {shown(path)}: it is no dkrd, {who}",
        hint="give the socket of dkrd: --socket PATH, or the variable DKR_SOCKET",
    )


def hangs(path: str, seconds: float) -> Unavailable:
    """The error for a daemon that has not answered within `seconds`."""
    return Unavailable(
        f"cannot get an answer from dkrd at {shown(path)}: none came within {seconds:g} s, it hangs",
        hint=f"{RESTART}\n{LOG}\nto wait longer: the variable DKR_TIMEOUT, in seconds",
    )


def cut_off() -> Unavailable:
    """The error for an answer that ends in its middle."""
    return Unavailable("cannot get an answer: the daemon closed the connection in its middle", hint=LOG)


def skew(release: object, api: object) -> tuple[str, str] | None:
    """What to say of a daemon of this `release` and API version `api`, and the way out; None where both are the
    client's.
    """
    theirs, ours = _number(api), _number(API_VERSION)
    if release == VERSION and theirs == ours:
        return None
    if theirs == ours:
        what = f"dkrd is of release {word(release)}, this client of {VERSION}"
        newer = _parts(release) > _parts(VERSION)
    else:
        what = f"dkrd speaks API version {word(api)} (release {word(release)}), this client {API_VERSION}"
        newer = theirs > ours
    return what, (
        f"upgrade the client to the daemon's release, {word(release)}"
        if newer
        else f"upgrade dkrd to the client's release, {VERSION}; if that is installed, {RESTART}"
    )


def word(value: object) -> str:
    """A release or version that the daemon told, for a message."""
    return ascii(value)[1:-1][:30] if isinstance(value, str) and value else "unknown"


def _parts(release: object) -> tuple[int, ...]:
    return tuple(map(_number, str(release).split(".")))


def _number(text: object) -> int:
    digits = str(text).partition(".")[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0
