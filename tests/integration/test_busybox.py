"""The built-in root `busybox`: a copy of the host's static busybox, its applets, and nothing of the host."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM
from socket import socket as Socket
from typing import TYPE_CHECKING

import pytest

from tests.daemon import Daemon
from tests.reliability.support import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.host import User
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

BUSYBOX = Path("/bin/busybox")
HINT = "apt install busybox-static"
RELOAD_SECONDS = 20.0


def test_it_runs_right_after_the_install(caller: Caller) -> None:
    assert caller.output("busybox", "echo", "hello") == "hello\n"


def test_a_line_of_its_shell(caller: Caller) -> None:
    line = "echo b a | tr ' ' '\\n' | sort | head -n 1; busybox | head -n 1 | cut -d ' ' -f 1; id -u; exit 3"
    done = caller.run("busybox", "sh", "-c", line)
    assert (done.stdout, done.stderr, done.returncode) == ("a\nBusyBox\n0\n", "", 3)


def test_applets_are_found_by_path_too(caller: Caller) -> None:
    assert caller.output("busybox", "/usr/bin/id", "-un") == "root\n"
    assert caller.output("-u", "nobody", "busybox", "id", "-un") == "nobody\n"


def test_nothing_of_the_host_is_in_it(caller: Caller) -> None:
    mounts = caller.output("busybox", "cat", "/proc/self/mountinfo").splitlines()
    kinds = {line.split()[4]: line.partition(" - ")[2].split()[0] for line in mounts}
    assert kinds["/"] == "overlay"
    assert [point for point in kinds if point.split("/")[1] not in ("", "proc", "sys", "dev")] == []
    tops = caller.output("busybox", "ls", "/").split()
    assert tops == "bin dev etc home media mnt opt proc root run sbin srv sys tmp usr var".split()
    assert caller.output("busybox", "ls", "/usr").split() == ["bin", "sbin"]
    assert caller.output("busybox", "sh", "-c", "[ -e /lib ] || [ -e /bin/bash ] || echo none") == "none\n"


def test_what_is_in_it_belongs_to_its_root(caller: Caller) -> None:
    line = "stat -c '%u:%g %a' / /bin /bin/busybox /etc/shadow /tmp; find /bin /etc /home /root /run /sbin /tmp /usr /var ! -user 0"
    assert caller.output("busybox", "sh", "-c", line).splitlines() == [
        "0:0 755",
        "0:0 755",
        "0:0 755",
        "0:0 640",
        "0:0 1777",
    ]


def test_it_can_be_written_and_no_run_sees_another(caller: Caller, daemon: Daemon) -> None:
    [layer] = (daemon.state_dir / "layers").glob("busybox-*")
    before = (layer / "bin/busybox").read_bytes()
    spoil = (
        "rm /bin/ls && echo '#!/bin/sh' >/bin/busybox.new && mv /bin/busybox.new /bin/busybox && echo gone"
    )
    # The shell is what is being replaced: what comes after `mv` is a builtin.
    assert caller.output("busybox", "sh", "-c", spoil) == "gone\n"
    assert caller.output("busybox", "ls", "/bin/busybox") == "/bin/busybox\n"
    assert (layer / "bin/busybox").read_bytes() == before == BUSYBOX.read_bytes()


def test_read_only_with_scratch_space(caller: Caller) -> None:
    line = "touch /new 2>/dev/null || touch /scratch/new && ls /scratch"
    assert caller.output("--read-only", "--tmpfs", "/scratch", "busybox", "sh", "-c", line) == "new\n"


def test_what_it_lacks_is_said_as_anywhere(caller: Caller) -> None:
    done = caller.run("busybox", "bash")
    assert done.returncode == 127
    assert "cannot run 'bash': it is in no directory of PATH" in done.stderr


def test_both_roots_side_by_side(caller: Caller) -> None:
    # Debian's ls is no busybox: it knows --version.
    assert "GNU" in caller.output("/bin/ls", "--version")
    assert caller.run("busybox", "/bin/ls", "--version").returncode != 0


def test_an_unknown_root_names_the_known_ones(root: Caller) -> None:
    done = root.run("nosuch", "sh")
    assert done.returncode == 125
    assert "known roots: host, busybox" in done.stderr


def test_as_the_default_root(make_daemon: MakeDaemon, tenant: User) -> None:
    daemon = make_daemon(default_root="busybox")
    for user in (None, tenant):
        done = daemon.run("/bin/sh", "-c", "readlink /bin/sh; ls /usr", user=user)
        assert done.stdout == "busybox\nbin\nsbin\n"
        assert "ID=" in daemon.run("host", "cat", "/etc/os-release", user=user).stdout


def test_a_restart_finds_it_made(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    [layer] = (daemon.state_dir / "layers").glob("busybox-*")
    inode = layer.stat().st_ino
    daemon.restart()
    assert daemon.run("busybox", "echo", "again").stdout == "again\n"
    [layer] = (daemon.state_dir / "layers").glob("busybox-*")
    assert layer.stat().st_ino == inode


# --- a host that has none, or one that does not fit


class Without:
    """A daemon on a host with another /bin/busybox, or none: its programs directory is an overlay, in a mount namespace of its own."""

    def __init__(self, prefix: Path, place: Path, **settings: str) -> None:
        self.place = place
        self.bin = str(BUSYBOX.parent.resolve())
        for name in ("upper", "work", "sbin"):
            (place / name).mkdir()
        (place / "bin").symlink_to(prefix / "bin")
        self.program = place / "upper/busybox"
        wrapper = place / "sbin/dkrd"
        options = f"lowerdir={self.bin},upperdir={place}/upper,workdir={place}/work"
        # What is spoken below runs in the namespace that ends with the daemon; `exec` keeps the pid that was started.
        script = (
            f"mount -t overlay -o {options} overlay {self.bin} && rm {self.bin}/busybox"
            f' && if [ -e {place}/other ]; then cp {place}/other {self.bin}/busybox; fi && exec {prefix}/sbin/dkrd "$@"'
        )
        wrapper.write_text(f"#!/bin/sh\nexec unshare --mount /bin/sh -c '{script}' dkrd \"$@\"\n")
        wrapper.chmod(0o755)
        self.daemon = Daemon.create(place, **settings)

    def enter(self, *command: str) -> None:
        """Runs a command where the daemon is."""
        subprocess.run(["nsenter", "--mount", "--target", str(self.daemon.pid), *command], check=True)

    def reload(self) -> None:
        """SIGHUP; returns when the daemon has said READY=1 again."""
        assert self.daemon.process is not None
        with Socket(AF_UNIX, SOCK_DGRAM) as manager:
            manager.settimeout(RELOAD_SECONDS)
            notify = self.daemon.directory / "notify"
            notify.unlink()
            manager.bind(str(notify))
            self.daemon.process.send_signal(signal.SIGHUP)
            while b"READY=1" not in manager.recv(4096).split(b"\n"):
                continue


@pytest.fixture
def place(open_tmp: Path) -> Path:
    return open_tmp


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as own:
        yield own


def test_a_host_without_it_serves_the_rest(prefix: Path, place: Path, stack: ExitStack, tenant: User) -> None:
    without = Without(prefix, place)
    stack.callback(without.daemon.close)
    daemon = without.daemon.start()
    assert daemon.run("/bin/echo", "host").stdout == "host\n"
    for user in (None, tenant):
        done = daemon.dkrctl("run", "--rm", "busybox", "echo", "x", user=user)
        assert done.returncode == 125
        assert "cannot use the root busybox: the host has no /bin/busybox" in done.stderr
        assert HINT in done.stderr
    eventually(lambda: not os.listdir(daemon.state_dir / "containers"), "nothing is left of those that ran")
    # Installed later, it is there at the next SIGHUP.
    shutil.copy(BUSYBOX, place / "later")
    without.enter("cp", str(place / "later"), str(BUSYBOX))
    without.reload()
    assert daemon.run("busybox", "echo", "there", user=tenant).stdout == "there\n"


def test_a_dynamic_one_is_refused_by_name(prefix: Path, place: Path, stack: ExitStack) -> None:
    shutil.copy("/bin/true", place / "other")
    without = Without(prefix, place, default_root="busybox")
    stack.callback(without.daemon.close)
    daemon = without.daemon.start()
    done = daemon.dkrctl("run", "--rm", "/bin/sh")
    assert done.returncode == 125
    assert "/bin/busybox is dynamically linked" in done.stderr
    assert HINT in done.stderr
    assert daemon.run("host", "echo", "host").stdout == "host\n"
    assert "there is no root busybox" in daemon.log
