"""What dkr needs of the kernel. Each thing is tried where this user may; what needs root and is not root is said."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from common import kernel_probes as probes
from dkrctl.doctor.checks import Check, is_root, ok, problem, untried, warning

_SYSCTLS = Path("/proc/sys")
# What holds an unprivileged user back from user namespaces; dkrd is root and is not held back.
_HOLDS = (
    ("kernel.unprivileged_userns_clone", "0"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1"),
)
_CONTROLLERS = ("cpu", "memory", "pids")


def sysctl(name: str) -> str | None:
    """The value of a sysctl, None where the kernel has none of this name."""
    try:
        return (_SYSCTLS / name.replace(".", "/")).read_text().strip()
    except OSError:
        return None


def checks() -> Iterator[Check]:
    """All of them."""
    yield _release()
    yield _machine()
    if is_root():
        yield _privilege()
    yield from _namespaces()
    yield _unprivileged()
    yield _mount_calls()
    yield _seccomp()
    yield _pidfd()
    yield _security_modules()
    yield from _cgroups()


def _release() -> Check:
    release = os.uname().release
    if probes.release(release) < probes.KERNEL:
        return problem("kernel", f"Linux {release}", "dkr needs Linux 6.1 or later")
    return ok("kernel", f"Linux {release}")


def _machine() -> Check:
    machine = os.uname().machine
    if machine not in probes.MACHINES:
        return problem("machine", machine, f"dkr runs on {' and '.join(probes.MACHINES)}")
    return ok("machine", machine)


def _privilege() -> Check:
    missing = probes.missing_capabilities()
    if missing:
        return problem(
            "capabilities",
            f"this root lacks {', '.join(missing)}",
            "run dkrd in the host's user namespace, without CapabilityBoundingSet= in its unit",
        )
    return ok("capabilities", "this root has all that building a container takes")


def _namespaces() -> Iterator[Check]:
    for name, flag, file, limit in probes.NAMESPACES:
        yield _namespace(f"{name} namespaces", flag, file, limit)


def _namespace(name: str, flag: int, file: str, limit: str) -> Check:
    allowed = sysctl(limit)
    if not os.path.exists(f"/proc/self/ns/{file}"):
        return problem(name, "the kernel has none", "use a kernel that has them built in")
    if allowed == "0":
        return problem(
            name, f"forbidden: {limit} is 0", f"sysctl -w {limit}=15000, and the same in /etc/sysctl.d"
        )
    # As a user, in a user namespace of its own: who may make that may make all others in it.
    number = probes.namespace(flag if is_root() else flag | probes.CLONE_NEWUSER)
    told = f"tried; at most {allowed}" if allowed else "tried"
    if not number:
        return ok(name, told)
    if not is_root():
        return untried(name, "the kernel has them")
    advice = "the host forbids it: see its security module and seccomp settings"
    if number == errno.ENOSPC:
        advice = f"raise the limit: sysctl -w {limit}=15000"
    return problem(name, f"cannot be made: {os.strerror(number).lower()}", advice)


def _unprivileged() -> Check:
    name = "unprivileged user namespaces"
    held = [f"{key}={value}" for key, value in _HOLDS if sysctl(key) == value]
    if held:
        return ok(name, f"restricted by {', '.join(held)}; dkr does not need them, its daemon is root")
    return ok(name, "not restricted")


def _mount_calls() -> Check:
    name = "mount calls"

    def question() -> None:
        probes.unshare(probes.CLONE_NEWNS | (0 if is_root() else probes.CLONE_NEWUSER))
        os.close(probes.mount_detached("tmpfs", {}))

    number = probes.errno_in_child(question)
    if not number:
        return ok(name, "fsopen, fsconfig and fsmount: tried")
    if number == errno.ENOSYS:
        return problem(name, "fsopen is not there", "use Linux 6.1 or later; a seccomp filter may hide it")
    if not is_root():
        return untried(name)
    return problem(
        name,
        f"fsopen: {os.strerror(number).lower()}",
        "the host forbids it: see its security module and seccomp settings",
    )


def _seccomp() -> Check:
    actions = sysctl("kernel.seccomp.actions_avail")
    if actions is None:
        return problem("seccomp", "the kernel has none", "use a kernel with CONFIG_SECCOMP_FILTER")
    wanted = {"errno", "kill_process", "allow"}
    if not wanted <= set(actions.split()):
        return problem("seccomp", f"it knows {actions} only", "use Linux 6.1 or later")
    return ok("seccomp", "filters are there")


def _security_modules() -> Check:
    """dkr needs none of them, and each may refuse what dkr does not."""
    found = probes.security_modules()
    return ok("security modules", ", ".join(found) if found else "not told: securityfs is not mounted")


def _pidfd() -> Check:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as err:
        return problem("pidfd", f"pidfd_open: {(err.strerror or '').lower()}", "use Linux 6.1 or later")
    if probes.release(os.uname().release) >= (6, 15):
        return ok("pidfd", "there, and they tell the exit of a container whose guardian was killed")
    return ok(
        "pidfd", "there; from Linux 6.15 they also tell the exit of a container whose guardian was killed"
    )


def _cgroups() -> Iterator[Check]:
    unified: str | None = None
    legacy: dict[str, str] = {}
    for line in Path("/proc/self/mountinfo").read_bytes().decode(errors="replace").rstrip("\n").split("\n"):
        head, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        if kind == "cgroup2":
            unified = unified or head.split()[4]
        elif kind == "cgroup":
            for controller in options.split(","):
                legacy.setdefault(controller, head.split()[4])
    held = [controller for controller in _CONTROLLERS if controller in legacy]
    if unified is None and not held:
        yield problem("cgroups", "no cgroup filesystem is mounted", "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
        return
    kind = "v2" if not held else "v1" if unified is None else "v1 controllers beside a v2 tree"
    yield ok("cgroups", f"{kind}, at {unified or legacy[held[0]]}")
    offered = set(held)
    if unified is not None:
        try:
            offered |= set(Path(unified, "cgroup.controllers").read_text().split())
        except OSError as err:
            yield warning(
                "cgroup controllers", f"{unified}: {err.strerror}", "see how the cgroup tree is mounted"
            )
            return
    missing = [controller for controller in _CONTROLLERS if controller not in offered]
    if missing:
        yield warning(
            "cgroup controllers",
            f"missing: {', '.join(missing)}",
            "containers run, but limits of these are refused, and without pids a tenant's processes have no bound; "
            "enable them on the kernel's command line (cgroup_enable=memory)",
        )
    else:
        yield ok("cgroup controllers", ", ".join(_CONTROLLERS))
