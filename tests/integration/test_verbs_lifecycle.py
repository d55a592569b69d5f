"""`dkrctl create`, `start`, `attach`, `logs`, `rm --force`: containers whose stdio their guardian holds, in pipes."""

from __future__ import annotations

import hashlib
import random
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.verbs import make, sweep, until_listed
from tests.reliability.support import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

SPEAKS = 'echo out; echo err >&2; printf "no newline"; exit 3'
TALKS = 'echo up; echo err >&2; while read word; do echo "got $word"; echo "heard $word" >&2; done; exit 7'
TRAPS = "trap 'echo int' INT; trap 'echo term; exit 5' TERM; echo up; while :; do sleep 600 & wait; done"
WAITS = "echo up; exec sleep 600"


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    sweep(daemon)


def dkrctl(caller: Caller, *words: str, **options: Any) -> subprocess.CompletedProcess[Any]:
    return caller.daemon.dkrctl(*words, user=caller.user, **options)


def popen(caller: Caller, *words: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return caller.daemon.popen(*words, user=caller.user, stdin=pipe, stdout=pipe, stderr=pipe)


def create(caller: Caller, name: str, line: str, *options: str) -> str:
    """A container that will run a line: its id."""
    done = dkrctl(caller, "create", "--name", name, *options, "/bin/sh", "-c", line, check=True)
    assert done.stderr == ""
    assert re.fullmatch(r"[0-9a-f]{64}\n", done.stdout)
    return str(done.stdout.strip())


def started(caller: Caller, name: str, line: str, *options: str) -> str:
    """One that runs a line, and has said `up`: its id."""
    container = create(caller, name, line, *options)
    assert dkrctl(caller, "start", name, check=True).stdout == f"{name}\n"
    with popen(caller, "logs", "-f", name) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == b"up\n"
        following.terminate()
    return container


def statuses(caller: Caller, *words: str) -> dict[str, str]:
    done = dkrctl(caller, "ps", *words, "--format", "{{.Names}}\t{{.Status}}", check=True)
    return dict(line.split("\t") for line in done.stdout.splitlines())


# from the making to the removal


def test_made_started_looked_at_and_removed(caller: Caller) -> None:
    container = create(caller, "job", SPEAKS)
    assert statuses(caller, "-a") == {"job": "Created"}
    assert statuses(caller) == {}
    for times in (1, 2):  # it can be started once more, in the root that it left behind
        assert dkrctl(caller, "start", container[:12], check=True).stdout == f"{container[:12]}\n"
        assert dkrctl(caller, "wait", "job", check=True).stdout == "3\n"
        assert re.fullmatch(
            r"Exited \(3\) (Less than a second|\d+ seconds?) ago", statuses(caller, "-a")["job"]
        )
        done = dkrctl(caller, "logs", "job")
        assert (done.returncode, done.stdout, done.stderr) == (0, "out\nno newline" * times, "err\n" * times)
    assert dkrctl(caller, "rm", "job", check=True).stdout == "job\n"
    assert dkrctl(caller, "logs", "job").returncode == 1


def test_one_that_runs(caller: Caller) -> None:
    started(caller, "alive", WAITS)
    assert re.fullmatch(r"Up (Less than a second|\d+ seconds?)", statuses(caller)["alive"])
    assert dkrctl(caller, "start", "alive").returncode == 0  # as Docker: what is wanted is so
    done = dkrctl(caller, "rm", "alive")
    assert (done.returncode, done.stdout) == (1, "")
    assert "it is running" in done.stderr
    assert dkrctl(caller, "rm", "-f", "alive", check=True).stdout == "alive\n"
    assert statuses(caller, "-a") == {}


def test_what_is_removed_by_force_need_not_be_there(root: Caller) -> None:
    create(root, "made", "exit 0")
    done = dkrctl(root, "rm", "-f", "nosuch", "made")
    assert (done.returncode, done.stdout) == (0, "made\n")
    assert 'cannot find container "nosuch"' in done.stderr


def test_one_that_is_removed_when_it_ends(caller: Caller) -> None:
    create(caller, "brief", SPEAKS, "--rm")
    assert dkrctl(caller, "start", "-a", "brief").returncode == 3
    while statuses(caller, "-a"):
        continue  # it is cleaned up behind its client's exit


def test_options_are_those_of_a_run(caller: Caller, open_tmp: Path) -> None:
    show = 'echo "$A $(hostname) $(id -u) $(pwd)"; touch /new 2>/dev/null || echo "read-only"'
    words = ("-e", "A=b", "-h", "box", "-u", "7:8", "-w", "/usr", "--read-only", "-l", "k=v")
    create(caller, "many", show, *words)
    done = dkrctl(caller, "start", "-a", "many")
    assert (done.returncode, done.stdout, done.stderr) == (0, "b box 7 /usr\nread-only\n", "")
    [found] = [one for one in caller.containers() if one["name"] == "many"]
    assert found["labels"] == {"k": "v"}


def test_it_outlives_a_daemon_that_is_exchanged(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    container = daemon.dkrctl("create", "--name", "kept", "/bin/echo", "hi", check=True).stdout.strip()
    daemon.restart()
    done = daemon.dkrctl("start", "-a", "kept")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi\n", "")
    daemon.restart()
    assert daemon.dkrctl("logs", container, check=True).stdout == "hi\n"
    daemon.dkrctl("rm", "kept", check=True)


def test_a_run_without_a_client(caller: Caller, open_tmp: Path) -> None:
    open_tmp.chmod(0o777)
    file = str(open_tmp / "cid")
    done = dkrctl(caller, "run", "-d", "-i", "--name", "job", "--cidfile", file, "/bin/sh", "-c", TALKS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{(open_tmp / 'cid').read_text()}\n"
    assert dkrctl(caller, "attach", "job", input="one\n").returncode == 7
    assert dkrctl(caller, "logs", "job").stdout == "up\ngot one\n"


def test_a_run_without_a_client_that_cannot_be_started(caller: Caller) -> None:
    """As of any run nothing is left."""
    done = dkrctl(caller, "run", "-d", "/bin/nosuch")
    assert (done.returncode, done.stdout) == (127, "")
    assert "/bin/nosuch" in done.stderr
    assert statuses(caller, "-a") == {}


# who may


def test_what_is_beyond_a_tenants_defaults(root: Caller, tenant: User) -> None:
    create(root, "near", "readlink /proc/self/ns/uts", "--uts", "host")
    assert dkrctl(root, "start", "-a", "near").stdout == f"{uts()}\n"
    done = root.daemon.dkrctl("create", "--uts", "host", "/bin/true", user=tenant)
    assert (done.returncode, done.stdout) == (1, "")
    assert "uts:host" in done.stderr


def uts() -> str:
    return subprocess.run(["readlink", "/proc/self/ns/uts"], stdout=-1, text=True, check=True).stdout.strip()


def test_what_is_anothers_is_not_there(daemon: Daemon, tenant: User, other_tenant: User) -> None:
    made = daemon.dkrctl("create", "--name", "mine", "/bin/true", user=tenant, check=True).stdout.strip()
    for verb in (("start",), ("start", "-a"), ("logs",), ("rm",), ("attach",)):
        done = daemon.dkrctl(*verb, made, user=other_tenant)
        assert done.returncode in (1, 125)
        assert f'cannot find container "{made}"' in done.stderr


# attached from the start


def test_start_with_its_output_here(caller: Caller) -> None:
    create(caller, "speaks", f"cat; {SPEAKS}")
    done = dkrctl(caller, "start", "-a", "speaks", input="nobody's\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\nno newline", "err\n")
    assert dkrctl(caller, "logs", "speaks").stdout == "out\nno newline"


def test_start_with_input(caller: Caller) -> None:
    create(caller, "talks", TALKS, "-i")
    done = dkrctl(caller, "start", "-ai", "talks", input="one\ntwo\n")
    assert (done.returncode, done.stdout) == (7, "up\ngot one\ngot two\n")
    assert done.stderr == "err\nheard one\nheard two\n"


def test_megabytes_both_ways(caller: Caller) -> None:
    """All of it is written before the end is told."""
    data = random.Random(1).randbytes(1 << 20) * 10
    create(caller, "copies", "tee /dev/stderr", "-i")
    done = dkrctl(caller, "start", "-i", "copies", input=data, text=False)
    wanted = hashlib.sha256(data).digest()
    assert (done.returncode, len(done.stdout), len(done.stderr)) == (0, len(data), len(data))
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(done.stderr).digest() == wanted


def test_signals_are_the_commands(caller: Caller) -> None:
    create(caller, "traps", TRAPS)
    with popen(caller, "start", "-a", "traps") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        client.send_signal(signal.SIGINT)
        assert client.stdout.readline() == b"int\n"
        client.send_signal(signal.SIGTERM)
        assert client.stdout.read() == b"term\n"
        assert client.wait() == 5


@pytest.mark.parametrize(("wish", "runs"), [("kill", False), ("keep", True)])
def test_when_the_client_vanishes(root: Caller, wish: str, runs: bool) -> None:
    create(root, "left", WAITS)
    with popen(root, "start", "-a", "--on-disconnect", wish, "left") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        until_listed(root, "left")
        client.kill()
    if runs:
        assert dkrctl(root, "kill", "left").returncode == 0
    else:
        assert root.ended("left")["exit"]["cause"] == "client-gone"


def test_who_has_seen_enough_leaves_silently(caller: Caller) -> None:
    create(caller, "much", "echo up; exec yes")
    line = "dkrctl start -a much | head -n 1; echo ${PIPESTATUS[0]}"
    done = caller.shell(line)
    assert (done.stdout, done.stderr) == ("up\n141\n", "")
    assert dkrctl(caller, "rm", "-f", "much").returncode == 0


# attached later


def test_two_who_are_attached(caller: Caller) -> None:
    create(caller, "shared", TALKS, "-i")
    with popen(caller, "start", "-ai", "shared") as first:
        heard(first, "up")
        with popen(caller, "attach", "shared") as second:
            say(second, "two")  # answered to both: it is there
            heard(first, "got two")
            heard(second, "got two")
            say(first, "one")
            heard(first, "got one")
            heard(second, "got one")
            assert first.stdin is not None
            first.stdin.close()  # its end is the end of the input, whoever else is there
            assert (first.wait(), second.wait()) == (7, 7)


def say(client: subprocess.Popen[bytes], word: str) -> None:
    assert client.stdin is not None
    client.stdin.write(f"{word}\n".encode())
    client.stdin.flush()


def heard(client: subprocess.Popen[bytes], line: str) -> None:
    assert client.stdout is not None
    assert client.stdout.readline() == f"{line}\n".encode()


def test_an_attached_client_ends_alone(caller: Caller) -> None:
    container = started(caller, "stays", TRAPS)
    with popen(caller, "attach", "stays") as client:
        attached = f"attached id={container}"
        eventually(lambda: attached in caller.daemon.log, "it is attached, and takes signals its own way")
        client.terminate()
        assert client.wait() == 143
    assert statuses(caller)["stays"].startswith("Up")


def test_a_run_with_its_callers_pipes_cannot_be_attached_to(root: Caller) -> None:
    with root.popen("--name", "own", "/bin/sh", "-c", WAITS) as client:
        until_listed(root, "own")
        done = dkrctl(root, "attach", "own")
        assert done.returncode == 125
        assert "rule: no-terminal" in done.stderr
        client.terminate()


# the log


def test_bytes_are_what_they_were(caller: Caller) -> None:
    create(caller, "bytes", "printf '\\377\\0\\n\\303\\274\\r\\033[m'; head -c 100000 /dev/zero")
    out = dkrctl(caller, "start", "-a", "bytes", text=False).stdout
    assert out == b"\xff\0\n\xc3\xbc\r\x1b[m" + bytes(100000)
    assert dkrctl(caller, "logs", "bytes", text=False).stdout == out


def test_which_lines(caller: Caller) -> None:
    create(caller, "lines", "for i in 1 2 3 4 5; do echo $i; done")
    dkrctl(caller, "start", "-a", "lines", check=True)
    assert dkrctl(caller, "logs", "-n", "2", "lines").stdout == "4\n5\n"
    assert dkrctl(caller, "logs", "--tail", "0", "lines").stdout == ""
    assert dkrctl(caller, "logs", "--since", "10m", "lines").stdout == "1\n2\n3\n4\n5\n"
    assert dkrctl(caller, "logs", "--until", "10m", "lines").stdout == ""
    stamped = dkrctl(caller, "logs", "-t", "lines").stdout.splitlines()
    times = [line.split()[0] for line in stamped]
    assert times == sorted(times)
    assert [line.split()[1] for line in stamped] == ["1", "2", "3", "4", "5"]
    assert dkrctl(caller, "logs", "--since", times[3], "--until", times[3], "lines").stdout.split() == [
        line.split()[1] for line in stamped if line.split()[0] == times[3]
    ]


def test_following_to_the_end(caller: Caller) -> None:
    started(caller, "talks", TALKS, "-i")
    with popen(caller, "logs", "--follow", "talks") as following, popen(caller, "attach", "talks") as client:
        assert client.stdin is not None
        assert following.stdout is not None
        assert following.stderr is not None
        assert following.stdout.readline() == b"up\n"
        client.stdin.write(b"one\n")
        client.stdin.flush()
        assert following.stdout.readline() == b"got one\n"
        client.stdin.close()
        assert following.stderr.read() == b"err\nheard one\n"
        assert following.wait() == 0
        assert client.wait() == 7


def test_following_is_left_by_ctrl_c_and_by_who_has_seen_enough(caller: Caller) -> None:
    started(caller, "alive", WAITS)
    with popen(caller, "logs", "-f", "alive") as client:
        assert client.stdout is not None
        assert client.stderr is not None
        assert client.stdout.readline() == b"up\n"
        client.send_signal(signal.SIGINT)
        assert (client.wait(), client.stderr.read()) == (-signal.SIGINT, b"")
    done = caller.shell("dkrctl logs -f alive | head -n 1; echo ${PIPESTATUS[0]}")
    assert (done.stdout, done.stderr) == ("up\n141\n", "")
    assert dkrctl(caller, "rm", "-f", "alive").returncode == 0


def test_a_run_has_no_log(caller: Caller) -> None:
    make(caller.daemon, caller.user, "ran", "/bin/echo", "hi")
    done = dkrctl(caller, "logs", "ran")
    assert (done.returncode, done.stdout) == (1, "")
    assert "rule: no-log" in done.stderr


# what goes wrong


def test_a_command_that_is_not_there(caller: Caller) -> None:
    dkrctl(caller, "create", "--name", "none", "/bin/nosuch", check=True)
    done = dkrctl(caller, "start", "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert "/bin/nosuch" in done.stderr
    done = dkrctl(caller, "start", "-a", "none")
    assert (done.returncode, done.stdout) == (127, "")
    assert "/bin/nosuch" in done.stderr


def test_a_name_in_use(caller: Caller) -> None:
    create(caller, "taken", "exit 0")
    done = dkrctl(caller, "create", "--name", "taken", "/bin/true")
    assert (done.returncode, done.stdout) == (1, "")
    assert "taken" in done.stderr
    assert list(statuses(caller, "-a")) == ["taken"]


def test_to_start_attached_what_runs(caller: Caller) -> None:
    started(caller, "alive", WAITS)
    done = dkrctl(caller, "start", "-a", "alive")
    assert done.returncode == 125
    assert "rule: running" in done.stderr
    assert dkrctl(caller, "rm", "-f", "alive").returncode == 0


def test_one_that_had_its_callers_descriptors(root: Caller) -> None:
    make(root.daemon, None, "had", "--preserve-fds", "1", "/bin/true", status=125)
    with root.popen_shell("exec dkrctl run --name had --preserve-fds 1 /bin/true 3</dev/null") as shell:
        assert shell.wait() == 0
    root.ended("had")
    done = dkrctl(root, "start", "had")
    assert (done.returncode, done.stdout) == (1, "")
    assert "rule: descriptors" in done.stderr
