"""The caller's terminal put out of the way, and as it was however its holder ends."""

import os
import resource
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from dkrctl.line import KEYS, OUTPUT, SIGNALS, Line
from tests.unit.client_harness import CTTY, Tty

# On the terminal that is its descriptor 0, until a word comes; FIRST is done before.
HOLDER = """
import os, posix, sys
sys.path.insert(0, {root!r})
from dkrctl.line import Line
{first}
line = Line(0, 7)
assert line.take() is True
os.write(1, b"taken;")
{then}
"""
GUARD = 20.0


def mode(tty: Tty) -> list[int | list[bytes | int]]:
    return termios.tcgetattr(tty.slave)


def flags(tty: Tty) -> tuple[bool, bool, bool]:
    """Lines, signals, output processing."""
    now = mode(tty)
    local, output = now[3], now[1]
    assert isinstance(local, int)
    assert isinstance(output, int)
    return bool(local & termios.ICANON), bool(local & termios.ISIG), bool(output & termios.OPOST)


def until(tty: Tty, expected: list[int | list[bytes | int]]) -> None:
    """Looks until the terminal is in this mode: no event tells."""
    for _ in range(int(GUARD / 0.005)):
        if mode(tty) == expected:
            return
        select.select([], [], [], 0.005)
    raise AssertionError(f"{mode(tty)}, not {expected}")


def holder(tty: Tty, then: str, first: str = "") -> subprocess.Popen[bytes]:
    code = HOLDER.format(root=str(Path(__file__).parents[2]), first=first, then=then)
    process = tty.client([sys.executable, "-Ic", code])
    tty.until(b"taken;")
    return process


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (KEYS, (False, True, True)),
        (KEYS | OUTPUT, (False, True, False)),
        (KEYS | SIGNALS | OUTPUT, (False, False, False)),
        (OUTPUT, (True, True, False)),
    ],
)
def test_what_is_out_of_the_way(tty: Tty, what: int, expected: tuple[bool, bool, bool]) -> None:
    before = mode(tty)
    line = Line(tty.slave, what)
    assert line.take()
    assert flags(tty) == expected
    taken = mode(tty)
    assert line.take()  # again: as after SIGCONT
    assert mode(tty) == taken
    line.restore()
    assert mode(tty) == before
    line.restore()
    assert mode(tty) == before


def test_all_together_is_raw(tty: Tty) -> None:
    line = Line(tty.slave, KEYS | SIGNALS | OUTPUT)
    line.take()
    taken = mode(tty)
    line.restore()
    subprocess.run(["stty", "raw", "-echo"], stdin=tty.slave, check=True)
    raw = mode(tty)
    # stty leaves some that the kernel does not heed in this mode; IXON and the like it does.
    assert taken[1:3] == raw[1:3]
    assert flags(tty) == (False, False, False)
    iflag = taken[0]
    assert isinstance(iflag, int)
    assert not iflag & (termios.ICRNL | termios.IXON | termios.ISTRIP | termios.INLCR | termios.BRKINT)


def test_what_was_changed_while_it_was_given_back_counts(tty: Tty) -> None:
    """Stopped, the shell in front, `stty -echo`, `fg`: that is how it was."""
    line = Line(tty.slave, KEYS | SIGNALS)
    line.take()
    line.restore()
    subprocess.run(["stty", "-echo"], stdin=tty.slave, check=True)
    before = mode(tty)
    line.take()
    line.restore()
    assert mode(tty) == before


def test_what_a_shell_did_while_we_were_stopped_counts(tty: Tty) -> None:
    """SIGSTOP cannot be caught, so nothing was given back."""
    line = Line(tty.slave, KEYS | SIGNALS | OUTPUT)
    line.take()
    taken = mode(tty)
    subprocess.run(["stty", "sane", "-echo"], stdin=tty.slave, check=True)
    before = mode(tty)
    line.take()
    assert flags(tty) == (False, False, False)
    line.restore()
    assert mode(tty) == before != taken


def test_without_a_process_to_be_had_it_works_all_the_same(tty: Tty) -> None:
    before = mode(tty)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    line = Line(tty.slave, KEYS)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (tty.slave + 1, hard))  # no descriptor for its pipe
        assert line.take()
        assert not flags(tty)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    line.restore()
    assert mode(tty) == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_holder_that_is_killed(tty: Tty, number: int) -> None:
    before = mode(tty)
    process = holder(tty, "os.read(0, 1)")
    assert flags(tty) == (False, False, False)
    process.send_signal(number)
    until(tty, before)
    assert process.wait() == -number


def test_a_holder_that_is_killed_with_its_group_in_the_moment_it_has_set_it(tty: Tty) -> None:
    """The child is no member of it from the first moment on."""
    before = mode(tty)
    for _ in range(15):
        process = holder(tty, "os.killpg(0, 9)")
        assert process.wait() == -signal.SIGKILL
        until(tty, before)


def test_the_child_has_nothing_of_the_callers_and_is_not_left_behind(tty: Tty) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    then = (
        "[child] = [int(p) for p in open(f'/proc/self/task/{os.getpid()}/children').read().split()]\n"
        "while open(f'/proc/{child}/comm').read() != 'dkrctl-keeper\\n' or len(os.listdir(f'/proc/{child}/fd')) > 2: pass\n"
        "assert os.getpgid(child) == child\n"
        "assert os.readlink(f'/proc/{child}/fd/0') == os.ttyname(0)\n"
        "assert os.readlink(f'/proc/{child}/fd/1').startswith('pipe:')\n"
        "line.restore()\n"
        "assert not os.path.exists(f'/proc/{child}')\n"
        "os.write(1, b'well')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", CTTY, sys.executable, "-Ic", HOLDER.format(root=str(Path(__file__).parents[2]), first="", then=then)],
        stdin=tty.slave, stdout=tty.slave, stderr=tty.slave, pass_fds=[writer], start_new_session=True,
    )  # fmt: skip
    os.close(writer)
    tty.until(b"well")
    assert process.wait() == 0
    assert os.read(reader, 1) == b""  # at once: the child did not keep it
    os.close(reader)


def test_what_another_has_set_stays(tty: Tty) -> None:
    process = holder(tty, "os.read(0, 1)")
    [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    subprocess.run(["stty", "isig"], stdin=tty.slave, check=True)
    changed = mode(tty)
    gone = os.pidfd_open(int(child))
    process.kill()
    process.wait()
    assert select.select([gone], [], [], GUARD)[0]
    os.close(gone)
    assert mode(tty) == changed


def test_in_the_background_nothing_is_set(tty: Tty) -> None:
    """Nor given back, where another job has set it for itself."""
    before = mode(tty)
    first = (
        "if os.fork():\n"
        "    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "os.setpgid(0, 0)\n"
        "line = Line(0, 7)\n"
        "assert line.take() is False\n"
        "line.restore()\n"
        "os.write(1, b'taken;'); os._exit(0)"
    )
    process = holder(tty, "", first)
    assert process.wait() == 0
    assert mode(tty) == before
