"""`dkrctl run` and 0-2: the command has the caller's own pipe, file or socket, and nothing stands in between."""

from __future__ import annotations

import fcntl
import io
import os
import select
import socket
import stat
import subprocess
import termios
from typing import TYPE_CHECKING

import pytest

from tests.patience import guard

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

GUARD = guard(20.0)  # seconds after which something that should have come never will
BLOCK = 1024 * 1024
BLOCKS = 1024


def identity(descriptor: int) -> str:
    """What a descriptor is, as `stat -L -c %d:%i` says it."""
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


STAT = ("/usr/bin/stat", "-L", "-c", "%d:%i", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2")


def test_pipes_are_the_callers_own(caller: Caller) -> None:
    with caller.popen(*STAT) as client:
        assert client.stdin
        assert client.stdout
        assert client.stderr
        wanted = [identity(end.fileno()) for end in (client.stdin, client.stdout, client.stderr)]
        out, err = client.communicate(timeout=GUARD)
    assert (out.decode().split(), err) == (wanted, b"")


def test_files_are_the_callers_own(caller: Caller, open_tmp: Path) -> None:
    with (
        (open_tmp / "in").open("w+b") as in_,
        (open_tmp / "out").open("w+b") as out,
        (open_tmp / "err").open("w+b") as err,
    ):
        done = caller.run(*STAT, stdin=in_, stdout=out, stderr=err)
        assert done.returncode == 0, (open_tmp / "err").read_text()
        assert (open_tmp / "out").read_text().split() == [identity(file.fileno()) for file in (in_, out, err)]
        assert (open_tmp / "err").read_text() == ""


def test_a_socket_serves_both_ways(caller: Caller) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, caller.popen("/bin/cat", stdin=theirs, stdout=theirs) as client:
        theirs.close()
        ours.settimeout(GUARD)
        for word in (b"there", b"and back"):
            ours.sendall(word)
            assert ours.recv(100) == word
        ours.shutdown(socket.SHUT_WR)
        assert ours.recv(100) == b""
        assert client.wait(GUARD) == 0


def test_every_byte_passes_as_it_is(caller: Caller) -> None:
    data = bytes(range(256)) * 4096 + b"\r\n\0\xff\n\n"
    done = caller.run("/bin/sh", "-c", "cat; printf 'a\\r\\n\\000\\377' >&2", input=data, text=False)
    assert (done.returncode, done.stderr) == (0, b"a\r\n\0\xff")
    assert done.stdout == data


def test_output_and_errors_are_apart_and_in_their_order(caller: Caller) -> None:
    talk = "i=0; while [ $i -lt 500 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done"
    out, err = ([f"{name} {i}" for i in range(500)] for name in ("out", "err"))
    done = caller.run("/bin/sh", "-c", talk)
    assert (done.stdout.splitlines(), done.stderr.splitlines()) == (out, err)
    done = caller.run("/bin/sh", "-c", talk, stderr=subprocess.STDOUT)
    assert done.stdout.splitlines() == [line for both in zip(out, err, strict=True) for line in both]


def test_the_end_of_input_reaches_the_command(caller: Caller) -> None:
    with caller.popen("/bin/sh", "-c", "cat; echo end") as client:
        assert client.stdin
        assert client.stdout
        client.stdin.write(b"some\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"some\n"  # so the command reads, and goes on reading
        client.stdin.close()
        assert client.stdout.read() == b"end\n"
        assert client.wait(GUARD) == 0


def test_output_that_the_command_closes_ends_for_the_reader(caller: Caller) -> None:
    with caller.popen("/bin/sh", "-c", "echo last; exec >&-; read go; echo done >&2") as client:
        assert client.stdin
        assert client.stdout
        assert client.stderr
        assert client.stdout.read() == b"last\n"  # hangs if anybody else keeps the pipe
        assert client.poll() is None
        client.stdin.write(b"\n")
        client.stdin.flush()
        assert client.stderr.read() == b"done\n"
        assert client.wait(GUARD) == 0


def test_input_that_the_command_closes_breaks_the_writers_pipe(caller: Caller) -> None:
    read, write = os.pipe()
    line = "exec dkrctl run --rm --preserve-fds 1 /bin/sh -c 'exec <&-; echo closed; read go <&3' 3<&$1"
    try:
        with caller.popen_shell(line, str(read), pass_fds=(read,)) as client:
            assert client.stdin
            assert client.stdout
            assert client.stdout.readline() == b"closed\n"
            # The guardian, who had the pipe in its hands, may be later than the command's word.
            poll = select.poll()
            poll.register(client.stdin, 0)
            assert poll.poll(GUARD * 1000) == [(client.stdin.fileno(), select.POLLERR)]
            with pytest.raises(BrokenPipeError):
                os.write(client.stdin.fileno(), b"to nobody")
            os.write(write, b"\n")
            assert client.wait(GUARD) == 0
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize(
    ("args", "status", "err"),
    [
        (("--init", "/bin/cat", "/dev/zero"), 128 + 13, b""),
        (("/bin/sh", "-c", "cat /dev/zero; echo $? >&2"), 0, b"141\n"),
    ],
    ids=["init", "shell"],
)
def test_a_reader_that_leaves_ends_the_writer(
    caller: Caller, args: tuple[str, ...], status: int, err: bytes
) -> None:
    with caller.popen(*args) as client:
        assert client.stdout
        assert client.stderr
        assert client.stdout.read(1) == b"\0"
        client.stdout.close()
        assert client.stderr.read() == err
        assert client.wait(GUARD) == status


@pytest.mark.parametrize(("number", "shut", "answer"), [(0, "<&-", 1), (1, ">&-", 2), (2, "2>&-", 1)])
def test_what_the_caller_has_closed_stays_closed(caller: Caller, number: int, shut: str, answer: int) -> None:
    """No socket of the client's, and no /dev/null, may take its place."""
    script = f"for n in 0 1 2; do test -h /proc/$$/fd/$n || echo no $n >&{answer}; done"
    done = caller.shell(f'exec dkrctl run --rm /bin/sh -c "$1" {shut}', script)
    assert (done.returncode, done.stdout + done.stderr) == (0, f"no {number}\n")


def test_all_three_may_be_closed(caller: Caller) -> None:
    done = caller.shell("dkrctl run --rm /bin/sh -c 'test -h /proc/$$/fd/0 || exit 7' <&- >&- 2>&-; echo $?")
    assert done.stdout == "7\n"


def test_the_place_in_a_file_is_shared(caller: Caller, open_tmp: Path) -> None:
    (open_tmp / "lines").write_text("one\ntwo\nthree\n")
    with (open_tmp / "lines").open("rb") as lines:
        done = caller.shell(
            "dkrctl run --rm /bin/sh -c 'read a; echo inside $a'; read b; echo outside $b", stdin=lines
        )
    assert (done.stdout, done.stderr) == ("inside one\noutside two\n", "")
    with (open_tmp / "out").open("wb") as out:
        subprocess.run(["/bin/echo", "first"], stdout=out, check=True)
        assert caller.run("/bin/echo", "second", stdout=out).returncode == 0
        subprocess.run(["/bin/echo", "third"], stdout=out, check=True)
    assert (open_tmp / "out").read_text() == "first\nsecond\nthird\n"


def test_a_full_disk_is_told_to_the_command(caller: Caller) -> None:
    with open("/dev/full", "wb") as full:
        done = caller.run("--init", "/bin/sh", "-c", "/bin/echo lost || exit 9", stdout=full)
    assert (done.returncode, done.stderr) == (9, "/bin/echo: write error: No space left on device\n")


def test_dev_stdout_opens(caller: Caller) -> None:
    """The pipes belong to the caller's uid, which is unknown inside."""
    script = "echo out >/dev/stdout && echo err >/dev/stderr && echo more >>/dev/fd/1"
    done = caller.shell('{ dkrctl run --rm /bin/sh -c "$1" 2>&3 | cat; } 3> >(cat >&2); wait $!', script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\nmore\n", "err\n")


def test_that_is_all_that_is_granted(root: Caller) -> None:
    """Others may write to 1 and 2; not to 0, where they would speak in the caller's name; no owner changes."""
    script = "(echo lie >/dev/stdin) 2>/dev/null && echo worse; echo done"
    with root.popen("/bin/sh", "-c", script) as client:
        assert client.stdin
        assert client.stdout
        assert client.stderr
        ends = (client.stdin, client.stdout, client.stderr)
        before = [os.fstat(end.fileno()) for end in ends]
        assert client.stdout.read() == b"done\n"
        after = [os.fstat(end.fileno()) for end in ends]
        assert client.wait(GUARD) == 0
    assert [(s.st_uid, s.st_gid) for s in after] == [(s.st_uid, s.st_gid) for s in before]
    assert [stat.S_IMODE(s.st_mode) for s in after] == [0o600, 0o602, 0o602]


def test_a_pipe_with_a_name_keeps_its_mode(root: Caller, open_tmp: Path) -> None:
    fifo = open_tmp / "fifo"
    os.mkfifo(fifo, 0o640)
    descriptor = os.open(fifo, os.O_RDWR)
    try:
        assert root.run("/bin/echo", "hello", stdout=descriptor).returncode == 0
        assert os.read(descriptor, 100) == b"hello\n"
    finally:
        os.close(descriptor)
    assert stat.S_IMODE(fifo.stat().st_mode) == 0o640


def test_a_name_of_a_file_is_no_input(root: Caller, open_tmp: Path) -> None:
    (open_tmp / "file").touch()
    descriptor = os.open(open_tmp / "file", os.O_PATH)
    try:
        done = root.run("/bin/true", stdin=descriptor)
    finally:
        os.close(descriptor)
    assert done.returncode == 125
    assert done.stderr.startswith("dkrctl: cannot pass stdin: it is an O_PATH descriptor")


def test_without_input_the_command_reads_nothing(caller: Caller) -> None:
    assert caller.output("--interactive=false", "/bin/cat", input="not for you") == ""


WRITER = f"""
import sys
out, block = sys.stdout.buffer.raw, sys.stdin.buffer.read()
for i in range({BLOCKS}):
    view = memoryview(i.to_bytes(8, "big") + block)
    while view:
        view = view[out.write(view):]
"""


def test_a_slow_reader_loses_nothing(root: Caller) -> None:
    """One GiB through a reader that stops and goes on; the last of it is read when command and client have long ended."""
    block = os.urandom(BLOCK - 8)
    with root.popen("/usr/bin/python3", "-IS", "-c", WRITER, stderr=None) as client:
        assert client.stdin
        assert client.stdout
        room = fcntl.fcntl(client.stdout, fcntl.F_SETPIPE_SZ, BLOCK)
        client.stdin.write(block)
        client.stdin.close()
        assert isinstance(output := client.stdout, io.BufferedReader)
        buffer = memoryview(bytearray(BLOCK))
        for i in range(BLOCKS):
            if i in (1, BLOCKS // 2):
                _wait_until_full(client.stdout.fileno(), room)
            if i == BLOCKS - 1:
                assert client.wait(GUARD) == 0
            assert output.readinto(buffer) == BLOCK
            assert buffer[:8] == i.to_bytes(8, "big")
            assert buffer[8:] == block
        assert client.stdout.read() == b""


def _wait_until_full(descriptor: int, room: int) -> None:
    """The writer waits for its reader: nothing in a pipe tells that by an event."""
    while int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), "little") < room:
        select.select([], [], [], 0.01)
