"""What a guardian does before it builds, in strace's manner; made when somebody reads it (dkrd/runtime/steps.py).

What is no system call but a judgement of ours is written as one, with its result: `judge(uid=1000, …) = allowed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkrd import policy
from dkrd.runtime import cgroup_tree, strace

if TYPE_CHECKING:
    from dkrd.runtime.limits import Write
    from dkrd.runtime.spec import Spec
    from dkrd.shim.config import Config
    from dkrd.shim.first import First

SESSION = (
    "socketpair(AF_UNIX, SOCK_SEQPACKET, 0, [ours, theirs]); setsockopt(ours, SOL_SOCKET, SO_PASSCRED, 1); "
    'sendmsg(connection, {"type": "session", …}, SCM_RIGHTS [theirs])'
)
# For a client that speaks plain HTTP the api has made one, and keeps the other end.
PLAIN = "socketpair(AF_UNIX, SOCK_SEQPACKET, 0, [theirs, ours]) by the api, passed on by the launcher"
ETC = ("hostname", "hosts", "resolv.conf")  # files of /etc that every container gets


def fork(note: str) -> str:
    """By the launcher. The note: the guardian's pid."""
    return f"fork() = {note}"


def ahead(note: str) -> str:
    """By the launcher, to a guardian that it has forked before anybody asked. The note: the guardian's pid."""
    return f"fork() = {note} (ahead); sendmsg(guardian, {{task, bundle}}, SCM_RIGHTS [connection])"


def bundle(size: int, note: str) -> str:
    """The bundle's bytes become the spec."""
    return f"parse({size} bytes of JSON)"


def evidence(note: str) -> str:
    """The note: pid, uid and gid of who connected."""
    found = " = {{pid={}, uid={}, gid={}}}".format(*note.split()) if note else ""
    return strace.calls(
        "ioctl(connection, SIOCUNIXFILE) = the listener's file",
        "poll(connection, POLLHUP, 0) = 0",
        f"getsockopt(connection, SOL_SOCKET, SO_PEERCRED){found}",
        "getsockopt(connection, SOL_SOCKET, SO_PEERGROUPS)",
    )


def who(credentials: policy.Credentials) -> str:
    """The note of what says who somebody is."""
    return f"{credentials.pid} {credentials.uid} {credentials.gid}"


def request(note: str) -> str:
    """The note: pid, uid and gid of the frame's sender, then the numbers that its descriptors are for."""
    if not note:
        return "poll(session, POLLIN, 10000); recvmsg(session)"
    pid, uid, gid, *numbers = note.split()
    credentials = f"SCM_CREDENTIALS {{pid={pid}, uid={uid}, gid={gid}}}"
    rights = f", SCM_RIGHTS [{', '.join(numbers)}]" if numbers else ""
    return f'poll(session, POLLIN, 10000); recvmsg(session) = {{"type": "start", …}}, {credentials}{rights}'


def came(first: First) -> str:
    """The note of the first frame."""
    return (
        f"{who(first.credentials)} {' '.join(map(str, (*first.stdio, *range(3, 3 + len(first.preserved)))))}"
    )


def judge(spec: Spec, asks: frozenset[str], note: str) -> str:
    """The note: whose rights count, where they were found to do."""
    needs = ", ".join(sorted(policy.needs(spec)))
    found = f" = allowed, as {note}" if note else ""
    return f"judge(spec, needs={{{needs}}}, asks={{{', '.join(sorted(asks))}}}){found}"


def granted(note: str) -> str:
    """The judgement of a start by a grant. The note: whose rights counted."""
    found = f" = allowed, as {note}" if note else ""
    return f'read("grant.json"); read("config.json"); judge(needs(spec) <= grant.asks){found}'


def log(directory: str, note: str) -> str:
    """The file that the output goes to."""
    path = strace.text(f"{directory}/container.log")
    return f"openat(AT_FDCWD, {path}, O_WRONLY|O_APPEND|O_CREAT|O_NOFOLLOW|O_CLOEXEC, 0600)"


def journal(note: str) -> str:
    """Where the output goes as records."""
    return strace.calls(
        "socket(AF_UNIX, SOCK_DGRAM|SOCK_CLOEXEC, 0)", 'connect(journal, "/run/systemd/journal/socket")'
    )


def pipes(tty: tuple[int, ...]) -> str:
    """What the guardian holds the other ends of; what has a terminal has no pipe."""
    return strace.calls(*(f"pipe2({number}, O_CLOEXEC)" for number in (0, 1, 2) if number not in tty))


def rights(caller: policy.Caller) -> str:
    """The note of the judgement."""
    return f"uid {caller.uid}, {'an admin' if caller.admin else 'a tenant'}"


def run_directory(directory: str, note: str) -> str:
    """Where a launcher finds the guardian again."""
    return (
        f"mkdir({strace.text(directory)}, 0700); socket(AF_UNIX, SOCK_SEQPACKET, 0); "
        'bind(listener, "shim.sock"); chmod("shim.sock", 0600); listen(listener, 8)'
    )


def claim(directory: str, note: str) -> str:
    """A range of ids. The note: the slot that was free, and its first id."""
    slot, _, first = (note or "slot ").partition(" ")
    found = f" = {first}" if first else ""
    flags = "O_RDWR|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC"
    return strace.calls(
        f'openat({strace.text(directory)}, "{slot}", {flags}, 0600)',
        "flock(slot, LOCK_EX|LOCK_NB)",
        f'pwrite64(slot, {{"uid": …, "id": …}}){found}',
    )


def files(directory: str, base: int, config: Config, note: str) -> str:
    """The directories of the overlay, and what is laid in it or beside it."""
    calls = [f'mkdir({strace.text(directory + "/")}, {{"upper", "work"}}, 0755)']
    if config.root_has_etc:
        calls.append(f"chown(upper, {base}, {base})")
    else:
        calls.append(f"write(upper/etc, {{{', '.join(strace.text(name) for name in ETC)}}})")
        calls.append(f"fchown({{upper, its etc and files}}, {base}, {base})")
    return strace.calls(*calls, *(() if config.rm else ('write("config.json")', 'write("grant.json")')))


def cgroup(kind: str, paths: tuple[str, ...], note: str) -> str:
    """A directory in each hierarchy that matters. On a `kind` of v2 the leaf's directory is there: its guardian was born in it."""
    made: list[str] = []
    for path in paths:
        leaf = path.endswith(f"/{cgroup_tree.LEAF}")
        above = (path.removesuffix(f"/{cgroup_tree.LEAF}"),) if leaf and kind != "v2" else ()
        made += [f"mkdir({strace.text(name)}, 0755)" for name in (*above, path)]
    return strace.calls(*made)


def limits(writes: tuple[Write, ...], note: str) -> str:
    """What bounds it. The note: the files that are not there, of limits that nobody asked for."""
    lacking = note.split()
    return strace.calls(
        *(
            f"write({strace.text(write.path)}, {strace.text(write.text)})"
            + (" = -1 ENOENT" if write.path in lacking else "")
            for write in writes
        )
    )


def state(directory: str, note: str) -> str:
    """The first word on what the container is."""
    name = strace.text(f"{directory}/state.json")
    return f'write({name}, {{"status": "creating", …}}); sendmsg(reports, {{"type": "state", …}})'


def plan(program: str, note: str) -> str:
    """From the spec to a list of operations, and the filter's program. The note: how many operations."""
    found = f" = {note} operations" if note else ""
    flags = "O_RDONLY|O_CLOEXEC|O_NOFOLLOW|O_NONBLOCK"
    return f"plan(spec){found}; openat(AT_FDCWD, {strace.text(program)}, {flags})"
