"""`dkrctl exec`: a further command in a running container, as if it ran here."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import host
from tests.integration.terminals import GUARD, Terminal
from tests.integration.test_limits import HOG, PYTHON
from tests.integration.test_run_terminal import CTRL_C, CTRL_Z
from tests.reliability.support import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

SHELL_WORDS = ("-e", "PS1=in$((6*7))> ", "web", "/bin/bash", "--norc", "--noprofile")


@pytest.fixture
def web(caller: Caller) -> Iterator[Caller]:
    """Somebody whose container `web` stands."""
    with caller.standing():
        yield caller


@pytest.fixture
def roots(root: Caller) -> Iterator[Caller]:
    """Root, whose container `web` stands."""
    with root.standing():
        yield root


# --- input, output, exit


def test_input_output_errors_and_the_exit_are_the_callers(web: Caller) -> None:
    done = web.exec("web", "/bin/sh", "-c", "cat; echo oops >&2; exit 3", input="some words\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, "some words\n", "oops\n")


def test_files_and_sockets_are_passed_as_they_are(web: Caller, tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("words\n")
    with words.open() as given, (tmp_path / "out").open("wb") as out:
        done = web.exec("web", "/usr/bin/tr", "a-z", "A-Z", stdin=given, stdout=out)
    assert done.returncode == 0
    assert (tmp_path / "out").read_text() == "WORDS\n"


def test_it_is_where_the_container_is(web: Caller) -> None:
    look = "cd /proc/self/ns; readlink cgroup ipc mnt net pid user uts; hostname; cat /proc/1/comm"
    done = web.exec("web", "/bin/sh", "-c", look, check=True)
    inside = done.stdout.splitlines()
    # Process 1 is not ours to look at from inside, having other capabilities; so from outside.
    first = web.command("sleep")
    names = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    assert inside[:7] == [os.readlink(f"/proc/{first.pid}/ns/{name}") for name in names]
    assert inside[7:] == ["container", "sleep"]


def test_it_is_in_the_containers_cgroups(web: Caller) -> None:
    first = web.command("sleep")
    with web.start_exec("web", "/bin/sh", "-c", "echo up; read word") as client:
        assert client.stdout is not None
        assert client.stdin is not None
        assert client.stdout.readline() == "up\n"
        assert web.command("sh").cgroups == first.cgroups
        client.stdin.write("go\n")


def test_what_one_writes_the_other_reads(web: Caller) -> None:
    assert web.exec("web", "/bin/sh", "-c", "echo here >/tmp/note").returncode == 0
    assert web.exec("web", "/bin/cat", "/tmp/note").stdout == "here\n"


def test_ended_by_a_signal(web: Caller) -> None:
    assert web.exec("web", "/bin/sh", "-c", "kill -9 $$").returncode == 137


def test_what_it_leaves_behind_runs_on(web: Caller) -> None:
    assert web.exec("web", "/bin/sh", "-c", "sleep 599 >/dev/null 2>&1 </dev/null &").returncode == 0
    assert "sleep 599" in web.exec("web", "/bin/ps", "ax").stdout


def test_several_at_once(web: Caller) -> None:
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(web.start_exec("web", "/bin/sh", "-c", f"read word; echo $word; exit {code}"))
            for code in range(8)
        ]
        for code, client in reversed(list(enumerate(clients))):
            assert client.communicate(f"word{code}\n", GUARD) == (f"word{code}\n", "")
            assert client.returncode == code


def test_preserved_descriptors_and_no_others(web: Caller) -> None:
    read, write = os.pipe()
    os.write(write, b"third\n")
    os.close(write)

    def arrange() -> None:
        os.dup2(read, 3)
        os.dup2(read, 4)

    look = "cat <&3; ls /proc/self/fd"
    done = web.exec("--preserve-fds", "1", "web", "/bin/sh", "-c", look, close_fds=False, preexec_fn=arrange)
    os.close(read)
    # 4 is what ls(1) has opened to look
    assert (done.stdout.split(), done.stderr) == (["third", "0", "1", "2", "3", "4"], "")


def test_a_descriptor_closed_at_the_callers_stays_closed(roots: Caller) -> None:
    done = roots.exec("web", "/bin/ls", "/proc/self/fd", stdin=None, preexec_fn=lambda: os.close(0))
    assert done.stdout.split() == ["0", "1", "2"]  # 0 is what ls(1) has opened to look


# --- who, where, with what


def test_the_user_directory_and_environment_are_the_containers(caller: Caller) -> None:
    options = ("-u", "7:8", "-w", "/tmp", "-e", "A=b", "-e", "LISTEN_FDS=1", "--hostname", "other")
    look = "id -u; id -g; pwd; echo $A $HOSTNAME $LISTEN_FDS"
    with caller.standing(*options, "/bin/sleep", "600"):
        done = caller.exec("web", "/bin/sh", "-c", look, check=True)
        assert done.stdout.splitlines() == ["7", "8", "/tmp", "b other"]
        done = caller.exec("-u", "0", "-w", "/", "-e", "A=c", "web", "/bin/sh", "-c", look, check=True)
        assert done.stdout.splitlines() == ["0", "0", "/", "c other"]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("nobody", "65534 65534 65534"),
        ("daemon:nogroup", "1 65534 65534"),
        ("1234:5678", "1234 5678 5678"),
        ("1234", "1234 0 0"),
    ],
)
def test_users_by_name_and_number(roots: Caller, user: str, expected: str) -> None:
    done = roots.exec("-u", user, "web", "/bin/sh", "-c", "echo $(id -u) $(id -g) $(id -G)")
    assert (done.stdout, done.stderr) == (f"{expected}\n", "")


def test_variables_of_a_file(roots: Caller, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# a comment\nONE=1\nTWO\n")
    done = roots.exec(
        "--env-file", str(file), "-e", "THREE", "web", "/usr/bin/env", env={"TWO": "2", "THREE": "3"}
    )
    assert {"ONE=1", "TWO=2", "THREE=3"} <= set(done.stdout.splitlines())


def test_without_a_shell_in_the_root(root: Caller, tmp_path: Path) -> None:
    place = tmp_path / "root"
    place.mkdir()
    only = place / "busybox"
    only.write_bytes(Path("/bin/busybox").read_bytes())
    only.chmod(0o755)
    command = ["run", "--rm", "--name", "bare", "--rootfs", str(place), "/busybox", "cat"]
    with root.daemon.popen(*command, stdin=subprocess.PIPE):
        root.command("busybox")
        done = root.exec("bare", "/busybox", "echo", "words")
        assert (done.returncode, done.stdout, done.stderr) == (0, "words\n", "")


@pytest.mark.parametrize(
    "options", [("--pid", "host"), ("--userns", "host"), ("--network", "host", "--uts", "host"), ("--init",)]
)
def test_where_the_container_has_what_is_the_hosts(root: Caller, options: tuple[str, ...]) -> None:
    with root.standing(*options, "/bin/sleep", "600"):
        first = root.command("sleep")
        done = root.exec("web", "/bin/sh", "-c", "cd /proc/self/ns; readlink pid user net uts mnt; exit 5")
        assert (done.returncode, done.stderr) == (5, "")
        names = ("pid", "user", "net", "uts", "mnt")
        assert done.stdout.splitlines() == [os.readlink(f"/proc/{first.pid}/ns/{name}") for name in names]


# --- what cannot be


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (("web", "nosuch"), 127, "cannot run 'nosuch': it is in no directory of PATH"),
        (("web", "/nosuch"), 127, "cannot run '/nosuch': no such file or directory"),
        (("web", "/etc/passwd"), 126, "cannot run '/etc/passwd': permission denied"),
        (("-w", "/nosuch", "web", "/bin/true"), 126, "cannot change to the working directory /nosuch"),
        (("-u", "nosuch", "web", "/bin/true"), 125, "cannot run as 'nosuch': there is no user 'nosuch'"),
        (("-u", "0:nosuch", "web", "/bin/true"), 125, "cannot run as '0:nosuch': there is no group"),
        (("-w", "tmp", "web", "/bin/true"), 125, "--workdir tmp: it is not absolute"),
        (("-u", "99999:0", "web", "/bin/true"), 125, "user"),
        (("web",), 125, "cannot execute in web: there is no command"),
        ((), 125, "cannot execute: no container is named"),
        (("web", ""), 125, "args[0]: is empty"),
        (("nosuch", "/bin/true"), 125, 'cannot find container "nosuch"'),
        (("../web", "/bin/true"), 125, "cannot execute in ../web: that is no name and no id"),
        (("-t", "web", "/bin/true"), 125, "cannot give the command a terminal: the input is not a terminal"),
        (("-d", "-i", "web", "/bin/true"), 125, "cannot execute with --detach and --interactive"),
        (("--rm", "web", "/bin/true"), 125, "cannot take option --rm: there is no such option"),
    ],
)
def test_what_cannot_be_is_told(web: Caller, words: tuple[str, ...], status: int, error: str) -> None:
    done = web.exec(*words)
    assert done.returncode == status
    assert error in done.stderr
    assert done.stdout == ""


def test_only_in_a_container_that_runs(caller: Caller) -> None:
    create = ("create", "--name", "made", "/bin/true")
    caller.daemon.dkrctl(*create, user=caller.user, check=True)
    try:
        assert "it has not been started" in caller.exec("made", "/bin/true").stderr
        caller.daemon.dkrctl("start", "-a", "made", user=caller.user, check=True)
        done = caller.exec("made", "/bin/true")
        assert (done.returncode, "it has ended" in done.stderr) == (125, True)
    finally:
        caller.daemon.dkrctl("rm", "made", user=caller.user, check=True)


def test_anothers_is_not_there(root: Caller, tenant: host.User) -> None:
    mine = type(root)(root.daemon, tenant)
    with root.standing() as container:
        for name in ("web", container):
            done = mine.exec(name, "/bin/true")
            assert (done.returncode, "cannot find" in done.stderr) == (125, True)
    with mine.standing():
        assert root.exec("web", "/bin/true").returncode == 0  # an admin's are all


# --- at a terminal


def test_it_has_a_terminal_of_its_own(web: Caller) -> None:
    look = "tty; stty size; echo $TERM; stat -c %u $(tty); test -t 0 -a -t 1 -a -t 2 && echo x >/dev/tty"
    with Terminal(web) as terminal:
        terminal.exec("web", "/bin/sh", "-c", look)
        assert terminal.status() == 0
        assert terminal.shown.decode().split("\r\n") == ["/dev/pts/0", "33 101", "xterm", "0", "x", ""]


def test_job_control(web: Caller) -> None:
    with Terminal(web) as terminal:
        before = terminal.mode()
        terminal.exec(*SHELL_WORDS)
        terminal.until("in42> ")
        assert b"no job control" not in terminal.shown
        terminal.type("sh -c 'echo up; exec cat'\r")
        terminal.until("up\r\n")
        terminal.type("one\r")
        terminal.until("one\r\none\r\n")
        terminal.type(CTRL_Z)
        terminal.until("Stopped")
        terminal.until("in42> ")
        terminal.type("fg\r")
        terminal.until("exec cat'\r\n")
        terminal.type("two\r")
        terminal.until("two\r\ntwo\r\n")
        terminal.type(CTRL_C)
        terminal.until("in42> ")
        terminal.type("exit 4\r")
        assert terminal.status() == 4
        assert terminal.mode() == before


def test_the_size_follows(web: Caller) -> None:
    with Terminal(web, 10, 20) as terminal:
        terminal.exec(
            "web", "/bin/sh", "-c", "trap 'stty size; exit 4' WINCH; echo up; while :; do sleep 0.05; done"
        )
        terminal.until("up\r\n")
        terminal.resize(50, 132)
        terminal.until("50 132\r\n")
        assert terminal.status() == 4


def test_the_keys_that_leave(web: Caller) -> None:
    with Terminal(web) as terminal:
        terminal.exec("web", "/bin/sh", "-c", "echo up; read word; echo $word >/tmp/got; sleep 598")
        terminal.until("up\r\n")
        terminal.type("word\r")
        terminal.until("word\r\n")
        terminal.type("\x10\x11")
        assert terminal.status() == 0
        assert b"left the command in web, which runs on" in terminal.shown
    assert "sleep 598" in web.exec("web", "/bin/ps", "ax").stdout


def test_the_terminal_that_the_container_has_is_not_touched(root: Caller) -> None:
    with Terminal(root) as first, Terminal(root) as second:
        first.run("--name", "web", "/bin/sh", "-c", "echo up; read word; echo got $word")
        first.until("up\r\n")
        second.exec("web", "/bin/sh", "-c", "tty; echo console >/dev/console")
        assert second.status() == 0
        assert second.shown == b"/dev/pts/1\r\n"
        first.until("console\r\n")
        first.type("word\r")
        first.until("got word\r\n")
        assert first.status() == 0


def test_a_plain_terminal_never_enters(web: Caller) -> None:
    """With -T what goes inside are pipes."""
    with Terminal(web) as terminal:
        terminal.exec("-T", "web", "/bin/sh", "-c", "test -t 0 || test -t 1 || test -t 2 || echo none")
        assert (terminal.status(), terminal.shown) == (0, b"none\r\n")


# --- without a client, and when it vanishes


def test_detached(web: Caller) -> None:
    done = web.exec("-d", "web", "/bin/sh", "-c", "readlink /proc/self/fd/0 >/tmp/in; sleep 597", check=True)
    assert len(done.stdout.strip()) == 64
    assert done.stderr == ""
    assert "sleep 597" in web.exec("web", "/bin/ps", "ax").stdout
    look = "until test -s /tmp/in; do sleep 0.01; done; cat /tmp/in"
    assert web.exec("web", "/bin/sh", "-c", look).stdout == "/dev/null\n"


def test_detached_with_a_terminal(roots: Caller) -> None:
    """Nobody reads it, and it does not hold up the command."""
    line = "tty >/tmp/tty; seq 100000; echo over >/tmp/over; sleep 596"
    roots.exec("-dt", "web", "/bin/sh", "-c", line, check=True)
    roots.exec("web", "/bin/sh", "-c", "while ! test -s /tmp/over; do sleep 0.01; done", check=True)
    assert roots.exec("web", "/bin/cat", "/tmp/tty").stdout == "/dev/pts/0\n"


def test_one_that_cannot_be_is_told_detached_too(roots: Caller) -> None:
    done = roots.exec("-d", "web", "/nosuch")
    assert (done.returncode, done.stdout) == (127, "")


# By one process: a shell's is two for a moment, whenever it starts a command.
WAITS = """
import os, signal
def told(number, frame):
    print('told', number, flush=True, file=open('/tmp/told', 'w'))
    os._exit(7)
signal.signal(signal.SIGTERM, {handler})
print('up', flush=True)
while True: signal.pause()
"""


def vanished(caller: Caller, *options: str, handler: str = "told") -> host.Process:
    """The process of an exec whose client was killed."""
    command = ("/usr/bin/python3", "-ISc", WAITS.format(handler=handler))
    with caller.start_exec(*options, "web", *command) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        process = caller.command("python3")
        client.kill()
    return process


def test_it_ends_with_its_client(web: Caller) -> None:
    assert host.wait_gone(vanished(web).pid, GUARD)
    assert web.exec("web", "/bin/cat", "/tmp/told").stdout == "told 15\n"


def test_what_it_waits_for_ends_with_it(web: Caller) -> None:
    there = "ps ax | grep -q '[s]leep 595'"
    with web.start_exec("web", "/bin/bash", "-c", "sleep 595; true") as client:
        web.exec("web", "/bin/sh", "-c", f"until {there}; do sleep 0.01; done", check=True)
        client.kill()
    web.exec("web", "/bin/sh", "-c", f"while {there}; do sleep 0.01; done", check=True)


def test_killed_with_its_client(web: Caller) -> None:
    assert host.wait_gone(vanished(web, "--on-disconnect", "kill").pid, GUARD)
    assert web.exec("web", "/bin/cat", "/tmp/told").returncode == 1


def test_kept_without_its_client(web: Caller) -> None:
    line = "echo up; read word; sleep 594; true"
    with web.start_exec("--on-disconnect", "keep", "web", "/bin/bash", "-c", line) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        client.kill()
    # It has read the end of its input, which came after the client had gone.
    web.exec("web", "/bin/sh", "-c", "until ps ax | grep -q '[s]leep 594'; do sleep 0.01; done", check=True)


def test_one_that_heeds_nothing_is_killed_after_the_stop_timeout(root: Caller) -> None:
    with root.standing("--stop-timeout", "0.1", "/bin/sleep", "600"):
        assert host.wait_gone(vanished(root, handler="signal.SIG_IGN").pid, GUARD)


def test_a_hangup_of_the_terminal_is_one_inside(web: Caller) -> None:
    with Terminal(web) as terminal:
        terminal.exec("web", "/bin/bash", "-c", "echo up; sleep 593; true")
        terminal.until("up\r\n")
        command = web.command("bash")
        assert terminal.client is not None
        terminal.client.kill()
    assert host.wait_gone(command.pid, GUARD)


def test_signals_are_passed_on(web: Caller) -> None:
    line = "trap 'echo told; exit 9' USR1; echo up; while :; do sleep 0.05; done"
    with web.start_exec("web", "/bin/bash", "-c", line) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        client.send_signal(signal.SIGUSR1)
        assert client.stdout.readline() == "told\n"
        assert client.wait(GUARD) == 9


@pytest.mark.parametrize("options", [(), ("--pid", "host")])
def test_it_ends_with_the_container(root: Caller, options: tuple[str, ...]) -> None:
    with (
        root.standing(*options, "/bin/sleep", "600"),
        root.start_exec("web", "/bin/bash", "-c", "echo up; sleep 592; true") as client,
        root.start_exec("web", "/bin/dash", "-c", "echo up; sleep 591; true") as other,
    ):
        for one in (client, other):
            assert one.stdout is not None
            assert one.stdout.readline() == "up\n"
        root.daemon.dkrctl("kill", "web", check=True)
        assert (client.wait(GUARD), other.wait(GUARD)) == (137, 137)


# --- bounds


def test_the_containers_limit_of_processes_is_its_own_too(caller: Caller) -> None:
    with caller.standing("--pids-limit", "2", "/bin/sleep", "600"):
        done = caller.exec("web", "/bin/sh", "-c", "/bin/true & wait $!")
        assert "ork" in done.stderr  # Cannot fork
        with caller.start_exec("web", "/bin/sh", "-c", "echo up; read word") as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "up\n"
            done = caller.exec("web", "/bin/true")
            assert (done.returncode, "processes" in done.stderr) == (125, True)
            client.communicate("go\n")
        assert caller.exec("web", "/bin/true").returncode == 0


def test_the_containers_limit_of_memory_is_its_own_too(caller: Caller) -> None:
    with caller.standing("--memory", "40m", "/bin/sleep", "600"):
        done = caller.exec("web", *PYTHON, HOG)
        assert done.returncode == 137
        assert "ran out of memory" in done.stderr


def test_nothing_is_left_of_many(roots: Caller) -> None:
    [shim] = [process for process in roots.daemon.processes() if process.comm == "dkr-shim"]

    def held() -> int:
        return len(os.listdir(f"/proc/{shim.pid}/fd"))

    # What is held for good is there after the first; of each something may still be about to go.
    looks = []
    for _ in range(5):
        assert roots.exec("web", "/bin/true").returncode == 0
        looks.append(held())
    before = min(looks)
    for words in (
        ("web", "/bin/true"),
        ("web", "/nosuch"),
        ("-d", "web", "/bin/true"),
        ("-w", "/no", "web", "x"),
    ):
        roots.exec(*words)
    with Terminal(roots) as terminal:
        terminal.exec("web", "/bin/true")
        assert terminal.status() == 0
    eventually(lambda: held() <= before, "nothing of an exec is left with the guardian")
