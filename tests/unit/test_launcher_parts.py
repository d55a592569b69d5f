"""The launcher's parts: log, loop, jobs, messages, the sealed interpreter, the machine's probe."""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common import frames, kernel_probes, trusted_paths
from common.errors import Conflict, DkrError, HostUnfit, Internal, ProtocolError, Unavailable
from dkrd.launcher import directories, listener, pidfd, probe, runner, wire
from dkrd.launcher.loop import Loop
from dkrd.launcher.notify import Notifier
from dkrd.log import Log
from dkrd.settings import Settings
from dkrd.shim import state

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and namespaces")


# --- log


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_CLOEXEC)
    yield ends
    for end in ends:
        os.close(end)


def test_log_lines(pipe: tuple[int, int]) -> None:
    read, write = pipe
    log = Log("info", "text", fd=write)
    log.debug("not this one")
    log.info("hello", id="ab", cause='a "b"\nc=d', nothing=None, number=3)
    line = os.read(read, 4096).decode()
    assert line.count("\n") == 1
    assert line.endswith(' info launcher: hello id=ab cause="a \\"b\\"\\nc=d" number=3\n')
    log.configure("error", "json")
    log.warning("nor this")
    log.audit("refused", uid=5)
    got = json.loads(os.read(read, 4096))
    assert got.pop("time").endswith("Z")
    assert got == {"level": "audit", "process": "launcher", "message": "refused", "uid": 5}
    log.of("shim").error("one\ntwo")
    assert json.loads(os.read(read, 4096))["process"] == "shim"


def test_log_that_nobody_reads_stops_nothing_and_says_what_it_dropped(pipe: tuple[int, int]) -> None:
    read, write = pipe
    log = Log("info", "text", fd=write)
    for _ in range(2000):
        log.info("x" * 200)
    text = b""
    while select.select([read], [], [], 0)[0]:
        text += os.read(read, 65536)
    log.info("after")
    dropped = int(os.read(read, 4096).decode().rsplit("droppedLines=", 1)[1])
    assert dropped == 2000 - text.count(b"\n")
    assert dropped > 0


def test_log_to_a_full_socket_and_to_a_closed_one() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        log = Log("info", "text", fd=ours.fileno())
        for _ in range(5000):
            log.info("x" * 200)
        theirs.close()
        log.info("nobody")
        assert ours.getblocking()


# --- loop


def test_loop_calls_timers_in_order_and_forgets_cancelled_ones() -> None:
    loop, seen = Loop(), []
    loop.later(0.02, lambda: seen.append("later"))
    loop.later(0.01, lambda: seen.append("soon"))
    loop.later(0.0, lambda: seen.append("never")).cancel()
    loop.later(0.03, loop.stop)
    loop.run()
    assert seen == ["soon", "later"]


def test_loop_without_timers_waits_for_events_only(pipe: tuple[int, int]) -> None:
    loop, seen = Loop(), []
    loop.later(0.0, lambda: None).cancel()
    assert loop._wait(None) is None
    loop.watch(pipe[0], select.EPOLLIN, lambda events: seen.append(os.read(pipe[0], 1)))
    os.write(pipe[1], b"a")
    loop.turn(5)
    assert seen == [b"a"]
    loop.forget(pipe[0])
    os.write(pipe[1], b"b")
    loop.turn(0)
    assert seen == [b"a"]


def test_loop_hands_over_signals_and_children_do_not_write_to_its_pipe() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        loop, seen = Loop(), []
        loop.on_signal(signal.SIGHUP, lambda: seen.append("hup"))
        os.kill(os.getpid(), signal.SIGHUP)
        loop.turn(5)
        assert seen == ["hup"]
        pid = runner.fork(loop, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGHUP
        loop.turn(0)
        assert seen == ["hup"]
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGHUP, before)


# --- jobs


def test_job_gives_its_value_its_error_or_its_crash() -> None:
    loop = Loop()
    assert runner.run_now(loop, "one", lambda: {"a": [1]}, 10) == {"a": [1]}

    def refuse() -> object:
        raise HostUnfit("cannot do it: no", hint="try", errno=5)

    with pytest.raises(HostUnfit, match="cannot do it: no") as caught:
        runner.run_now(loop, "two", refuse, 10)
    assert (caught.value.hint, caught.value.errno) == ("try", 5)
    with pytest.raises(Internal, match=r"cannot finish job three: ZeroDivisionError"):
        runner.run_now(loop, "three", lambda: 1 / 0, 10)
    with pytest.raises(Internal, match=r"ended without a result \(status 3\)"):
        runner.run_now(loop, "four", lambda: os._exit(3), 10)


def test_job_that_takes_too_long_is_killed() -> None:
    with pytest.raises(Unavailable, match="it took more than"):
        runner.run_now(Loop(), "slow", lambda: signal.pause(), 0.05)


def test_job_has_no_descriptor_of_the_launcher(pipe: tuple[int, int]) -> None:
    listed = runner.run_now(Loop(), "fds", lambda: os.listdir("/proc/self/fd"), 10)
    assert isinstance(listed, list)
    assert len([fd for fd in listed if int(fd) > 2]) == 2  # its pipe, and the directory being listed


def test_jobs_run_side_by_side_and_all_are_told() -> None:
    loop = Loop()
    done: list[int] = []
    runs = runner.Runner(loop)

    def note(value: object, error: DkrError | None) -> None:
        assert isinstance(value, int)
        done.append(value)
        if len(done) == 20:
            loop.stop()

    for number in range(20):
        runs.submit("n", lambda number=number: number, note)  # type: ignore[misc]
    loop.run()
    assert sorted(done) == list(range(20))
    ended: list[bool] = []
    runs.when_idle(lambda: ended.append(True))
    assert ended == [True]


# --- messages


def test_largest_message_passes_and_a_larger_one_is_an_error() -> None:
    left, right = wire.pair()
    with left, right:
        left.send(b"x" * frames.MAX_FRAME)
        received = wire.receive(right)
        assert received is not None
        assert len(received[0]) == frames.MAX_FRAME
        left.send(b"x" * (frames.MAX_FRAME + 1))
        with pytest.raises(ProtocolError):
            wire.receive(right)
        with pytest.raises(BlockingIOError):
            wire.receive(right)
        left.close()
        assert wire.receive(right) is None


def test_too_many_descriptors_are_closed(pipe: tuple[int, int]) -> None:
    left, right = wire.pair()
    with left, right:
        before = len(os.listdir("/proc/self/fd"))
        socket.send_fds(left, [b"x"], [pipe[0]] * 9)
        with pytest.raises(ProtocolError):
            wire.receive(right)
        assert len(os.listdir("/proc/self/fd")) == before
        socket.send_fds(left, [b"x"], [pipe[0]])
        received = wire.receive(right)
        assert received is not None
        assert not os.get_inheritable(received[1][0])
        wire.close_all(received[1])


def test_sender_never_waits_and_keeps_the_order() -> None:
    left, right = wire.pair()
    with left, right:
        sender = wire.Sender(left)
        for number in range(2000):
            sender.send({"n": number, "pad": "x" * 10000})
        assert sender.waiting
        seen: list[object] = []
        while len(seen) < 2000:
            received = wire.receive(right)
            assert received is not None
            seen.append(frames.loads_object(received[0])["n"])
            sender.flush()
        assert seen == list(range(2000))
        assert not sender.waiting


# --- what the service manager hears


def test_notifier_without_a_manager_and_with_one(tmp_path: Path) -> None:
    Notifier({}).send("READY=1")
    environ = {
        "NOTIFY_SOCKET": str(tmp_path / "n"),
        "WATCHDOG_USEC": "3000000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    notifier = Notifier(environ)
    assert environ == {}
    assert notifier.watchdog_seconds == 3.0
    notifier.send("LOST=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        notifier.reloading()
        first, second = manager.recv(100).decode().split("\n")
        assert first == "RELOADING=1"
        assert second.startswith("MONOTONIC_USEC=")
    assert Notifier({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).watchdog_seconds == 0.0


def test_passed_sockets_are_ours_only_with_our_pid() -> None:
    assert listener.inherited({"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}) == 1
    assert listener.inherited({"LISTEN_FDS": "1", "LISTEN_PID": "1"}) == 0
    assert listener.inherited({"LISTEN_FDS": "1"}) == 0
    assert listener.inherited({"LISTEN_FDS": "-1", "LISTEN_PID": str(os.getpid())}) == 0


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
