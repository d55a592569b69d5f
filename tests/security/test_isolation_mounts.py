"""The container's mounts: nothing of the host's state, masks and read-only paths as the OCI defaults say."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.oci import MASKED_PATHS, READONLY_PATHS
from tests import host
from tests.patience import guard
from tests.security.inside import PRELUDE, PYTHON, ask, standing

if TYPE_CHECKING:
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

WRITABLE = {"/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"}
# Docker's own list; the table of the product must hold each of them.
DOCKER_MASKED = """/proc/asound /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list
/proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap""".split()
DOCKER_READONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger".split()


def test_the_tables_hold_what_docker_masks() -> None:
    assert set(DOCKER_MASKED) <= set(MASKED_PATHS)
    assert set(DOCKER_READONLY) <= set(READONLY_PATHS)


@pytest.mark.parametrize("options", [(), ("--userns", "host"), ("--pid", "host", "--ipc", "host")])
def test_no_mount_of_the_daemons_shows(daemon: Daemon, options: tuple[str, ...]) -> None:
    seen = ask(daemon, "tell([text('/proc/self/mountinfo'), text('/proc/self/mounts')])", *options)
    for text in seen:
        for path in (daemon.directory, daemon.state_dir, daemon.run_dir, "/var/lib", "/run", daemon.prefix):
            assert str(path) not in text
        assert "layers" not in text
    points = [line.split()[4] for line in seen[0].splitlines()]
    assert [p for p in points if p.split("/")[1] not in ("", "usr", "etc", "proc", "sys", "dev")] == []


def test_only_what_must_be_is_writable(daemon: Daemon, tenant: host.User) -> None:
    lines = ask(daemon, "tell(mountinfo())", user=tenant)
    writable = {line[4] for line in lines if "rw" in line[5].split(",")}
    assert writable == WRITABLE
    for line in lines:
        flags = set(line[5].split(","))
        assert "nosuid" in flags or line[4] == "/", line
        # Device nodes: the ones in /dev, the terminals of devpts, and the null devices that are masks.
        assert "nodev" in flags or line[4] in ("/dev", "/dev/pts") or line[3] == "/null", line


def test_a_read_only_root_leaves_nothing_of_it_writable(daemon: Daemon) -> None:
    probe = "tell([refusal(os.mkdir, d + '/dkr-test-made-inside') for d in ('/', '/etc', '/tmp', '/var', '/root', '/home', '/sys')])"
    assert ask(daemon, probe, "--read-only") == ["EROFS"] * 7


def test_the_hosts_mounts_are_the_same_before_during_and_after(daemon: Daemon, tenant: host.User) -> None:
    before = host.mounts()
    with standing(daemon, "--tmpfs", "/mnt", user=tenant) as container:
        assert container.do("grep -c ' /mnt ' /proc/self/mountinfo") == "1"
        assert host.mounts() == before
        launcher = Path(f"/proc/{daemon.pid}/mountinfo").read_text()
        assert " /mnt " not in launcher
        assert launcher.splitlines() == before
    assert host.mounts() == before


def test_masked_paths_are_empty_and_stay_so(daemon: Daemon) -> None:
    probe = f"""
found = {{}}
for path in {MASKED_PATHS!r}:
    if not os.path.lexists(path):
        continue
    if os.path.isdir(path):
        found[path] = [os.listdir(path), refusal(os.mkdir, path + "/x")]
    else:
        status = os.stat(path)
        null = stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)
        found[path] = [text(path), null]
tell(found)
"""
    found = ask(daemon, probe)
    assert found == {p: [[], "EROFS"] if isinstance(v[0], list) else ["", True] for p, v in found.items()}
    assert set(found) == {path for path in MASKED_PATHS if os.path.lexists(path)}
    # The wall is needed: what is behind the masks is not empty.
    assert Path("/proc/interrupts").read_text() != ""
    assert Path("/proc/timer_list").read_text() != ""


KNOBS = """/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/hotplug /proc/sys/kernel/sysrq
/proc/sys/kernel/hostname /proc/sys/kernel/shmmax /proc/sys/fs/binfmt_misc/register /proc/sys/vm/panic_on_oom
/proc/sys/net/ipv4/ip_forward /proc/sys/kernel/ns_last_pid /proc/sysrq-trigger /proc/irq/default_smp_affinity
/sys/kernel/uevent_helper /sys/power/state /sys/kernel/profiling /sys/kernel/mm/transparent_hugepage/enabled
/sys/module/printk/parameters/time /proc/acpi/wakeup /proc/mtrr""".split()


@pytest.mark.parametrize("options", [(), ("--userns", "host"), ("--network", "host", "--userns", "host")])
def test_the_kernels_knobs_cannot_be_written(daemon: Daemon, options: tuple[str, ...]) -> None:
    probe = f"tell({{p: refusal(os.open, p, os.O_WRONLY) for p in {KNOBS!r} if os.path.lexists(p)}})"
    found = ask(daemon, probe, *options)
    assert {"/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/profiling"} & set(found)
    assert {path: how for path, how in found.items() if how not in ("EROFS", "EACCES", "EPERM")} == {}


def test_no_sysctl_opens_for_writing(daemon: Daemon) -> None:
    probe = """
open_ones, count = [], 0
for directory, _, names in os.walk("/proc/sys"):
    for name in names:
        count += 1
        if refusal(os.open, f"{directory}/{name}", os.O_WRONLY | os.O_NONBLOCK) is None:
            open_ones.append(f"{directory}/{name}")
tell([count, open_ones])
"""
    count, open_ones = ask(daemon, probe, "--userns", "host")
    assert count > 100
    assert open_ones == []


def test_nothing_of_proc_outside_the_processes_opens_for_writing(daemon: Daemon) -> None:
    probe = """
open_ones = []
for directory, below, names in os.walk("/proc"):
    if directory == "/proc":
        below[:] = [n for n in below if not n.isdigit() and n not in ("self", "thread-self", "sys")]
    for name in names:
        path = f"{directory}/{name}"
        if stat.S_ISREG(os.lstat(path).st_mode) and refusal(os.open, path, os.O_WRONLY | os.O_NONBLOCK) is None:
            open_ones.append(path)
tell(open_ones)
"""
    # Pressure stall triggers are for everybody, since Linux 6.x bounded; proc(5), Documentation/accounting/psi.rst.
    found = [p for p in ask(daemon, probe) if not p.startswith("/proc/pressure/")]
    assert found == []


def test_mounting_is_refused(daemon: Daemon, tenant: host.User) -> None:
    probe = """
os.mkdir("/tmp/d")
tell([refusal(mount, b"cgroup", b"/tmp/d", b"cgroup", 0, b"memory"), refusal(mount, b"cgroup2", b"/tmp/d", b"cgroup2", 0),
      refusal(mount, b"proc", b"/tmp/d", b"proc", 0), refusal(mount, b"sysfs", b"/tmp/d", b"sysfs", 0),
      refusal(mount, b"tmpfs", b"/tmp/d", b"tmpfs", 0), refusal(mount, b"/", b"/tmp/d", None, 0x1000),
      refusal(mount, None, b"/proc/sys", None, 0x1020), refusal(umount, b"/proc/sys", 2),
      refusal(syscall, 272, 0x10000000 | 0x00020000), os.listdir("/sys/fs/cgroup")])
"""
    for options in ((), ("--userns", "host")):
        seen = ask(daemon, probe, *options)
        assert seen[:9] == ["EPERM"] * 9
        assert [n for n in seen[9] if "release_agent" in n or "notify" in n] == []
    assert ask(daemon, probe, user=tenant)[:9] == ["EPERM"] * 9


# --- CVE-2024-21626: what init has open while it changes directory


def test_a_working_directory_through_a_descriptor_leads_nowhere(daemon: Daemon) -> None:
    clients = {}
    marker = "import os; print(os.getcwd(), os.path.exists('dkrd.toml'), os.stat('.').st_dev == os.stat('/').st_dev)"
    outcomes = {}
    for first in range(3, 65, 8):
        for number in range(first, min(first + 8, 65)):
            clients[number] = daemon.popen(
                "run", "--rm", "-w", f"/proc/self/fd/{number}", "/usr/bin/python3", "-IS", "-c", marker,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        for number in range(first, min(first + 8, 65)):
            with clients[number] as client:
                out, err = client.communicate(timeout=guard(20.0))
            outcomes[number] = (client.returncode, out, err)
    for number, (status, out, err) in outcomes.items():
        assert status != 0, (number, out)
        assert "working directory" in err, (number, err)


@pytest.mark.parametrize(
    "path", ["/proc/1/cwd", "/proc/self/cwd", "/proc/1/root", "/proc/self/root/..", "/proc/self/cwd/../../.."]
)
def test_a_working_directory_through_proc_is_inside(daemon: Daemon, path: str) -> None:
    probe = "tell([os.getcwd(), os.stat('.').st_dev, os.stat('/').st_dev, os.path.exists('/dkrd.toml')])"
    done = daemon.dkrctl("run", "--rm", "-w", path, *PYTHON, PRELUDE + probe)
    if done.returncode == 0:
        cwd, device, root, _ = json.loads(done.stdout)
        assert (cwd, device) == ("/", root)


def test_no_descriptor_of_the_first_process_points_outside(daemon: Daemon, tenant: host.User) -> None:
    for options in ((), ("--init",)):
        with standing(daemon, *options, user=tenant) as container:
            pids = [container.pid]
            if options:
                shell = host.read_process(container.pid)
                assert shell is not None
                pids.append(shell.parent)
            for pid in pids:
                links = host.descriptors(pid)
                assert [x for x in links if not x.startswith("pipe:") and x != "/dev/null"] == []
                assert os.stat(f"/proc/{pid}/root").st_dev == os.stat(f"/proc/{pid}/cwd").st_dev
