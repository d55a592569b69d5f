"""Container's init from its birth to execve: what happens in the child that clone3 made.

This is PID 1 of the container. It is born in its user and pid namespaces but in the mount
namespace M that host root is still filling. It waits until M is ready, locks it by unsharing it, takes on
the spec's process (terminal, user, filter, capabilities) and becomes the command. Nothing is imported here:
after the pivot the library's files are gone.

    shim                                     init
     ├─ maps written ───────────────── "maps" ─►  become root inside; net, ipc, uts, cgroup namespaces
     │  ◄────────────────────────────── "ready" ─┤  loopback up; done with the host's tree
     ├─ mounted and pivoted ──────────── "root" ─►  unshare(NEWNS)
     │  ◄───────────────── pty master (if any) ──┤
     └─ end of file on the error pipe  ◄──────────  execve
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from common.errors import Internal
from common.frames import NOTIFY_PATH
from dkrd.runtime import becoming, capabilities, cgroups, failure, reaper, syscalls, users

if TYPE_CHECKING:
    from dkrd.runtime.spec import Spec
    from dkrd.runtime.steps import Log

# In these init is not born: it makes them itself, while the guardian is at work on the mounts. They belong to its user namespace
# either way. The cgroup namespace must come after the cgroup: its root is where its maker is.
NAMESPACES = {
    "network": syscalls.CLONE_NEWNET,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "cgroup": syscalls.CLONE_NEWCGROUP,
}
MAPS, READY, ROOT, NOTIFY = b"maps", b"ready", b"root", b"notify"
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


@dataclass(frozen=True, slots=True)
class InitTask:
    """What init needs, all of it known before the clone.

    user        "NAME[:GROUP]" to look up inside, or None for the spec's numbers
    reaper      PID 1 stays ours (--init)
    stdio       {0..2: descriptor}
    tty         those of 0..2 that get the container's terminal; without 0 it is for output only. What is in
                neither stays closed
    preserved   descriptors that become 3, 4, ... in this order
    program     the compiled seccomp filter
    last_cap    the kernel's highest capability
    tasks       descriptors of the v1 cgroups' tasks files
    notify      a socket is made inside for what the command tells its client's service manager
    rests       there is no command: it holds the namespaces until the first of `preserved` says the end of file
    sync        SEQPACKET to the shim
    error       write end of the error pipe
    log         where the steps go; what they do is told by init_steps.py
    """

    spec: Spec
    user: str | None
    reaper: bool
    stdio: dict[int, int]
    tty: tuple[int, ...]
    preserved: tuple[int, ...]
    program: bytes
    last_cap: int
    tasks: tuple[int, ...]
    notify: bool
    rests: bool
    sync: socket.socket
    error: int
    log: Log


def run(task: InitTask) -> NoReturn:
    """Be init. Ends in execve, or in os._exit after the error's record."""
    recorder = task.log
    error = task.error
    try:
        # High, so that no preserved descriptor lands on it.
        error = fcntl.fcntl(task.error, fcntl.F_DUPFD_CLOEXEC, 3 + len(task.preserved) + 3)
        os.close(task.error)
        _run(task, error, recorder)
    except BaseException as err:
        failure.send(error, err, recorder.current or "init")
    os._exit(125)


def _run(task: InitTask, error: int, recorder: Log) -> NoReturn:
    spec = task.spec
    if task.tasks:
        recorder.begin("enter cgroup")
        # While still uid 0 of the host, whose files these are.
        cgroups.enter(task.tasks)
    recorder.begin("await maps")
    _await(task.sync, MAPS)
    if "user" in spec.namespaces:
        recorder.begin("identity")
        becoming.be_root()
    _prepare(task, recorder)
    recorder.begin("await root")
    task.sync.send(READY)
    _await(task.sync, ROOT)
    recorder.begin("lock")
    syscalls.unshare(syscalls.CLONE_NEWNS)
    if task.rests:
        _rest(task, error, recorder)  # which does not return
    recorder.begin("user")
    user = users.resolve(task.user, spec.process.uid, spec.process.gid, spec.process.additional_gids)
    recorder.note(becoming.ids(user))
    descriptors = dict(task.stdio)
    if spec.process.terminal:
        recorder.begin("terminal")
        peer = _terminal(task, user.uid)
        descriptors |= dict.fromkeys(task.tty, peer)
    if task.notify:
        recorder.begin("notify")
        _notify(task.sync)
    task.sync.close()
    recorder.begin("filter")
    # Before the capabilities go: without no_new_privs loading wants CAP_SYS_ADMIN (here: in the container's
    # user namespace).
    syscalls.seccomp_filter(task.program)
    recorder.begin("descriptors")
    becoming.descriptors(descriptors, task.preserved, error)
    if task.reaper:
        _with_reaper(user, recorder)
    becoming.become(spec.process, user, recorder, controlling=0 in task.tty)


def _rest(task: InitTask, error: int, recorder: Log) -> NoReturn:
    """Hold the namespaces, and nothing else, until whoever made them lets go or dies."""
    syscalls.set_name("dkr-rest")
    recorder.begin("read-only mounts")
    # What is mounted in the root is empty, and gone with this process: what would be written there would be lost without a word.
    syscalls.mount_setattr(syscalls.AT_FDCWD, "/", attr_set=syscalls.MOUNT_ATTR_RDONLY, recursive=True)
    if not task.spec.readonly:
        syscalls.mount_setattr(syscalls.AT_FDCWD, "/", attr_clr=syscalls.MOUNT_ATTR_RDONLY)
    recorder.begin("filter")
    syscalls.seccomp_filter(task.program)
    recorder.begin("descriptors")
    becoming.descriptors({}, task.preserved, error)
    recorder.begin("capabilities")
    capabilities.set_all(0, 0, 0)
    recorder.close()
    os.close(error)
    os.read(3, 1)
    os._exit(0)


def _prepare(task: InitTask, recorder: Log) -> None:
    """What needs no root filesystem of ours, while the guardian makes one."""
    spec = task.spec
    flags = 0
    for name, flag in NAMESPACES.items():
        flags |= flag if name in spec.namespaces else 0
    if flags:
        recorder.begin("namespaces")
        syscalls.unshare(flags)
    if "network" in spec.namespaces:
        recorder.begin("network")
        _loopback()
    if spec.hostname is not None:
        recorder.begin("hostname")
        socket.sethostname(spec.hostname)
    becoming.begin_anew(spec.process, task.last_cap, recorder)


def _await(sync: socket.socket, word: bytes) -> None:
    """Wait for the shim's next word. The shim's end gone means the start was given up."""
    got = sync.recv(16)
    if got != word:
        if not got:
            os._exit(125)
        raise Internal(f"cannot start the container: expected {word!r} from the shim, got {got!r}")


def _loopback() -> None:
    """The loopback interface up, low ports and ping open to everybody inside: no other interface is here to guard.

    While the guardian mounts, and before it pivots: /proc is still the host's, whose sys/net shows the reader's network
    namespace.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
    for name, value in (("ip_unprivileged_port_start", b"0"), ("ping_group_range", b"0 65535")):
        fd = os.open(f"/proc/sys/net/ipv4/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value)
        finally:
            os.close(fd)


def _terminal(task: InitTask, owner: int) -> int:
    """A pty of the container's own devpts, which is /dev/console as well: the master goes to the shim, the peer is returned."""
    process = task.spec.process
    master, peer = becoming.terminal(process.rows, process.columns, task.tty, owner)
    tree = syscalls.open_tree(peer, "", syscalls.AT_EMPTY_PATH | syscalls.OPEN_TREE_CLONE)
    console = syscalls.openat2(
        syscalls.AT_FDCWD, "/dev/console", os.O_PATH | os.O_NOFOLLOW, syscalls.RESOLVE_NO_SYMLINKS
    )
    syscalls.move_mount(tree, console)
    os.close(tree)
    os.close(console)
    becoming.send_master(task.sync, master)
    return peer


def _notify(sync: socket.socket) -> None:
    """A socket that anybody inside may send to, in our own /dev; it goes to the shim, for the client. Nobody else is inside yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.bind(NOTIFY_PATH)
        os.chmod(NOTIFY_PATH, 0o666)
        becoming.send_descriptor(sync, NOTIFY, sock.fileno())


def _with_reaper(user: users.User, recorder: Log) -> None:
    """Return in a child that is to become the command; PID 1 stays behind as the reaper and never returns."""
    recorder.begin("init")
    child = os.fork()
    if child == 0:
        os.setsid()
        return
    try:
        kill = 1 << capabilities.NUMBERS["CAP_KILL"]
        capabilities.set_all(kill, kill, 0)
        syscalls.set_name("dkr-init")
        # PID 1 keeps nothing of the caller's open: an end of file must not wait for it.
        null = os.open("/dev/null", os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        syscalls.close_range(3)
        recorder.close()
        reaper.run(child)
    finally:
        os._exit(125)
