"""The relay of a command that has no terminal: its pipes, real ones, with a loop."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from dkrd.loop import Loop
from dkrd.shim import pipes
from dkrd.shim.relay import LIMIT, Relay, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@dataclass
class Command:
    """The command's ends, and the relay of its standard output and input."""

    loop: Loop
    relay: Relay
    theirs: pipes.Theirs
    pipe: pipes.Pipe
    heard: bytearray = field(default_factory=bytearray)
    ended: bool = False

    def turn(self) -> None:
        """Whatever can be done now."""
        for _ in range(40):
            self.loop.turn(0)

    def client(self, *, types: bool = True) -> tuple[Stream, socket.socket]:
        stream = Stream(types=types)
        end = stream.open()
        end.setblocking(False)
        self.relay.add(stream)
        return stream, end

    def says(self, data: bytes) -> None:
        os.write(self.theirs.stdio[1], data)
        self.turn()

    def reads(self) -> bytes:
        self.turn()
        os.set_blocking(self.theirs.stdio[0], False)
        return os.read(self.theirs.stdio[0], 65536)


@pytest.fixture
def command() -> Iterator[Command]:
    theirs, ours = pipes.make((0, 1, 2), open_stdin=True, base=0)
    loop = Loop()
    relay = Relay(loop, ours[1])
    made = Command(loop, relay, theirs, ours[1])
    relay.on_data = made.heard.extend
    relay.on_end = lambda: setattr(made, "ended", True)
    relay.begin()
    yield made
    relay.finish()
    made.theirs.close()
    ours[1].end_input()
    for pipe in ours.values():
        os.close(pipe.reading)


def recv(end: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(BlockingIOError):
        while chunk := end.recv(65536):
            data += chunk
    return data


def test_output_goes_to_the_log_and_to_everybody(command: Command) -> None:
    _, one = command.client()
    command.says(b"for one\n")
    _, two = command.client()
    command.says(b"for both\n")
    assert bytes(command.heard) == b"for one\nfor both\n"
    assert (recv(one), recv(two)) == (b"for one\nfor both\n", b"for both\n")
    one.close()
    two.close()


def test_without_a_client_it_is_never_held_up(command: Command) -> None:
    for _ in range(50):
        command.says(b"x" * 8192)
    assert len(command.heard) == 50 * 8192


def test_the_end_of_the_output_is_seen_behind_it(command: Command) -> None:
    _, end = command.client()
    command.says(b"last words")
    command.theirs.close()
    command.turn()
    assert command.ended
    assert end.recv(100) == b"last words"
    assert end.recv(100) == b""
    end.close()


def test_who_comes_after_the_end_of_the_output_sees_it(command: Command) -> None:
    os.close(command.theirs.stdio.pop(1))
    command.turn()
    _, end = command.client()
    assert end.recv(100) == b""
    end.close()


def test_input_and_its_end(command: Command) -> None:
    _, end = command.client()
    end.sendall(b"typed")
    assert command.reads() == b"typed"
    end.sendall(b" and more")
    end.shutdown(socket.SHUT_WR)
    assert command.reads() == b" and more"
    assert command.reads() == b""
    assert not command.relay.listens
    end.close()


def test_a_client_that_goes_is_no_end_of_input(command: Command) -> None:
    stream, end = command.client()
    end.sendall(b"typed")
    end.close()
    command.turn()
    command.relay.leave(stream)
    assert command.reads() == b"typed"
    with pytest.raises(BlockingIOError):
        command.reads()
    assert command.relay.listens


def test_one_that_only_looks_ends_nothing(command: Command) -> None:
    _, end = command.client(types=False)
    end.sendall(b"not for it")
    end.shutdown(socket.SHUT_WR)
    with pytest.raises(BlockingIOError):
        command.reads()
    end.close()


def test_a_command_that_reads_no_more_loses_no_output(command: Command) -> None:
    _, end = command.client()
    os.close(command.theirs.stdio.pop(0))
    end.sendall(b"for nobody")
    command.turn()
    command.says(b"still here\n")
    assert recv(end) == b"still here\n"
    assert not command.relay.listens
    end.close()


def test_more_input_than_the_pipe_holds(command: Command) -> None:
    _, end = command.client()
    data = os.urandom(3 * LIMIT)
    sent, got = 0, b""
    while len(got) < len(data):
        with contextlib.suppress(BlockingIOError):
            sent += end.send(data[sent : sent + 16384]) if sent < len(data) else 0
        with contextlib.suppress(BlockingIOError):
            got += command.reads()
    assert got == data
    end.close()


def test_a_slow_client_alone_holds_up_the_command(command: Command) -> None:
    _, end = command.client()
    os.set_blocking(command.theirs.stdio[1], False)
    written = 0
    with contextlib.suppress(BlockingIOError):
        while written < 64 * LIMIT:
            written += os.write(command.theirs.stdio[1], b"y" * 8192)
            command.turn()
    assert written < 16 * LIMIT
    got = 0
    while got < written:
        got += len(recv(end))
        command.turn()
    assert got == written
    end.close()


def test_the_rest_is_there_when_it_finishes(command: Command) -> None:
    _, end = command.client()
    os.write(command.theirs.stdio[1], b"z" * 60000)
    command.relay.finish()
    assert len(recv(end)) == 60000
    assert len(command.heard) == 60000
    assert command.ended
    end.close()


def test_without_open_stdin_the_input_has_ended() -> None:
    theirs, ours = pipes.make((0, 1, 2), open_stdin=False, base=0)
    assert os.read(theirs.stdio[0], 10) == b""
    assert all(pipe.writing < 0 for pipe in ours.values())
    theirs.close()
    for pipe in ours.values():
        os.close(pipe.reading)
