"""`dkrctl run` without a terminal: descriptors, environment, signals, exit status, errors."""

import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.client_harness import Peer, root_made_socket

pytestmark = pytest.mark.skipif(not root_made_socket(), reason="a session must be made by root")


def shell(peer: Peer, line: str) -> subprocess.CompletedProcess[bytes]:
    """`line` in a shell, where $RUN is the client with its socket."""
    env = {**os.environ, "RUN": f"{peer.script} --socket {peer.socket} run"}
    return subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=False, env=env)


# Descriptors


def test_pipes_go_through(peer: Peer) -> None:
    data = os.urandom(1 << 20)
    done = peer.run("/bin/cat", data=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data


def test_stderr_is_apart(peer: Peer) -> None:
    done = peer.run("/bin/sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


@pytest.mark.parametrize(
    ("redirection", "expected"),
    [
        ("<&-", [1, 2]),
        (">&-", [0, 2]),
        ("2>&-", [0, 1]),
        ("<&- >&- 2>&-", []),
        ("<&- 2>&-", [1]),
    ],
)
def test_a_closed_descriptor_stays_closed(peer: Peer, redirection: str, expected: list[int]) -> None:
    script = 'for n in 0 1 2; do [ -e /proc/$$/fd/$n ] && r="$r $n"; done; echo $r >&3'
    done = shell(peer, f"exec 9>&1; $RUN --preserve-fds 1 /bin/sh -c '{script}' 3>&9 {redirection}")
    assert peer.told("start")["start"]["stdio"] == expected
    # The peer leaves descriptors closed too, so that a socket of the client's on 0-2 would show.
    assert done.stdout.split() == [str(n).encode() for n in expected]
    assert done.returncode == 0


def test_closed_descriptors_and_preserved_ones(peer: Peer) -> None:
    done = shell(peer, "exec 9>&1; $RUN --preserve-fds 1 /bin/sh -c 'echo hi >&3' 3>&9 <&- >&- 2>&-")
    assert (done.returncode, done.stdout) == (0, b"hi\n")


def test_a_closed_descriptor_is_not_filled_by_the_clients_own(peer: Peer) -> None:
    reader, writer = os.pipe()
    command = shlex.join(peer.command("--preserve-fds", "1", "/bin/sh", "-c", "read line <&3"))
    client = subprocess.Popen(["/bin/sh", "-c", f"exec {command} 3<&0 <&- >&- 2>&-"], stdin=reader)
    assert peer.told("start")["start"]["stdio"] == []
    there = [os.readlink(f"/proc/{client.pid}/fd/{n}") for n in (0, 1, 2)]
    os.close(writer)
    os.close(reader)
    client.wait()
    assert there == ["/dev/null"] * 3


def test_a_preserved_descriptor_that_is_not_open_is_named(peer: Peer) -> None:
    done = shell(peer, "$RUN --preserve-fds 3 /bin/true 3>&1 4>&1 5>&-")
    assert done.returncode == 125
    assert b"descriptor 5" in done.stderr


def test_an_anonymous_output_pipe_can_be_opened_again_inside(peer: Peer) -> None:
    read_in, write_in = os.pipe()
    read_out, write_out = os.pipe()
    os.close(write_in)
    subprocess.run(peer.command("/bin/true"), stdin=read_in, stdout=write_out, check=True)
    modes = [stat.S_IMODE(os.fstat(fd).st_mode) for fd in (read_in, write_out)]
    owner = os.fstat(write_out).st_uid
    for descriptor in (read_in, read_out, write_out):
        os.close(descriptor)
    assert modes == [0o600, 0o602]
    assert owner == os.geteuid()


def test_a_pipe_that_is_both_input_and_output_is_not_opened_up(peer: Peer) -> None:
    reader, writer = os.pipe()
    subprocess.run(peer.command("/bin/true"), stdin=reader, stdout=writer, check=True)
    mode = stat.S_IMODE(os.fstat(writer).st_mode)
    os.close(reader)
    os.close(writer)
    assert mode == 0o600


def test_a_named_pipe_is_left_alone(peer: Peer, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    descriptor = os.open(fifo, os.O_RDWR)
    subprocess.run(peer.command("/bin/true"), stdout=descriptor, check=True, stdin=subprocess.DEVNULL)
    os.close(descriptor)
    assert stat.S_IMODE(fifo.stat().st_mode) == 0o600


def test_a_directory_is_refused(peer: Peer) -> None:
    # The interpreter itself does not start with a directory on 0-2, so one is put there later.
    client = peer.script.read_text().partition("\n")[2]
    code = f"import os, sys; os.dup2(os.open('/', os.O_RDONLY), 1); {client}"
    words = ["-c", code, *peer.command("/bin/true")[1:]]
    done = subprocess.run([sys.executable, *words], capture_output=True, check=False)
    assert done.returncode == 125
    assert b"cannot pass stdout: it is a directory" in done.stderr


def test_o_path_of_a_file_is_refused(peer: Peer) -> None:
    descriptor = os.open("/bin/true", os.O_PATH)
    done = subprocess.run(peer.command("/bin/true"), stdin=descriptor, capture_output=True, check=False)
    os.close(descriptor)
    assert done.returncode == 125
    assert b"cannot pass stdin: it is an O_PATH descriptor" in done.stderr


def test_the_client_holds_no_pipe_that_the_command_closed(peer: Peer) -> None:
    reader, writer = os.pipe()
    script = "exec >&-; read line"
    client = peer.popen("/bin/sh", "-c", script, stdin=subprocess.PIPE, stdout=writer)
    os.close(writer)
    assert os.read(reader, 1) == b""  # at once, although the command still runs
    os.close(reader)
    assert client.poll() is None
    client.communicate(b"\n")


def test_input_can_be_withheld(peer: Peer) -> None:
    done = peer.run("--interactive=false", "/bin/cat", data=b"secret")
    assert (done.returncode, done.stdout) == (0, b"")


def test_sockets_of_systemd_are_handed_on(peer: Peer) -> None:
    ours, theirs = socket.socketpair()
    code = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); "
        "os.environ.update(LISTEN_FDS='1', LISTEN_FDNAMES='web', LISTEN_PID=str(os.getpid())); "
        "os.execv(sys.argv[2], sys.argv[2:])"
    )
    line = 'echo "$LISTEN_FDS $LISTEN_FDNAMES"; echo hi >&3'
    done = subprocess.run(
        [sys.executable, "-c", code, str(theirs.fileno()), *peer.command("/bin/sh", "-c", line)],
        pass_fds=[theirs.fileno()],
        capture_output=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"1 web\n", b"")
    assert ours.recv(10) == b"hi\n"
    ours.close()
    theirs.close()


def test_sockets_meant_for_another_process_are_not_handed_on(peer: Peer) -> None:
    env = {**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": "1"}
    done = peer.run("/bin/sh", "-c", "echo $LISTEN_FDS", env=env)
    assert (done.returncode, done.stdout) == (0, b"\n")


# Environment


def test_variables(peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(b"\xef\xbb\xbf# comment\n\nA=1\r\n  B= two = 2 \nMINE\nNOT_SET\nC=file\n")
    env = {**os.environ, "MINE": "mine", "ALSO": "also"}
    peer.run("--env-file", str(file), "-e", "C=option", "-e", "ALSO", "-e", "NOR_THIS", "/bin/true", env=env)
    assert peer.told("start")["start"]["request"]["env"] == {
        "A": "1",
        "B": " two = 2 ",
        "MINE": "mine",
        "C": "option",
        "ALSO": "also",
    }


def test_a_value_that_is_not_utf8_is_refused_by_name(peer: Peer) -> None:
    env = {**os.environb, b"ODD": b"\xff"}
    done = peer.run("-e", "ODD", "/bin/true", env=env)
    assert done.returncode == 125
    assert b"variable ODD" in done.stderr


def test_an_argument_that_is_not_utf8_is_refused(peer: Peer) -> None:
    command: list[str | bytes] = [*peer.command("/bin/echo"), b"\xff"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 125
    assert b"argument 2" in done.stderr


def test_the_first_frame_is_the_request(peer: Peer) -> None:
    peer.run("--network", "host", "--pid=host", "/bin/true")
    told = peer.told("start")
    frame = told["start"]
    assert (frame["type"], frame["version"]) == ("start", 2)
    assert frame["request"] == {
        "args": ["/bin/true"],
        "namespaces": {"network": "host", "pid": "host"},
    }
    assert sorted(frame["asks"]) == ["network:host", "pid:host"]
    assert told["credentials"][1:] == [os.geteuid(), os.getegid()]


def test_a_long_request(peer: Peer) -> None:
    words = ["x" * 100_000] * 3
    assert peer.run("/bin/echo", *words).stdout.split() == [word.encode() for word in words]


def test_a_request_too_long_for_the_session(peer: Peer) -> None:
    done = peer.run("/bin/echo", *["x" * 100_000] * 4, label="small")
    assert done.returncode == 125
    assert b"more than the session takes" in done.stderr


# How it ends


@pytest.mark.parametrize(
    ("line", "status"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137)]
)
def test_exit_status(peer: Peer, line: str, status: int) -> None:
    assert peer.run("/bin/sh", "-c", line).returncode == status


def test_the_time_limit_is_told(peer: Peer) -> None:
    done = peer.run("--timeout", "5", "/bin/sh", "-c", "kill -9 $$", label="timeout")
    assert done.returncode == 137
    assert done.stderr == b"dkrctl: the time limit of 5 s ended the command\n"
    quiet = peer.run("-q", "--timeout", "5", "/bin/sh", "-c", "kill -9 $$", label="timeout")
    assert (quiet.returncode, quiet.stderr) == (137, b"")


def test_a_problem_is_shown_with_its_way_out(peer: Peer) -> None:
    done = peer.run("/bin/true", label="refuse")
    assert done.returncode == 125
    assert done.stderr.decode() == (
        "dkrctl: cannot take the request: it is odd\n  env.A: odd \\x1b[31m\n  hint: make it even\n"
    )


@pytest.mark.parametrize(
    ("label", "status", "part"),
    [
        ("record-error", 125, "cannot run: too many"),
        ("error-frame", 127, 'cannot run "x": no such file'),
        ("garbage", 125, "its frame is"),
        ("lost", 125, "lost the container's guardian"),
        ("hang-up", 125, "closed the connection"),
        ("not-root", 125, "the session was not made by root"),
    ],
)
def test_failures(peer: Peer, label: str, status: int, part: str) -> None:
    done = peer.run("/bin/sleep", "60", label=label)
    assert done.returncode == status
    assert part in done.stderr.decode()


def test_nothing_is_sent_into_a_session_that_root_did_not_make(peer: Peer) -> None:
    peer.run("/bin/true", label="not-root")
    assert peer.told("vanished") is True


def test_nobody_listens(tmp_path: Path, peer: Peer) -> None:
    dead = tmp_path / "dead"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(dead))
    listener.close()
    for where, part in ((dead, b"nobody listens"), (tmp_path / "none", b"no such socket")):
        done = peer.run("--socket", str(where), "/bin/true")
        assert done.returncode == 125
        assert part in done.stderr
        assert b"systemctl start dkrd" in done.stderr


def test_the_socket_may_be_refused(peer: Peer) -> None:
    peer.socket.chmod(0o600)
    peer.directory.chmod(0o711)
    script = peer.script.read_text().split("\n")[1:]
    # In memory, since pytest's directories are closed to others: the lean modules first, then another user.
    code = "\n".join(
        [
            script[0].partition("; ")[0],
            script[0].partition("; ")[2],
            "import os, dkrctl.run, dkrctl.report, common.errors",
            f"os.chdir({str(peer.directory)!r})",
            "os.setgroups([]); os.setresgid(12345, 12345, 12345); os.setresuid(12345, 12345, 12345)",
            "sys.argv = ['dkrctl', 'run', '--socket', 's', '/bin/true']",
            script[1],
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 125
    assert b"permission denied: the socket is for its owner only (mode 0600)" in done.stderr
    assert b"socket_group" in done.stderr


def test_versions(peer: Peer) -> None:
    words = [str(peer.script), "--socket", str(peer.socket), "version"]
    done = subprocess.run(words, capture_output=True, check=True)
    assert done.stdout.decode().splitlines()[1].startswith("dkrd   9.9.9 (API 1)")
    assert b"upgrade the client" in done.stderr


def test_the_clients_version_needs_no_daemon(peer: Peer, tmp_path: Path) -> None:
    words = [str(peer.script), "version", "--socket", str(tmp_path / "none")]
    done = subprocess.run(words, capture_output=True, check=False)
    assert done.stdout.startswith(b"dkrctl ")
    assert b"no such socket" in done.stderr
    assert done.returncode == 1


# --cidfile


def test_cidfile(peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "cid"
    assert peer.run("--cidfile", str(file), "/bin/sh", "-c", f"cat {file}").returncode == 0
    assert file.read_text() == "c0ffee" + "0" * 58
    again = peer.run("--cidfile", str(file), "/bin/true")
    assert again.returncode == 125
    assert b"the file exists" in again.stderr


@pytest.mark.parametrize("label", ["refuse", "error-frame", "hang-up"])
def test_cidfile_goes_with_a_start_that_failed(peer: Peer, tmp_path: Path, label: str) -> None:
    file = tmp_path / "cid"
    assert peer.run("--cidfile", str(file), "/bin/true", label=label).returncode != 0
    assert not file.exists()


# Signals


FORWARDED = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
    *(
        signal.SIGALRM,
        signal.SIGWINCH,
        signal.SIGURG,
        signal.SIGXFSZ,
        signal.SIGABRT,
        signal.SIGRTMIN,
        signal.SIGRTMAX,
    ),
)


@pytest.mark.parametrize("number", FORWARDED)
def test_signals_are_forwarded(peer: Peer, number: int) -> None:
    script = f"trap 'echo got; exit 9' {int(number)}; echo ready; while :; do read line; done"
    reader, writer = os.pipe()
    client = peer.popen("/bin/bash", "-c", script, stdin=reader, stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    client.send_signal(number)
    assert peer.told("frame") == {"type": "signal", "signal": int(number)}
    os.close(writer)
    assert client.stdout.readline() == b"got\n"
    assert client.wait() == 9
    client.stdout.close()
    os.close(reader)


def test_a_signal_before_the_start_is_not_lost(peer: Peer) -> None:
    client = peer.popen("/bin/echo", "hi", label="slow", stdout=subprocess.PIPE)
    peer.told("start")  # the first frame is there, the command is not
    client.send_signal(signal.SIGUSR1)
    assert peer.told("early") == {"type": "signal", "signal": signal.SIGUSR1}
    assert client.communicate()[0] == b"hi\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_while_asking_a_signal_ends_the_client(peer: Peer, tmp_path: Path, number: int) -> None:
    file = tmp_path / "cid"
    client = peer.popen("--cidfile", str(file), "/bin/true", label="mute", stderr=subprocess.PIPE)
    peer.told("request")
    assert file.exists()
    client.send_signal(number)
    _, said = client.communicate()
    assert client.returncode == -number  # by the signal, as any program
    assert said == b""
    assert not file.exists()


def test_what_the_caller_ignores_stays_ignored(peer: Peer) -> None:
    env = {**os.environ, "RUN": f"{peer.script} --socket {peer.socket} run"}
    client = subprocess.Popen(
        ["/bin/sh", "-c", "trap '' HUP; exec $RUN /bin/sh -c 'echo ready; read line; exit 3'"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
    )
    assert client.stdout is not None
    client.stdout.readline()
    client.send_signal(signal.SIGHUP)
    client.send_signal(signal.SIGWINCH)  # what comes after it arrives
    assert peer.told("frame")["signal"] == signal.SIGWINCH
    client.communicate(b"\n")
    assert client.returncode == 3


def test_job_control_stops_the_client(peer: Peer) -> None:
    client = peer.popen(
        "/bin/sh",
        "-c",
        "echo ready; read line",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,  # one of its own, as a shell would: in an orphaned group nobody can be stopped
    )
    assert client.stdout is not None
    client.stdout.readline()
    client.send_signal(signal.SIGTSTP)
    _, status = os.waitpid(client.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert os.WSTOPSIG(status) == signal.SIGTSTP
    client.send_signal(signal.SIGCONT)
    client.communicate(b"\n")
    assert client.returncode == 0


def test_when_the_client_is_killed_the_shim_knows(peer: Peer) -> None:
    client = peer.popen("/bin/sleep", "60")
    peer.told("start")
    client.kill()
    client.wait()
    assert peer.told("vanished") is True
