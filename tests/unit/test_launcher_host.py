"""The launcher and its host: directories, processes, the machine's probe, the sealed interpreter, who may be it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common import kernel_probes, trusted_paths
from common.errors import Conflict, DkrError, HostUnfit
from dkrd.launcher import directories, pidfd, probe, runner
from dkrd.launcher.loop import Loop
from dkrd.settings import Settings
from dkrd.shim import state

ROOT = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and namespaces")


# --- directories


@needs_root
def test_lock_names_its_holder(tmp_path: Path) -> None:
    fd = directories.lock(str(tmp_path))
    with pytest.raises(Conflict, match=rf"another one \(pid {os.getpid()}\) uses {tmp_path}"):
        directories.lock(str(tmp_path))
    os.close(fd)
    os.close(directories.lock(str(tmp_path)))


@needs_root
def test_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.mkdir()
    trusted_paths.verify(str(place))
    os.chown(place, 3001, 0)
    with pytest.raises(HostUnfit, match="belongs to uid 3001"):
        trusted_paths.verify(str(place))
    os.chown(place, 0, 3001)
    os.chmod(place, 0o775)
    with pytest.raises(HostUnfit, match="others than root may write"):
        trusted_paths.verify(str(place / ".." / "a"))
    os.chmod(place, 0o1777)
    trusted_paths.verify(str(place))


@needs_root
def test_link_in_a_directorys_place_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (tmp_path / "state").mkdir()
    (tmp_path / "state/layers").symlink_to(elsewhere)
    settings = Settings(state_dir=str(tmp_path / "state"), run_dir=str(tmp_path / "run"))
    with pytest.raises(HostUnfit, match=r"cannot make .*/layers"):
        directories.prepare(settings, 65534, 65534)
    assert elsewhere.stat().st_mode & 0o777 == 0o755


# --- processes


def test_pid_is_believed_with_its_start_time_only() -> None:
    own = os.getpid()
    fd = pidfd.open_verified(own, state.start_time(own))
    assert fd >= 0
    os.close(fd)
    assert pidfd.open_verified(own, state.start_time(own) + 1) == -1
    for wrong in ("1", None, True, 0, -1, 2**22 + 1):
        assert pidfd.open_verified(wrong, state.start_time(own)) == -1


@pytest.mark.skipif(not pidfd.tells_exits(), reason="exits are told from Linux 6.15 on")
def test_exit_is_read_from_a_pidfd() -> None:
    for status, expected in (
        (7, {"code": 7, "signal": None, "cause": "exited"}),
        (None, {"code": None, "signal": 15, "cause": "signalled"}),
    ):
        pid = os.fork()
        if pid == 0:
            if status is None:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGTERM)
            os._exit(status or 0)
        fd = os.pidfd_open(pid)
        os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOWAIT)
        assert pidfd.exit_of(fd) is None  # a zombie still
        os.waitpid(pid, 0)
        assert pidfd.exit_of(fd) == expected
        os.close(fd)


# --- the machine


@pytest.mark.parametrize(
    ("release", "numbers"),
    [("6.1.0-18-amd64", (6, 1)), ("6.12-rc3", (6, 12)), ("6.18.44-fc", (6, 18)), ("7.0+", (7, 0))],
)
def test_kernel_release(release: str, numbers: tuple[int, int]) -> None:
    assert kernel_probes.release(release) == numbers


@needs_root
def test_probe_finds_the_machine_fit_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "layers").mkdir()
    settings = Settings(state_dir=str(tmp_path))
    found = runner.run_now(Loop(), "probe", lambda: probe.machine(settings), 30)
    assert isinstance(found, dict)
    assert found["cgroups"] in ("v1", "v2", "hybrid", "none")
    assert os.listdir(tmp_path) == ["layers"]


@needs_root
@pytest.mark.parametrize("step", ["idmap", "overlay"])
def test_probe_names_a_filesystem_that_does_not_do(step: str) -> None:
    """sysfs can neither be id-mapped nor carry an overlay's upper directory."""
    settings = Settings(state_dir="/sys/kernel")

    def job() -> object:
        if step == "idmap":
            probe._try_idmap(settings.state_dir, settings.ids_first)
        else:
            probe._try_overlay(settings.state_dir)
        return None

    with pytest.raises(DkrError, match=r"sysfs|Operation not permitted|Permission denied"):
        runner.run_now(Loop(), "probe", job, 30)


@needs_root
def test_limit_of_namespaces_is_named() -> None:
    """In a user namespace whose own limit is 0 the next one cannot be made."""

    def job() -> object:
        from dkrd.runtime import syscalls

        syscalls.unshare(syscalls.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text("0 0 1")
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        probe._try_namespace("user", syscalls.CLONE_NEWUSER, "user.max_user_namespaces")
        return None

    with pytest.raises(HostUnfit, match="cannot make a user namespace: No space left") as caught:
        runner.run_now(Loop(), "probe", job, 30)
    assert caught.value.hint == "raise the limit: sysctl -w user.max_user_namespaces=15000"


SEALED = """
import os, sys
sys.path.insert(0, {root!r})
from dkrd.launcher import interpreter
if sys.argv[1] == "sealed":
    interpreter.seal("dkrd")
facts = open("/proc/self/comm").read().strip(), sys.flags.isolated, sys.argv[1:]
child = os.fork()
if child == 0:
    facts = *facts, os.stat("/proc/self").st_uid == 0, os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY
    print(*facts, flush=True)
    os._exit(0)
os.waitpid(child, 0)
sys.stdin.read()
"""


@needs_root
@pytest.mark.parametrize("how", ["sealed", "plain"])
def test_interpreter_cannot_be_written_through_the_process(tmp_path: Path, how: str) -> None:
    """As in CVE-2019-5736: hold /proc/PID/exe, and write when the file is no longer busy."""
    copy = tmp_path / "python3"  # one that no other process keeps busy
    shutil.copy(os.path.realpath("/usr/bin/python3"), copy)
    run = [str(copy), "-c", SEALED.format(root=str(ROOT)), how, "two three"]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        held = os.open(f"/proc/{process.pid}/exe", os.O_PATH)
        process.communicate()
    if how == "sealed":
        assert told == f"dkrd 1 ['{how}', 'two three'] True 1\n"
        with pytest.raises(OSError, match="Read-only file system"):
            os.open(f"/proc/self/fd/{held}", os.O_WRONLY)
    else:
        os.close(os.open(f"/proc/self/fd/{held}", os.O_WRONLY))
    os.close(held)


@needs_root
def test_root_without_capabilities_is_told_which_are_missing() -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from dkrd.launcher.main import main; main('/nonexistent')"
    run = ["setpriv", "--bounding-set", "-mknod,-net_admin", sys.executable, "-I", "-c", program]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "this root lacks CAP_NET_ADMIN, CAP_MKNOD" in done.stderr
    assert "  hint: " in done.stderr


@needs_root
def test_other_users_are_sent_away() -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setresuid(3001, 3001, 3001)
            probe.require_root()
        except HostUnfit as err:
            status = 0 if "it must run as root" in err.message else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_raised_limit_of_files_is_given_back() -> None:
    from dkrd.launcher.shims import OpenFiles

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = OpenFiles()
    limits.raise_soft()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    limits.restore()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
