"""Why each step of a start is done: one sentence, the file of dkr that does it, the manual pages to read.

Beside the client, because it is for people: what a daemon tells are names, calls and times. A step of a newer daemon that is not
in the table is shown without a sentence; tests compare the table with the steps of real starts.
"""

from typing import NamedTuple


class Why(NamedTuple):
    """What is told of a step.

    file   below the sources of dkr
    pages  "name(section)", to be read by man(1)
    waits  the step is a wait for another process: its duration is that one's
    """

    sentence: str
    file: str
    pages: tuple[str, ...]
    waits: bool = False


def _pages(words: str) -> tuple[str, ...]:
    return tuple(words.split())


# Where a section of the story begins: the process and the first step of it that is there, and the section's title.
SECTIONS: dict[tuple[str, str], str] = {
    ("launcher", "fork"): "The launcher makes a guardian",
    ("shim", "bundle"): "The guardian is asked",
    ("shim", "run directory"): "The guardian makes what the container has on the host",
    ("shim", "mount namespace"): "The guardian makes init",
    ("init", "enter cgroup"): "Init, while the guardian mounts",
    ("init", "await maps"): "Init, while the guardian mounts",
    ("shim", "layers"): "The guardian mounts",
    ("helper", "layers"): "A helper mounts",
    ("helper", "attach root"): "A helper mounts",
    ("shim", "await init"): "The guardian mounts the rest, and the walls",
    ("helper", "await init"): "The helper mounts the rest, and the walls",
    ("shim", "return"): "The guardian returns to the host",
    ("init", "lock"): "Init locks the walls, and becomes the command",
}

WHYS: dict[str, Why] = {
    "fork": Why(
        "Every container has a guardian of its own, so that no process of the daemon is in its way. A fork of a small process "
        "that has loaded all it needs is the fastest start there is.",
        "dkrd/launcher/shims.py",
        _pages("fork(2)"),
    ),
    # the guardian, before it builds
    "bundle": Why(
        "The spec came from the api, which reads everybody's text and is therefore believed by nobody: root's side reads it "
        "again, by a closed schema.",
        "dkrd/shim/config.py",
        (),
    ),
    "evidence": Why(
        "Who asks is what the kernel says of the client's own connection. That it was accepted from the daemon's socket "
        "cannot be forged; what the api claims is not asked for.",
        "dkrd/evidence.py",
        _pages("unix(7)"),
    ),
    "session": Why(
        "From here on client and guardian speak over a socket that root made: the api can neither read it nor take the "
        "descriptors that pass.",
        "dkrd/shim/session.py",
        _pages("unix(7) socketpair(2)"),
    ),
    "request": Why(
        "The client says once more, out of the api's reach, what it wants, and hands over its own input and output.",
        "dkrd/shim/first.py",
        _pages("unix(7) recvmsg(2)"),
        waits=True,
    ),
    "judge": Why(
        "The spec must be the one that the request means, and may need nothing that this caller may not have.",
        "dkrd/policy.py",
        (),
    ),
    "run directory": Why(
        "By this socket a restarted launcher finds the guardian again: every other process of the daemon may die, and "
        "the container lives on.",
        "dkrd/shim/begun.py",
        _pages("unix(7) mkdir(2)"),
    ),
    "log": Why(
        "Nobody has handed over where the output goes: it is kept, in a file of bounded size that the guardian alone writes.",
        "dkrd/shim/log_file.py",
        _pages("open(2)"),
    ),
    "journal": Why(
        "Its caller wants the output in the host's journal: each line is a record there, sent by the guardian.",
        "dkrd/shim/log_journal.py",
        _pages("unix(7) systemd.journal-fields(7)"),
    ),
    "pipes": Why(
        "The other ends are the guardian's, who reads them whether or not anybody is attached: no output holds up the command.",
        "dkrd/shim/pipes.py",
        _pages("pipe(2) pipe(7)"),
    ),
    "directory": Why(
        "All that the container has on disk lies below; first, so that whatever fails later is found and removed.",
        "dkrd/shim/container.py",
        _pages("mkdir(2)"),
    ),
    "id range": Why(
        "65536 user ids that nothing else on the host has: who is root inside is nobody outside. The lock is the claim.",
        "dkrd/ids.py",
        _pages("user_namespaces(7) flock(2)"),
    ),
    "files": Why(
        "The upper layer takes what the container writes. It belongs to the range, and has the few files of /etc that "
        "every container gets, before anybody runs inside.",
        "dkrd/shim/container.py",
        _pages("chown(2) hosts(5) resolv.conf(5)"),
    ),
    "cgroup": Why(
        "Made before the container's first process, so that not even that one is ever outside of its bounds.",
        "dkrd/runtime/cgroups.py",
        _pages("cgroups(7)"),
    ),
    "limits": Why(
        "What the container may take of the machine, before there is anybody to take it. The bounds of the cgroups above hold as well: "
        "one of its own can only be tighter.",
        "dkrd/runtime/limits.py",
        _pages("cgroups(7)"),
    ),
    "state": Why(
        "Written by rename, before anything runs: after a crash it says what is to be finished or undone.",
        "dkrd/shim/state.py",
        _pages("rename(2)"),
    ),
    "open root": Why(
        "The directory that the daemon's settings name, for everybody: each one on the way must be root's, and none a link, or "
        "others had a say in what it is.",
        "dkrd/shim/default_root.py",
        _pages("openat2(2) fork(2)"),
    ),
    "clone root": Why(
        "A descriptor is all that is believed of a directory: it can only be had by who may reach it. What must stay covered "
        "by mounts is looked for without asking the filesystem, which may not answer.",
        "dkrd/runtime/trees.py",
        _pages("open_tree(2) proc_pid_mountinfo(5)"),
    ),
    "plan": Why(
        "First a list of what is to be mounted, made by a pure function; then a loop carries it out and decides nothing.",
        "dkrd/runtime/mounts.py",
        (),
    ),
    # the guardian builds
    "mount namespace": Why(
        "It belongs to the host's user namespace: what the host's root mounts in it, the container's root can never undo. "
        "Private, so that the host sees none of it.",
        "dkrd/runtime/build.py",
        _pages("mount_namespaces(7) unshare(2)"),
    ),
    "time namespace": Why(
        "Clocks of their own for children born from here on; the guardian itself stays in the host's.",
        "dkrd/runtime/build.py",
        _pages("time_namespaces(7)"),
    ),
    "clone": Why(
        "Init is born: process 1 of a new pid namespace, in a new user namespace and in its cgroup, but still in the "
        "mount namespace that is yet to be filled.",
        "dkrd/runtime/build.py",
        _pages("clone(2) pid_namespaces(7)"),
    ),
    "id maps": Why(
        "Id 0 inside becomes the first id of the range. Until now init was nobody; only who has rights over both sides "
        "may write a map.",
        "dkrd/runtime/build.py",
        _pages("user_namespaces(7)"),
    ),
    "helper": Why(
        "A caller's directory may be on a filesystem that does not answer, and a helper can be killed. Before Linux 6.18 there "
        "is always one: /proc shows the pid namespace of who mounts it.",
        "dkrd/runtime/mounting.py",
        _pages("pid_namespaces(7) setns(2)"),
    ),
    "attach root": Why(
        "Read-only, so that it is never written. Of a tenant's directory only the tenant's own ids mean somebody inside, so "
        "the container's root has no right there that the tenant has not.",
        "dkrd/runtime/tree_root.py",
        _pages("mount_setattr(2) user_namespaces(7)"),
    ),
    "layers": Why(
        "The read-only layers, cloned once for all of them and shown with the range's ids: what root owns there belongs "
        "to the container's root, and nothing is copied. Before Linux 6.15 they are attached for a moment.",
        "dkrd/runtime/operations.py",
        _pages("open_tree(2) mount_setattr(2)"),
    ),
    "overlay": Why(
        "The root: what is read comes from the layers, what is written goes to the container's own directory, so no run "
        "changes an image.",
        "dkrd/runtime/operations.py",
        _pages("fsopen(2) fsconfig(2) fsmount(2)"),
    ),
    "detach layers": Why(
        "The overlay holds clones of its own. A mount of all layers that stayed would be there for the container as well.",
        "dkrd/runtime/operations.py",
        _pages("umount(2)"),
    ),
    "bind": Why(
        "What the root `host` shows of the host, read-only and with the host's ids: the container's root may read there "
        "what anybody may, and no more.",
        "dkrd/shim/host_binds.py",
        _pages("open_tree(2) mount_setattr(2) move_mount(2)"),
    ),
    "mount": Why(
        "A fresh filesystem with ids of the container. Where it goes is found by the kernel, inside the root: a link that "
        "somebody put there leads nowhere else.",
        "dkrd/runtime/operations.py",
        _pages("fsopen(2) openat2(2) move_mount(2)"),
    ),
    "devices": Why(
        "The container's root cannot make device nodes that work, so the six harmless ones are made for it.",
        "dkrd/runtime/walls.py",
        _pages("mknod(2) null(4) random(4)"),
    ),
    "await init": Why(
        "What is mounted next shows namespaces of who mounts it, so init must have made its own; and it must be done with "
        "the host's files before they go.",
        "dkrd/runtime/mounting.py",
        _pages("unix(7)"),
        waits=True,
    ),
    "join": Why(
        "Seen from init's network and ipc namespaces, /sys has the container's interfaces and /dev/mqueue its queues.",
        "dkrd/runtime/mounting.py",
        _pages("setns(2) network_namespaces(7)"),
    ),
    "readonly": Why(
        "Paths by which the kernel itself could be changed, bound over themselves without the right to write.",
        "dkrd/runtime/walls.py",
        _pages("mount_setattr(2) proc(5)"),
    ),
    "read-only root": Why(
        "With --read-only the root's own mount loses the right to write; what is mounted in it keeps its own rights.",
        "dkrd/runtime/operations.py",
        _pages("mount_setattr(2)"),
    ),
    "mask": Why(
        "Paths that tell too much of the machine are covered: a directory by an empty one, a file by the null device.",
        "dkrd/runtime/walls.py",
        _pages("move_mount(2) proc(5)"),
    ),
    "pivot": Why(
        "The new root becomes /, and the host's tree leaves the namespace: no path leads back.",
        "dkrd/runtime/operations.py",
        _pages("pivot_root(2)"),
    ),
    "return": Why(
        "The guardian goes home. The namespace that it filled lives on, because init is in it.",
        "dkrd/runtime/build.py",
        _pages("setns(2)"),
    ),
    "await helper": Why(
        "The helper's end says that the root stands; an error comes through a pipe.",
        "dkrd/runtime/mounting.py",
        _pages("wait(2) pipe(7)"),
        waits=True,
    ),
    "root": Why("The word to init that its root stands.", "dkrd/runtime/build.py", _pages("unix(7)")),
    "master": Why(
        "The other side of the terminal, which init opened inside: it goes on to the client.",
        "dkrd/runtime/build.py",
        _pages("pty(7) unix(7)"),
        waits=True,
    ),
    "await execve": Why(
        "The pipe for init's error closes by itself when the command begins: its end is the good news.",
        "dkrd/runtime/failure.py",
        _pages("pipe(7) fcntl(2)"),
        waits=True,
    ),
    # init
    "enter cgroup": Why(
        "A process that moves itself takes no lock of the whole machine. Into a cgroup of version 2 it is born.",
        "dkrd/runtime/cgroups.py",
        _pages("cgroups(7)"),
    ),
    "await maps": Why(
        "Without its maps init has no ids at all.",
        "dkrd/runtime/init.py",
        _pages("user_namespaces(7)"),
        waits=True,
    ),
    "identity": Why(
        "Now ids 0 inside exist, and init becomes them: root of its own namespaces, and of nothing else.",
        "dkrd/runtime/init.py",
        _pages("user_namespaces(7) setresuid(2)"),
    ),
    "namespaces": Why(
        "The rest of its namespaces init makes itself, at the same time as others mount. They belong to its user namespace, "
        "so the container's root may use them.",
        "dkrd/runtime/init.py",
        _pages("namespaces(7) unshare(2)"),
    ),
    "network": Why(
        "A new network has one interface, loopback, and that is down. Low ports and ping are open to all: nobody is there "
        "who would have to be guarded.",
        "dkrd/runtime/init.py",
        _pages("network_namespaces(7) netdevice(7) icmp(7)"),
    ),
    "hostname": Why(
        "The name that is seen inside; the host keeps its own.",
        "dkrd/runtime/init.py",
        _pages("uts_namespaces(7) sethostname(2)"),
    ),
    "new session": Why(
        "No terminal, no keys and no ignored signals of the daemon come along.",
        "dkrd/runtime/becoming.py",
        _pages("setsid(2) session-keyring(7) signal(7)"),
    ),
    "bounding set": Why(
        "What is dropped here no program inside can ever get back, not even a setuid one of root's.",
        "dkrd/runtime/capabilities.py",
        _pages("capabilities(7) prctl(2)"),
    ),
    "await root": Why(
        "Init has done what needs no root filesystem of its own.",
        "dkrd/runtime/init.py",
        _pages("unix(7)"),
        waits=True,
    ),
    "lock": Why(
        "A copy of the mount namespace, owned by the container's user namespace as the one before was not: so the kernel "
        "locks every mount and flag in it, for the container's root too.",
        "dkrd/runtime/init.py",
        _pages("mount_namespaces(7) unshare(2)"),
    ),
    "user": Why(
        "Read in the container's own files, by a small parser: the C library would load modules that the root may have chosen.",
        "dkrd/runtime/users.py",
        _pages("passwd(5) group(5)"),
    ),
    "terminal": Why(
        "Opened in the container's own devpts, by its own root: it belongs to an id of the container, and no other can be "
        "mistaken for it.",
        "dkrd/runtime/becoming.py",
        _pages("pty(7) ioctl_tty(2)"),
    ),
    "notify": Why(
        "What the command tells a service manager goes to a socket of its own /dev, which its client reads and passes on: the manager's is "
        "not reached from inside, and hears processes of its unit alone.",
        "dkrd/runtime/init.py",
        _pages("sd_notify(3) unix(7)"),
    ),
    "notify socket": Why(
        "The other end of that is the client's; it passes the guardian.",
        "dkrd/runtime/build.py",
        _pages("unix(7)"),
    ),
    "filter": Why(
        "From here on the kernel looks at every system call. Before the capabilities go, because loading takes one.",
        "dkrd/runtime/seccomp_profile.py",
        _pages("seccomp(2)"),
    ),
    "descriptors": Why(
        "Only what the caller gave stays open: one descriptor of the host's would be a way out (CVE-2024-21626).",
        "dkrd/runtime/becoming.py",
        _pages("dup(2) close_range(2)"),
    ),
    "init": Why(
        "With --init a small process 1 stays behind that forwards signals and reaps; its child becomes the command.",
        "dkrd/runtime/reaper.py",
        _pages("fork(2) pid_namespaces(7)"),
    ),
    "controlling terminal": Why(
        "So that ctrl-C typed there is a signal here.",
        "dkrd/runtime/becoming.py",
        _pages("ioctl_tty(2) credentials(7)"),
    ),
    "capabilities": Why(
        "The command's groups and user, and what remains of root's rights. In this order: without rights nobody changes who "
        "they are.",
        "dkrd/runtime/capabilities.py",
        _pages("capabilities(7) setresuid(2)"),
    ),
    "chdir": Why(
        "As the command's user, who must be allowed to be there; a directory outside of the root is refused.",
        "dkrd/runtime/command.py",
        _pages("chdir(2)"),
    ),
    "execve": Why(
        "The same process, another program. What dkr had open in it closes by itself.",
        "dkrd/runtime/command.py",
        _pages("execve(2) exec(3)"),
    ),
}
