"""What container's init does, in strace's manner: told by its guardian, who gave it its task.

Init itself writes down only when each step began, and what it alone found out (steps.Log).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.frames import NOTIFY_PATH
from dkrd.runtime import capabilities, cgroup_tree, init, strace

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.runtime.build import Task

_READ = "{flags=O_RDONLY|O_NONBLOCK|O_NOCTTY|O_CLOEXEC, resolve=RESOLVE_NO_MAGICLINKS}"


def describe(task: Task, place: int, name: str, note: str) -> str:
    """The step `name`; empty where no such step is known."""
    told = _TOLD.get(name, "")
    return told if isinstance(told, str) else told(task, note)


def _enter_cgroup(task: Task, note: str) -> str:
    # Of a v2 leaf init was born a member (CLONE_INTO_CGROUP).
    return strace.calls(
        *(
            f'write("{path}/tasks", "0")'
            for path in task.cgroup.paths
            if not path.endswith(f"/{cgroup_tree.LEAF}")
        )
    )


def _namespaces(task: Task, note: str) -> str:
    own = (flag for name, flag in init.NAMESPACES.items() if name in task.spec.namespaces)
    return f"unshare({strace.flags(sum(own), 'CLONE_')})"


def _hostname(task: Task, note: str) -> str:
    name = task.spec.hostname or ""
    return f"sethostname({strace.text(name)}, {len(name.encode())})"


def _bounding_set(task: Task, note: str) -> str:
    kept = frozenset(task.spec.process.capabilities.bounding)
    dropped = [name for name in capabilities.NAMES[: task.last_cap + 1] if name not in kept]
    return f"prctl(PR_CAPBSET_DROP, {{{', '.join(dropped)}}})"


def _user(task: Task, note: str) -> str:
    # Who is not found in the first is not looked for in the second.
    files = ("/etc/passwd", "/etc/group") if task.user is not None and note else ("/etc/passwd",)
    looked = [f"openat2(AT_FDCWD, {strace.text(path)}, {_READ})" for path in files]
    ids = note.split()
    found = f" = uid {ids[0]}, gid {ids[1]}, groups [{', '.join(ids[3:])}]" if ids else ""
    return strace.calls(*looked) + found


def _terminal(task: Task, note: str) -> str:
    process = task.spec.process
    size = f"{{ws_row={process.rows}, ws_col={process.columns}}}"
    return strace.calls(
        'openat(AT_FDCWD, "/dev/pts/ptmx", O_RDWR|O_NOCTTY|O_CLOEXEC)',
        "ioctl(master, TIOCSPTLCK, [0])",
        f"ioctl(master, TIOCSWINSZ, {size})",
        "ioctl(master, TIOCGPTPEER, O_RDWR|O_NOCTTY|O_CLOEXEC)",
        strace.clone_tree("peer"),
        'move_mount(tree, "", "/dev/console")',
        'sendmsg(sync, "master", SCM_RIGHTS [master])',
    )


def _filter(task: Task, note: str) -> str:
    return f"seccomp(SECCOMP_SET_MODE_FILTER, 0, {{len={len(task.program) // 8}}})"


def _descriptors(task: Task, note: str) -> str:
    numbers = sorted({*task.stdio, *task.tty, *range(3, 3 + len(task.preserved))})
    closed = [f"close({number})" for number in range(3) if number not in numbers]
    return strace.calls(
        *closed,
        f"fcntl({{each of the caller's}}, F_DUPFD_CLOEXEC, {3 + len(task.preserved)})",
        f"dup2({{each of the caller's}}, {{{', '.join(map(str, numbers))}}})",
        f"close_range({3 + len(task.preserved)}, ~0U) /* all but the pipe for an error */",
    )


def _capabilities(task: Task, note: str) -> str:
    ids = note.split() or ["?", "?", "0"]  # killed before it could note them
    uid, gid, count, groups = ids[0], ids[1], ids[2], ids[3:]
    process = task.spec.process
    sets = process.capabilities
    masks = [f"{capabilities.mask(names):#x}" for names in (sets.effective, sets.permitted, sets.inheritable)]
    capset = f"capset({{effective={masks[0]}, permitted={masks[1]}, inheritable={masks[2]}}})"
    return strace.calls(
        f"setgroups({count}, [{', '.join(groups)}])",
        f"setresgid({gid}, {gid}, {gid})",
        f"setresuid({uid}, {uid}, {uid})",
        "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)",
        *((capset,) if uid == "0" else ()),
        *(("prctl(PR_SET_NO_NEW_PRIVS, 1)",) if process.no_new_privileges else ()),
    )


def _chdir(task: Task, note: str) -> str:
    return f"chdir({strace.text(task.spec.process.cwd)})"


def execve(args: tuple[str, ...], env: tuple[str, ...]) -> str:
    """The last step; a name without a slash is looked for in PATH, exec(3)."""
    call = "execve" if "/" in args[0] else "execvpe"
    names = {entry.partition("=")[0] for entry in env} | {"HOME"}
    count = len(names | ({"LISTEN_PID"} if "LISTEN_FDS" in names else set()))
    return f"{call}({strace.text(args[0])}, {strace.texts(args)}, envp /* {count} vars */)"


def _execve(task: Task, note: str) -> str:
    return execve(task.spec.process.args, task.spec.process.env)


_TOLD: dict[str, str | Callable[[Task, str], str]] = {
    "enter cgroup": _enter_cgroup,
    "await maps": 'recvfrom(sync) = "maps"',
    "identity": "setgroups(0, []); setresgid(0, 0, 0); setresuid(0, 0, 0)",
    "namespaces": _namespaces,
    "network": 'ioctl(socket, SIOCSIFFLAGS, {ifr_name="lo", ifr_flags=IFF_UP}); '
    'write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"); '
    'write("/proc/sys/net/ipv4/ping_group_range", "0 65535")',
    "hostname": _hostname,
    "new session": "setsid(); keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL); umask(022); rt_sigaction({1 to 64}, SIG_DFL)",
    "bounding set": _bounding_set,
    "await root": 'sendto(sync, "ready"); recvfrom(sync) = "root"',
    "lock": "unshare(CLONE_NEWNS)",
    "user": _user,
    "terminal": _terminal,
    "notify": f'socket(AF_UNIX, SOCK_DGRAM, 0); bind(socket, "{NOTIFY_PATH}"); chmod("{NOTIFY_PATH}", 0666); '
    'sendmsg(sync, "notify", SCM_RIGHTS [socket])',
    "filter": _filter,
    "descriptors": _descriptors,
    "init": "fork(); setsid()",
    "controlling terminal": "ioctl(0, TIOCSCTTY, 0)",
    "capabilities": _capabilities,
    "chdir": _chdir,
    "execve": _execve,
}
