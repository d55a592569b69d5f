"""What `dkrctl run`, `exec` and `attach` may load: the start of every container pays for it."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.client_harness import PYTHON, ROOT, Peer, root_made_socket, terminal

pytestmark = pytest.mark.skipif(not root_made_socket(), reason="a session must be made by root")

OURS = {
    *("common", "common.errors", "common.frames", "common.option_rows", "common.options"),
    *("dkrctl", "dkrctl.lean", "dkrctl.signals", "dkrctl.run", "dkrctl.parse", "dkrctl.request"),
    *("dkrctl.http", "dkrctl.session", "dkrctl.stdio"),
}
COMPLETION = {
    *("common", "common.errors", "common.frames", "common.option_rows", "common.options"),
    *("dkrctl", "dkrctl.lean", "dkrctl.signals", "dkrctl.complete", "dkrctl.http"),
}
C = {"_json", "_signal", "_socket", "errno", "fcntl", "gc", "posix", "select", "termios"}
TERMINAL = {"dkrctl.keeper", "dkrctl.keys", "dkrctl.line", "dkrctl.pump", "dkrctl.terminal"}
EXEC = {"dkrctl.exec", "common.exec_options"}
ATTACH = {"dkrctl.attach", "dkrctl.report"}

# Written in place of the exit: the client ends by _exit, which runs no hook of Python's.
SCRIPT = """#!{python} -IS
import posix, sys
before = set(sys.modules)
sys.path.insert(0, "{root}")
def end(status):
    out = posix.open("{out}", posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC, 0o600)
    posix.write(out, "\\n".join(sorted(set(sys.modules) - before)).encode())
    leave(status)
leave, posix._exit = posix._exit, end
from dkrctl.lean import entry; entry()
"""


class Held(Peer):
    module = "tests.unit.held_peer"


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with Peer(tmp_path) as peer:
        peer.script.write_text(SCRIPT.format(python=PYTHON, root=ROOT, out=tmp_path / "modules"))
        yield peer


def loaded(peer: Peer) -> set[str]:
    return set((peer.directory / "modules").read_text().split())


def test_a_run_loads_what_is_listed(peer: Peer) -> None:
    done = peer.run("--rm", "-e", "A=b", "--tmpfs", "/t", "/bin/echo", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hi\n", b"")
    assert loaded(peer) <= OURS | C
    assert loaded(peer) >= OURS  # else the list names what nobody needs


def test_what_attends_the_session_is_loaded_while_the_daemon_works(tmp_path: Path) -> None:
    """Once the request is sent, and not before: a client in a user namespace must have asked for root's word by then."""
    path = tmp_path / "socket"
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from dkrctl import http, run\n"
        "assert 'dkrctl.session' not in sys.modules\n"
        "def look(sock):\n"
        "    print('dkrctl.session' in sys.modules, flush=True)\n"
        "    return http.ROOM\n"
        "http.look_for_word = look\n"
        f"try: run.run(['--socket', {str(path)!r}, '/bin/true'], None)\n"
        "except http.Unavailable: print('dkrctl.session' in sys.modules)\n"
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        client = subprocess.Popen([PYTHON, "-IS", "-c", script], stdout=subprocess.PIPE, text=True)
        with listener.accept()[0] as connection:
            assert connection.recv(65536).startswith(b"POST /v1/run ")
            assert client.stdout is not None
            assert client.stdout.readline() == "False\n"
        assert client.communicate()[0] == "True\n"


def test_completion_loads_less_than_a_run(peer: Peer) -> None:
    """A shell waits for it at each press of a key."""
    words = [str(peer.script), "__complete", "containers", "--socket", str(peer.socket)]
    done = subprocess.run(words, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"web\thost, running\n", b"")
    assert loaded(peer) <= COMPLETION | C
    assert loaded(peer) >= COMPLETION


@pytest.mark.parametrize("words", [[], ["--quiet"], ["--format", "json"], ["--format", "{{.ID}} {{json .}}"]])
def test_a_list_loads_nothing_of_the_standard_library(peer: Peer, words: list[str]) -> None:
    """`os`, `re` and `collections.abc` alone took 10 of its 25 ms."""
    done = subprocess.run(peer.verb("ps", *words), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"6f6f" in done.stdout
    foreign = {name for name in loaded(peer) if name.partition(".")[0] not in ("common", "dkrctl")}
    assert foreign <= C | {"_struct", "time"}


def test_a_rootfs_costs_one_module_more(peer: Peer) -> None:
    done = peer.run("--rootfs", "/", "/bin/echo", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hi\n", b"")
    assert loaded(peer) - C == OURS | {"dkrctl.rootfs"}


def test_an_exec_costs_two_modules_more(peer: Peer) -> None:
    words = peer.verb("exec", "-e", "A=b", "web", "/bin/echo", "hi")
    done = subprocess.run(words, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hi\n", b"")
    assert loaded(peer) - C == OURS | EXEC


def test_what_is_written_in_c_is_so() -> None:
    code = f"import sys\nfor name in {sorted(C)}: print(getattr(__import__(name), '__file__', '-.so'))"
    done = subprocess.run([PYTHON, "-IS", "-c", code], capture_output=True, check=True, text=True)
    assert all(line.endswith(".so") for line in done.stdout.split())


def test_a_run_with_a_terminal_loads_little_more(peer: Peer) -> None:
    with terminal() as tty:
        client = tty.client(peer.command("/bin/echo", "hi"))
        tty.until(b"hi")
        assert client.wait() == 0
        tty.rest()
    assert loaded(peer) <= OURS | C | TERMINAL
    assert loaded(peer) >= TERMINAL


def test_an_attach_loads_little_more(peer: Peer) -> None:
    with terminal() as tty:
        client = tty.client(peer.attach("echo"))
        tty.until(b"up\r\n")
        tty.type(b"end\r")
        assert client.wait() == 7
        tty.rest()
    assert loaded(peer) <= OURS | C | TERMINAL | ATTACH
    assert loaded(peer) >= TERMINAL | ATTACH


def test_an_attach_without_a_terminal_loads_little_more(tmp_path: Path) -> None:
    with Held(tmp_path) as peer:
        peer.script.write_text(SCRIPT.format(python=PYTHON, root=ROOT, out=tmp_path / "modules"))
        done = subprocess.run(peer.attach("talk"), input=b"word\n", capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (7, b"up\ngot word\nend\n")
        assert loaded(peer) <= OURS | C | TERMINAL | ATTACH | {"dkrctl.streams"}
        assert "dkrctl.streams" in loaded(peer)


def test_help_may_load_more(peer: Peer) -> None:
    done = peer.run("--help")
    assert done.returncode == 0
    assert b"usage: dkrctl run" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.decode().splitlines())
    assert "dkrctl.help" in loaded(peer)


def test_nothing_of_the_environment_is_believed(peer: Peer) -> None:
    env = {**os.environ, "PYTHONPATH": str(peer.directory), "PYTHONSTARTUP": "/nonexistent"}
    (peer.directory / "posix.py").write_text("raise SystemExit(3)")
    (peer.directory / "_json.py").write_text("raise SystemExit(3)")
    assert peer.run("/bin/true", env=env).returncode == 0
