"""The launcher's job that makes the lower layer of the built-in root `busybox`: a copy of the host's static
busybox, a link for each of its applets, and the skeleton.

Nothing of the host is bound into this root, so the file must need nothing else: a static ELF of this machine,
which only root can have written. It is read once, and what was read is what is checked, hashed and laid down.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING

from common import static_program
from common.errors import HostUnfit
from common.static_program import BUSYBOX, Unsuitable
from dkrd.launcher.jobs import layers, skeleton
from dkrd.launcher.jobs.layers import Directory, Entry, File, Link, Program

if TYPE_CHECKING:
    from typing import NoReturn

    from dkrd.settings import Settings

NAME = "busybox"
_LIST_MAX = 64 * 1024  # bytes of names; a busybox of everything has 4 KB
_LIST_SECONDS = 5.0
_PROGRAM = "bin/busybox"
_PLACES = ("bin", "sbin", "usr/bin", "usr/sbin")
_SHELLS = ("sh", "ash", "hush")
_APPLET = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-[")


def ensure(settings: Settings, paths: tuple[str, ...] = BUSYBOX) -> str:
    """Name of the layer below state_dir/layers; made if it is not there.

    The first of `paths` that fits is taken. Raises HostUnfit, with what is to be installed, where none does.
    """
    refused: HostUnfit | None = None
    for path in paths:
        try:
            return layers.build(settings.state_dir, NAME, _describe_file(path))
        except FileNotFoundError:
            continue
        except Unsuitable as err:
            refused = refused or _unfit(f"{path} {err}")
    raise refused or _unfit(f"the host has no {paths[0]}")


def _unfit(cause: str) -> HostUnfit:
    return HostUnfit(
        f"cannot use the root {NAME}: {cause}",
        hint="apt install busybox-static, then send dkrd SIGHUP or restart it",
    )


def _describe_file(path: str) -> tuple[Entry, ...]:
    """The entries for the busybox at `path`. Raises FileNotFoundError, Unsuitable."""
    try:
        # Not to wait for the writer of a fifo. Links are followed: only root makes any in these directories.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as err:
        raise Unsuitable(f"cannot be opened: {err.strerror}") from err
    try:
        data = static_program.read(descriptor)
        static_program.check(data, os.uname().machine)
        applets = placed(_output(descriptor, "--list-full").decode("utf-8", "replace").splitlines())
    except OSError as err:
        raise Unsuitable(f"cannot be read or run: {err.strerror}") from err
    finally:
        os.close(descriptor)
    if not applets:
        raise Unsuitable("lists no applets")
    return describe(data, applets)


def describe(data: bytes, applets: tuple[str, ...]) -> tuple[Entry, ...]:
    """The root around the program `data`: parents before what is in them. Pure.

    applets  where each is to be found, below the root: bin/ls
    """
    entries = skeleton.entries()
    entries |= {place: Directory(place, 0o755) for place in _PLACES}
    for path in applets:
        entries[path] = Link(path, os.path.relpath(_PROGRAM, os.path.dirname(path)))
    entries[_PROGRAM] = Program(_PROGRAM, 0o755, data)
    shells = [path for path in applets if os.path.basename(path) in _SHELLS]
    entries["etc/shells"] = File("etc/shells", 0o644, "".join(f"/{path}\n" for path in shells))
    return layers.ordered(entries)


# --- the applets, by the program's own word


def placed(names: list[str]) -> tuple[str, ...]:
    """Paths below the root for the lines of `busybox --list-full`: bin/ls. What is none of an applet is left out. Pure."""
    # One that was built without its installer tells names alone.
    paths = names if any("/" in name for name in names) else [f"bin/{name}" for name in names]
    return tuple(sorted({path for path in paths if path != _PROGRAM and _is_applet(path)}))


def _is_applet(path: str) -> bool:
    """Whether a link is made for it. Not for linuxrc, which would lie in /: only an initrd has use for it."""
    place, _, name = path.rpartition("/")
    return place in _PLACES and 0 < len(name) < 64 and name[0] != "." and set(name) <= _APPLET


def _output(program: int, option: str) -> bytes:
    """What `program`, a descriptor, prints when it is called with `option`; empty where it fails.

    It runs as what we are: root's own file, which runs as root wherever root types `sh`. Under an unprivileged
    id, other processes of that id could trace it and write what it prints. Its time and its output have bounds.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
        if pid == 0:
            _execute(program, option, write)
    except OSError:
        os.close(read)
        raise
    finally:
        os.close(write)
    try:
        output, status = _watch(pid, read)
    finally:
        os.close(read)
    if output is None:
        raise Unsuitable(f"cannot be asked for its applets: {option} printed too much or took too long")
    return output if status == 0 else b""


def _execute(program: int, option: str, out: int) -> NoReturn:
    """In the child: become the program."""
    try:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for source, target in ((null, 0), (out, 1), (null, 2)):
            os.dup2(source, target)
        os.execve(program, [NAME, option], {})
    finally:
        os._exit(127)


def _watch(pid: int, pipe: int) -> tuple[bytes | None, int]:
    """What the child `pid` writes into `pipe`, and its exit status (negative: a signal); then it has ended.

    None where it writes too much or takes too long.
    """
    end = time.monotonic() + _LIST_SECONDS
    pidfd = os.pidfd_open(pid)
    output = b""
    try:
        complete = False
        while not complete and len(output) <= _LIST_MAX and _is_ready(pipe, end):
            data = os.read(pipe, _LIST_MAX)
            output += data
            complete = not data
        # The end of its output is not yet its end.
        in_time = complete and _is_ready(pidfd, end)
        if not in_time:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return output if in_time else None, status
    finally:
        os.close(pidfd)


def _is_ready(descriptor: int, end: float) -> bool:
    """Whether there is something to read from `descriptor`, or its end, before the monotonic clock says `end`."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, end - time.monotonic()) * 1000))
