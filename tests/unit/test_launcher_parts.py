"""The launcher's parts: log, loop, jobs, messages, what the service manager hears."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common import frames
from common.errors import DkrError, HostUnfit, Internal, ProtocolError, Unavailable
from dkrd.launcher import listener, runner, wire
from dkrd.launcher.loop import Loop
from dkrd.launcher.notify import Notifier
from dkrd.log import Log

if TYPE_CHECKING:
    from collections.abc import Iterator


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


def test_loop_does_not_heap_up_what_was_cancelled() -> None:
    loop, seen = Loop(), []
    for number in range(10):
        loop.later(number / 1000, lambda number=number: seen.append(number))  # type: ignore[misc]
    for _ in range(100_000):
        loop.later(1e6, lambda: seen.append("never")).cancel()
    assert len(loop._timers) <= 128
    loop.later(0.02, loop.stop)
    loop.run()
    assert seen == list(range(10))


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


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize("tells", [False, True])
def test_a_job_that_is_late_is_killed_and_others_get_its_turn(*, tells: bool) -> None:
    loop = Loop()
    told: list[object] = []
    runs = runner.Runner(loop)
    gc.collect()  # what other tests have left is not closed meanwhile
    before, others = len(os.listdir("/proc/self/fd")), _children()

    def hang() -> object:
        if tells:  # and has something to say that is longer than the pipe
            return "x" * 300_000
        time.sleep(600)
        return None

    def done(value: object, error: DkrError | None) -> None:
        told.append(value if error is None else error.code)
        if len(told) == 5:
            loop.stop()

    for _ in range(4):
        runs.submit("hangs", hang, done, (), 5.0 if tells else 0.05)
    runs.submit("n", lambda: "last", done)
    loop.run()
    assert sorted(map(str, told)) == ["last", *(["x" * 300_000] if tells else ["unavailable"]) * 4]
    until = time.monotonic() + 20.0
    while not _children() <= others and time.monotonic() < until:
        loop.turn(0.1)  # those that were killed are reaped
    assert _children() <= others
    assert len(os.listdir("/proc/self/fd")) == before


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
    gc.collect()  # what other tests have left is not closed meanwhile
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
