"""`dkrctl run` and signals: what the client gets, the command gets; and what ends a run from outside."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.integration.conftest import request
from tests.patience import guard

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeDaemon
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

GUARD = guard(20.0)
# KILL and STOP cannot be caught; the faults, CHLD and PIPE would speak of the client; the stops are for job control; 32 and 33 are
# the C library's.
STAY = {4, 7, 8, 9, 11, 13, 17, 18, 19, 20, 21, 22, 32, 33}
FORWARDED = [number for number in range(1, 65) if number not in STAY]

TELL = """
import signal
numbers = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("ready", flush=True)
while (number := signal.sigwait(numbers)) != 64:
    print(int(number), flush=True)
"""
# Ends by itself at the end of its input; the trap says what came.
WAIT = "trap 'echo got {0}; exit 9' {0}; echo ready; while read go; do :; done"


def ready(client: subprocess.Popen[Any]) -> None:
    """Waits until the command says that it is."""
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"


@pytest.mark.parametrize("options", [(), ("--init",), ("--pid", "host")], ids=" ".join)
def test_every_signal_that_can_be_is_forwarded(root: Caller, options: tuple[str, ...]) -> None:
    with root.popen(*options, "/usr/bin/python3", "-IS", "-c", TELL) as client:
        assert client.stdout
        ready(client)
        for number in FORWARDED[:-1]:
            client.send_signal(number)
            assert client.stdout.readline() == b"%d\n" % number
        client.send_signal(64)
        assert client.stdout.read() == b""
        assert client.wait(GUARD) == 0


@pytest.mark.parametrize("options", [(), ("--init",)], ids=" ".join)
def test_a_trap_answers_the_callers_signal(caller: Caller, options: tuple[str, ...]) -> None:
    with caller.popen(*options, "/bin/sh", "-c", WAIT.format("TERM")) as client:
        assert client.stdout
        ready(client)
        client.terminate()
        assert client.stdout.read() == b"got TERM\n"
        assert client.wait(GUARD) == 9


@pytest.mark.parametrize("options", [(), ("--init",), ("--pid", "host")], ids=" ".join)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, 40])
def test_a_signal_ends_a_command_that_has_no_answer(
    root: Caller, options: tuple[str, ...], number: int
) -> None:
    """PID 1 too, for which the kernel would drop it."""
    with root.popen(*options, "/bin/sleep", "600") as client:
        root.command("sleep")
        client.send_signal(number)
        assert client.wait(GUARD) == 128 + number


BLOCKS = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("ready", flush=True)
while signal.SIGTERM not in signal.sigpending():
    pass
{}
signal.pause()
"""


def test_a_signal_that_was_blocked_for_a_moment_is_not_lost(root: Caller) -> None:
    """As a shell blocks all while it starts a command: what waited is dropped by the kernel when it is unblocked."""
    code = BLOCKS.format("signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])")
    with root.popen("/usr/bin/python3", "-IS", "-c", code) as client:
        ready(client)
        client.send_signal(signal.SIGTERM)
        assert client.wait(GUARD) == 128 + signal.SIGTERM


def test_a_signal_that_is_held_back_on_purpose_ends_nothing(root: Caller) -> None:
    code = BLOCKS.format(
        "print('held', flush=True); sys.stdin.read(); print(signal.sigwait([15]), flush=True); sys.exit(3)"
    )
    with root.popen("/usr/bin/python3", "-IS", "-c", code) as client:
        ready(client)
        client.send_signal(signal.SIGTERM)
        assert client.stdout is not None
        assert client.stdout.readline() == b"held\n"
        assert client.stdin is not None
        client.stdin.close()
        assert client.stdout.read() in (b"15\n", b"Signals.SIGTERM\n")
        assert client.wait(GUARD) == 3


def test_an_ignored_signal_is_ignored(root: Caller) -> None:
    with root.popen("/bin/sh", "-c", "trap '' TERM; " + WAIT.format("USR1")) as client:
        assert client.stdout
        ready(client)
        client.terminate()
        client.send_signal(signal.SIGUSR1)
        assert client.stdout.read() == b"got USR1\n"
        assert client.wait(GUARD) == 9


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_any_moment_ends_the_run(caller: Caller, number: int) -> None:
    """Before the daemon is asked, while the container is built, after: the run ends, whoever is hit, and nobody is left."""
    for i in range(12):
        with caller.popen("/bin/sleep", "600") as client:
            time.sleep(i * 0.005)  # the moments differ; what is waited for is the end
            client.send_signal(number)
            out, err = client.communicate(timeout=GUARD)
        assert (client.returncode in (-number, 128 + number), out, err) == (True, b"", b"")


def test_a_signal_before_the_start_is_not_lost(make_daemon: MakeDaemon) -> None:
    """While the daemon does not answer, the client ends as any program; the container never comes to be."""
    daemon = make_daemon()
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        client = daemon.popen("run", "--rm", "--name", "never", "/bin/sleep", "600")
        with client:
            _wait_for_socket(client.pid)
            client.terminate()
            assert client.wait(GUARD) == -signal.SIGTERM
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    assert daemon.run("/bin/echo", "next").stdout == "next\n"
    assert [p for p in daemon.processes() if p.comm == "sleep"] == []


def _wait_for_socket(pid: int) -> None:
    """The client has connected: nothing tells that by an event."""
    while not any(link.startswith("socket:") for link in host.descriptors(pid)):
        select.select([], [], [], 0.005)


# The exit status


@pytest.mark.parametrize("status", [0, 1, 2, 77, 125, 126, 127, 128, 255])
def test_the_status_is_the_commands(caller: Caller, status: int) -> None:
    done = caller.run("/bin/sh", "-c", f"exit {status}")
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT])
def test_a_command_that_a_signal_ends(caller: Caller, number: int) -> None:
    done = caller.run("--init", "/bin/sh", "-c", f"kill -{number} $$")
    assert (done.returncode, done.stderr) == (128 + number, "")
    done = caller.run("/bin/sh", "-c", f"sh -c 'kill -{number} $$'; exit $?")
    assert done.returncode == 128 + number


def test_how_it_ended_is_told(root: Caller) -> None:
    with root.daemon.popen("run", "--name", "told", "/bin/sleep", "600", stdout=subprocess.PIPE) as client:
        root.command("sleep")
        client.terminate()
        assert client.wait(GUARD) == 128 + signal.SIGTERM
    assert root.ended("told")["exit"] == {
        "code": None,
        "signal": signal.SIGTERM,
        "cause": "signalled",
    }
    request(root.daemon, "DELETE", "/v1/containers/told")


# Limits of time


def test_a_time_limit_ends_the_run(caller: Caller) -> None:
    done = caller.run("--timeout", "200ms", "/bin/sleep", "600")
    assert (done.returncode, done.stderr) == (143, "dkrctl: the time limit of 0.2 s ended the command\n")
    done = caller.run("-q", "--timeout", "0.2", "/bin/sleep", "600")
    assert (done.returncode, done.stderr) == (143, "")
    assert caller.run("--timeout", "600", "/bin/echo", "in time").stdout == "in time\n"


def test_a_time_limit_sends_the_stop_signal(root: Caller) -> None:
    with root.popen(
        "--timeout", "1.5", "--stop-signal", "USR2", "/bin/sh", "-c", WAIT.format("USR2")
    ) as client:
        assert client.stdout
        assert client.stdout.read() == b"ready\ngot USR2\n"
        assert client.wait(GUARD) == 9


@pytest.mark.parametrize("word", ["SIGUSR1", "usr1", "10"])
def test_the_stop_signal_has_many_names(root: Caller, word: str) -> None:
    with root.popen("--stop-signal", word, "/bin/sh", "-c", WAIT.format("USR1")) as client:
        assert client.stdout
        ready(client)
        client.kill()  # the client vanishes: with --rm its container is stopped
        assert client.stdout.read() == b"got USR1\n"


def test_after_the_stop_timeout_comes_sigkill(root: Caller) -> None:
    """It is awaited as the end of the output; without the option it would come after 10 s."""
    stubborn = "trap '' TERM; echo ready; while :; do sleep 600; done"
    with root.popen("--stop-timeout", "100ms", "/bin/sh", "-c", stubborn) as client:
        assert client.stdout
        ready(client)
        client.kill()
        assert select.select([client.stdout], [], [], 8)[0]
        assert client.stdout.read() == b""


# The client vanishes


def test_on_disconnect_kill(root: Caller) -> None:
    with root.popen("--on-disconnect", "kill", "/bin/sh", "-c", WAIT.format("TERM")) as client:
        assert client.stdout
        ready(client)
        client.kill()
        assert client.stdout.read() == b""  # the trap has not had its say


@pytest.mark.parametrize("options", [("--rm", "--on-disconnect", "keep"), ()], ids=["keep", "default"])
def test_the_container_may_live_on(root: Caller, options: tuple[str, ...]) -> None:
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    # The one with --rm may still be listed when the other has ended.
    name = "passing" if options else "kept"
    words = ("run", *options, "--name", name, "/bin/sh", "-c", "echo ready; read go; echo went $go")
    with root.daemon.popen(*words, **pipes) as client:
        assert client.stdin
        assert client.stdout
        ready(client)
        client.kill()
        client.wait()
        client.stdin.write(b"on\n")
        client.stdin.flush()
        assert client.stdout.read() == b"went on\n"
    if not options:
        root.ended("kept")
        request(root.daemon, "DELETE", "/v1/containers/kept")


# --init

REAP = """
import os, time
assert open("/proc/1/comm").read() == "dkr-init\\n"
assert os.getppid() == 1
read, write = os.pipe()
if os.fork() == 0:
    orphan = os.fork()
    if orphan == 0:
        os.read(read, 1)
        os._exit(0)
    os.write(1, b"%d\\n" % orphan)
    os._exit(0)
os.wait()
os.write(write, b"x")
orphan = int(input())
while os.path.exists(f"/proc/{orphan}"):
    time.sleep(0.005)
print("reaped")
"""


def test_init_reaps_what_nobody_else_does(caller: Caller) -> None:
    with caller.popen("--init", "/usr/bin/python3", "-IS", "-c", REAP) as client:
        assert client.stdin
        assert client.stdout
        assert client.stderr
        client.stdin.write(client.stdout.readline())
        client.stdin.close()
        assert (client.stdout.read(), client.stderr.read()) == (b"reaped\n", b"")
        assert client.wait(GUARD) == 0


def test_the_end_of_the_command_is_the_end_of_all(caller: Caller) -> None:
    """Its children too, who hold the output: the reader does not wait for them."""
    for options in ((), ("--init",)):
        assert caller.output(*options, "/bin/sh", "-c", "sleep 600 & echo done") == "done\n"


def test_ctrl_c_shows_no_traceback_while_the_client_is_being_loaded(root: Caller, open_tmp: Path) -> None:
    """From the first statement of the installed script on: here it stands still where it loads its first module."""
    package = open_tmp / "dkrctl"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import posix, select; posix.write(1, b'loading'); select.poll().poll()"
    )
    script = (root.daemon.prefix / "bin/dkrctl").read_text()
    assert script.count("sys.path[:0] = [") == 1
    (open_tmp / "client").write_text(script.replace("sys.path[:0] = [", f"sys.path[:0] = ['{open_tmp}', "))
    (open_tmp / "client").chmod(0o755)
    with subprocess.Popen(
        [open_tmp / "client", "run", "/bin/true"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        assert client.stdout.read(7) == b"loading"
        client.send_signal(signal.SIGINT)
        assert client.communicate() == (b"", b"")
        assert client.returncode == -signal.SIGINT


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_directory_ends_in_the_interpreters_own_error(root: Caller, number: int) -> None:
    """Nothing of ours runs before; and nothing is started."""
    done = root.shell(f"dkrctl run --rm /bin/true {number}</")
    assert done.returncode == 1
    if number != 2:
        assert "Fatal Python error: init_sys_streams" in done.stderr
