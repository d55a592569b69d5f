"""What the command is born with: capabilities, filter, descriptors, signals, groups, environment."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.security.inside import PRELUDE, PYTHON, ask, status_fields

if TYPE_CHECKING:
    from tests import host
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

# Docker's default set as the kernel writes it.
DOCKER = f"{0xA80425FB:016x}"
NONE = f"{0:016x}"


def _status(daemon: Daemon, *options: str, user: host.User | None = None) -> dict[str, str]:
    """Of the first process, executed without a shell between."""
    return status_fields(daemon.run(*options, "/bin/cat", "/proc/self/status", user=user).stdout)


@pytest.mark.parametrize("options", [(), ("--init",), ("--userns", "host"), ("--network", "host")])
def test_all_five_capability_sets_are_dockers(daemon: Daemon, options: tuple[str, ...]) -> None:
    status = _status(daemon, *options)
    found = {name: status[name] for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")}
    mknod = 1 << 27
    # With the host's user namespace CAP_MKNOD would be the host's disks: see test_isolation_devices.
    wanted = f"{0xA80425FB & ~mknod:016x}" if options == ("--userns", "host") else DOCKER
    assert found == {"CapBnd": wanted, "CapPrm": wanted, "CapEff": wanted, "CapInh": NONE, "CapAmb": NONE}


def test_another_user_has_none_but_the_bound(daemon: Daemon, tenant: host.User) -> None:
    status = _status(daemon, "--user", "1000:1000", user=tenant)
    found = {name: status[name] for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")}
    assert found == {"CapBnd": DOCKER, "CapPrm": NONE, "CapEff": NONE, "CapInh": NONE, "CapAmb": NONE}
    assert status["Uid"].split() == status["Gid"].split() == ["1000"] * 4


def test_a_filter_is_loaded_and_signals_are_at_their_defaults(daemon: Daemon) -> None:
    def unpleasant() -> None:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR2, signal.SIGTERM))

    done = daemon.run("/bin/cat", "/proc/self/status", preexec_fn=unpleasant)
    status = status_fields(done.stdout)
    assert {status[name] for name in ("SigIgn", "SigBlk", "SigCgt", "SigPnd", "ShdPnd")} == {NONE}
    assert (status["Seccomp"], status["Seccomp_filters"]) == ("2", "1")
    assert status["Umask"] == "0022"


def test_only_what_was_passed_is_open(daemon: Daemon, tenant: host.User) -> None:
    probe = "tell({n: os.readlink('/proc/self/fd/' + n) for n in os.listdir('/proc/self/fd') if os.path.lexists('/proc/self/fd/' + n)})"
    with open("/etc/hostname") as one, open("/etc/passwd") as other:
        high = [fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 300) for file in (one, other)]
        passed = {"pass_fds": (one.fileno(), other.fileno(), *high)}
        try:
            assert set(ask(daemon, probe, user=tenant, **passed)) == {"0", "1", "2"}
        finally:
            for number in high:
                os.close(number)


def test_preserved_descriptors_and_no_others(daemon: Daemon, tenant: host.User) -> None:
    probe = """
names = sorted(int(n) for n in os.listdir('/proc/self/fd') if os.path.lexists('/proc/self/fd/' + n))
tell([names, os.read(3, 100).decode(), os.read(4, 100).decode()])
"""

    def arrange() -> None:
        for number, text in ((3, b"three"), (4, b"four"), (5, b"five")):
            read, write = os.pipe()
            os.write(write, text)
            os.close(write)
            os.dup2(read, 20 + number)
        for number in (3, 4, 5):
            os.dup2(20 + number, number, inheritable=True)

    seen = ask(daemon, probe, "--preserve-fds", "2", user=tenant, close_fds=False, preexec_fn=arrange)
    assert seen == [[0, 1, 2, 3, 4], "three", "four"]


def test_a_descriptor_closed_at_the_callers_stays_closed(daemon: Daemon) -> None:
    probe = "os.write(1, json.dumps(sorted(os.listdir('/proc/self/fd'))).encode())"
    done = daemon.run(*PYTHON, PRELUDE + probe, stdin=None, preexec_fn=lambda: os.close(0))
    # What the program opens to look is the lowest free one.
    assert done.stdout == '["0", "1", "2"]'


def test_groups_are_the_containers_own(daemon: Daemon, tenant: host.User, admin: host.User) -> None:
    assert len(admin.groups) > 1
    for user in (tenant, admin, None):
        assert _status(daemon, user=user)["Groups"].strip() == ""
    done = daemon.run("/bin/cat", "/proc/self/status", extra_groups=[0, 4, 27])
    assert status_fields(done.stdout)["Groups"].strip() == ""


def test_the_daemons_groups_do_not_come_along(make_daemon: MakeDaemon) -> None:
    before = os.getgroups()
    os.setgroups([0, 4, 27])
    try:
        daemon = make_daemon()
    finally:
        os.setgroups(before)
    assert status_fields(Path(f"/proc/{daemon.pid}/status").read_text())["Groups"].split() == ["0", "4", "27"]
    for options in ((), ("--user", "1000:1000"), ("--init",), ("--userns", "host")):
        assert _status(daemon, *options)["Groups"].strip() == ""


def test_the_environment_is_the_defaults_and_what_was_asked(daemon: Daemon) -> None:
    env = {"SECRET": "caller's", "LD_PRELOAD": "", "PYTHONPATH": "/tmp"}
    seen = ask(daemon, "tell(dict(os.environ))", "--env", "GIVEN=yes", env=env)
    assert seen == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": "container",
        "HOME": "/root",
        "GIVEN": "yes",
    } | ({"LC_CTYPE": "C.UTF-8"} if "LC_CTYPE" in seen else {})


# --- the filter, as the calls themselves say

REFUSED = {
    "unshare user": ("unshare", 272, (0x10000000,)),
    "unshare mount": ("unshare", 272, (0x00020000,)),
    "clone user": ("clone", 56, (0x10000000 | 17, 0, 0, 0, 0)),
    "setns": ("setns", 308, (0, 0)),
    "mount": ("mount", 165, (0, 0, 0, 0, 0)),
    "umount2": ("umount2", 166, (0, 0)),
    "pivot_root": ("pivot_root", 155, (0, 0)),
    "fsopen": ("fsopen", 430, (0, 0)),
    "fsconfig": ("fsconfig", 431, (0, 0, 0, 0, 0)),
    "fsmount": ("fsmount", 432, (0, 0, 0)),
    "move_mount": ("move_mount", 429, (0, 0, 0, 0, 0)),
    "open_tree": ("open_tree", 428, (0, 0, 0)),
    "mount_setattr": ("mount_setattr", 442, (0, 0, 0, 0, 0)),
    "bpf": ("bpf", 321, (0, 0, 0)),
    "perf_event_open": ("perf_event_open", 298, (0, 0, 0, 0, 0)),
    "userfaultfd": ("userfaultfd", 323, (0,)),
    "keyctl": ("keyctl", 250, (0, 0)),
    "add_key": ("add_key", 248, (0, 0, 0, 0, 0)),
    "request_key": ("request_key", 249, (0, 0, 0, 0)),
    "kexec_load": ("kexec_load", 246, (0, 0, 0, 0)),
    "kexec_file_load": ("kexec_file_load", 320, (0, 0, 0, 0, 0)),
    "init_module": ("init_module", 175, (0, 0, 0)),
    "finit_module": ("finit_module", 313, (0, 0, 0)),
    "delete_module": ("delete_module", 176, (0, 0)),
    "open_by_handle_at": ("open_by_handle_at", 304, (0, 0, 0)),
    "io_uring_setup": ("io_uring_setup", 425, (1, 0)),
    "io_uring_enter": ("io_uring_enter", 426, (0, 0, 0, 0, 0, 0)),
    "io_uring_register": ("io_uring_register", 427, (0, 0, 0, 0)),
    "acct": ("acct", 163, (0,)),
    "swapon": ("swapon", 167, (0, 0)),
    "swapoff": ("swapoff", 168, (0,)),
    "reboot": ("reboot", 169, (0, 0, 0, 0)),
    "settimeofday": ("settimeofday", 164, (0, 0)),
    "clock_settime": ("clock_settime", 227, (0, 0)),
    "iopl": ("iopl", 172, (3,)),
    "ioperm": ("ioperm", 173, (0, 1, 1)),
    "quotactl": ("quotactl", 179, (0, 0, 0, 0)),
    "lookup_dcookie": ("lookup_dcookie", 212, (0, 0, 0)),
    "move_pages": ("move_pages", 279, (0, 0, 0, 0, 0, 0)),
    "nfsservctl": ("nfsservctl", 180, (0, 0, 0)),
    "sysfs": ("sysfs", 139, (3,)),
    "uselib": ("uselib", 134, (0,)),
    "ustat": ("ustat", 136, (0, 0)),
    "vhangup": ("vhangup", 153, ()),
    "personality": ("personality", 135, (0x0040000,)),
    "socket vsock": ("socket", 41, (40, 1, 0)),
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86-64's")
def test_what_dockers_profile_refuses_is_refused(daemon: Daemon) -> None:
    calls = {what: (number, *args) for what, (_, number, args) in REFUSED.items()}
    seen = ask(daemon, f"tell({{n: refusal(syscall, *c) for n, c in {calls!r}.items()}})")
    refused = {"EPERM", "ENOSYS", "EAFNOSUPPORT"}
    assert {what: how for what, how in seen.items() if how not in refused} == {}
    assert ask(daemon, "tell(refusal(syscall, 435, 0, 0))") == "ENOSYS"  # clone3: C libraries fall back


def test_ordinary_programs_notice_nothing_of_the_filter(daemon: Daemon, tenant: host.User) -> None:
    """Threads, children, memory maps, pidfds: what the refusals above must not have taken along."""
    probe = """
import mmap, subprocess, threading
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
mmap.mmap(-1, 4096).close()
child = subprocess.run(["/bin/echo", "child"], capture_output=True, text=True)
pidfd = os.pidfd_open(os.getpid())
memory = os.memfd_create("x")
tell([child.stdout, os.sched_getaffinity(0) != set(), pidfd > 2, memory > 2])
"""
    assert ask(daemon, probe, user=tenant) == ["child\n", True, True, True]


# --- /proc/PID/exe

INTERPRETERS = ("/proc/self/exe", "/proc/1/exe", "/proc/thread-self/exe")
TRY_EXE = """
tries = {}
for path in ("/proc/1/exe", "/proc/self/exe", "/proc/1/root/usr/bin/python3", "/proc/1/cwd", "/proc/1/mem"):
    tries[path] = [refusal(os.open, path, flags) for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC)]
tell(tries)
"""


@pytest.mark.parametrize("options", [("--init",), ("--init", "--userns", "host"), ("--pid", "host")])
def test_no_program_of_the_hosts_opens_for_writing(daemon: Daemon, options: tuple[str, ...]) -> None:
    """CVE-2019-5736: PID 1 is dkr's own with --init, and the host's init with --pid host."""
    seen = ask(daemon, TRY_EXE, *options)
    for path, refusals in seen.items():
        assert None not in refusals, path


@pytest.mark.parametrize("name", INTERPRETERS)
@pytest.mark.parametrize("options", [(), ("--userns", "host")])
def test_the_interpreter_as_the_command_cannot_be_written(
    daemon: Daemon, name: str, options: tuple[str, ...]
) -> None:
    """The command /proc/self/exe is what init itself runs on: if it starts at all, its file is read-only."""
    probe = "import os\ntry:\n os.open('/proc/self/exe', os.O_WRONLY)\n print('open')\nexcept OSError as err: print(err.strerror)"
    done = daemon.dkrctl("run", "--rm", *options, name, "-IS", "-c", probe)
    assert "open" not in done.stdout.split()
    if done.returncode == 0:
        assert done.stdout.strip() in ("Read-only file system", "Text file busy", "Permission denied")


def test_a_script_whose_interpreter_is_proc_self_exe(daemon: Daemon) -> None:
    line = "printf '#!/proc/self/exe\\n' > /tmp/x; chmod 755 /tmp/x; /tmp/x < /dev/null; echo done"
    done = daemon.dkrctl("run", "--rm", "/bin/sh", "-c", line)
    assert done.stdout.endswith("done\n")


@pytest.mark.parametrize("options", [("--init",), ("--init", "--pid", "host")])
def test_dkrs_own_processes_tell_nothing(daemon: Daemon, options: tuple[str, ...]) -> None:
    """Descriptors, memory, environment, root and working directory of what runs as root outside or as PID 1 inside."""
    probe = """
init = os.getppid()
shim = int(text(f"/proc/{init}/stat").rpartition(")")[2].split()[1])
ours = [pid for pid in (init, shim, *OUTSIDE) if pid]
reached = []
def attempt(pid, name, call, *args):
    try:
        if call(*args):
            reached.append(f"{text(f'/proc/{pid}/comm').strip()} {name}")
    except OSError:
        pass
for pid in ours:
    for name, call in (("fd", os.listdir), ("environ", text), ("maps", text), ("auxv", text), ("root", os.listdir),
                       ("cwd", os.listdir), ("exe", os.readlink), ("root", os.readlink), ("ns/net", os.readlink)):
        attempt(pid, name, call, f"/proc/{pid}/{name}")
    if pid != init:
        attempt(pid, "kill", lambda: os.kill(pid, 0) is None)
tell([len(ours), reached])
"""
    outside = [daemon.pid, daemon.child("dkr-api").pid] if "host" in options else []
    count, reached = ask(daemon, f"OUTSIDE = {outside}" + probe, *options)
    assert count == (4 if "host" in options else 1)
    assert reached == []


def test_proc_of_the_container_shows_its_processes_alone(daemon: Daemon) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as sleeper:
        try:
            listing = daemon.run("/bin/sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
        finally:
            sleeper.kill()
    assert "sleep 60" not in listing
    assert "dkr" not in listing
    assert str(Path(__file__).parent) not in listing
