"""Copying between descriptors, one turn at a time."""

import os
import pty
import select
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest

from dkrctl.pump import CHUNK, SAFE, Pump, never_wait

WAIT = 2000  # ms; a guard: what is awaited comes at once


def turn(*pumps: Pump, wait: int = 0) -> dict[int, int]:
    """What the client's loop does once; what was ready."""
    table: dict[int, int] = {}
    for pump in pumps:
        pump.interest(table)
    poller = select.poll()
    for descriptor, mask in table.items():
        poller.register(descriptor, mask)
    ready = dict(poller.poll(wait)) if table else {}
    for pump in pumps:
        pump.blocked = pump.resting = False
        pump.step(ready)
    return ready


@contextmanager
def pipes(count: int) -> Iterator[list[int]]:
    """That many pipes: reading end, writing end, reading end, ..."""
    made = [end for _ in range(count) for end in os.pipe()]
    try:
        yield made
    finally:
        for descriptor in made:
            with suppress(OSError):  # closed before
                os.close(descriptor)


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A raw pty's two sides."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


def test_what_comes_goes_on() -> None:
    with pipes(2) as (source, typed, shown, target):
        pump = Pump(source, target, outward=True)
        os.write(typed, b"one")
        turn(pump)
        assert pump.holding()
        turn(pump)
        assert os.read(shown, 99) == b"one"
        assert not pump.holding()
        os.close(typed)
        turn(pump)
        assert pump.eof
        assert pump.done()


def test_what_is_held_is_bounded_and_what_waits_is_not_read() -> None:
    with pipes(2) as (source, typed, _, target):
        never_wait(target)
        never_wait(typed)
        pump = Pump(source, target, outward=True)
        taken = 0
        while True:
            try:
                taken += os.write(typed, b"x" * 4096)
            except BlockingIOError:
                if not turn(pump):
                    break
        # Two full pipes and the pump's own: nobody reads.
        assert taken <= 2 * 65536 + CHUNK
        assert pump.holding()


def test_a_descriptor_that_may_block_gets_no_more_than_it_takes_at_once() -> None:
    """Else the client would hang in write(2), deaf for signals and frames."""
    with pipes(2) as (source, typed, shown, target):
        os.write(target, b"y" * (65536 - SAFE))
        pump = Pump(source, target, outward=True)
        os.write(typed, b"x" * 3 * SAFE)
        turn(pump)
        turn(pump)  # would block for ever here
        assert not turn(pump)
        assert pump.holding()
        assert len(os.read(shown, 1 << 20)) == 65536
        while pump.holding():
            turn(pump)
        assert os.read(shown, 1 << 20) == b"x" * 2 * SAFE


def test_a_pipe_whose_reader_has_gone_takes_nothing_more_of_what_is_typed() -> None:
    """What is typed then is the next reader's: the shell's."""
    with pipes(2) as (source, typed, reader, writer):
        pump = Pump(source, writer, outward=False, owned=writer)
        turn(pump)
        os.close(reader)
        os.write(typed, b"later")
        turn(pump)
        assert pump.done()
        assert pump.owned == -1
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(writer)
        assert os.read(source, 99) == b"later"


def test_an_output_that_has_gone_is_broken() -> None:
    with pipes(2) as (source, typed, shown, target):
        pump = Pump(source, target, outward=True)
        os.close(shown)
        os.write(typed, b"lost")
        turn(pump)
        turn(pump)
        assert pump.broken
        assert not pump.holding()


def test_a_master_whose_other_side_is_nobodys_rests() -> None:
    """Until somebody opens it again: no end of file, and no busy loop."""
    with pipes(1) as (shown, target), terminal() as (master, slave):
        name = os.ttyname(slave)
        os.close(slave)
        pump = Pump(master, target, outward=True, master=True)
        turn(pump)
        assert pump.resting
        assert not pump.eof
        table: dict[int, int] = {}
        pump.interest(table)
        assert table == {}
        slave = os.open(name, os.O_RDWR | os.O_NOCTTY)
        os.write(slave, b"back")
        pump.resting = False
        turn(pump, wait=WAIT)
        turn(pump, wait=WAIT)
        assert os.read(shown, 99) == b"back"


def test_a_terminal_that_hung_up_is_an_end_of_input() -> None:
    master, slave = pty.openpty()
    with pipes(1) as (_, target):
        pump = Pump(slave, target, outward=False)
        os.close(master)
        turn(pump, wait=WAIT)
        os.close(slave)
        assert pump.eof


def test_non_blocking_mode_of_either_side_is_no_fault() -> None:
    with pipes(2) as (source, typed, shown, target):
        for descriptor in (source, target):
            never_wait(descriptor)
        pump = Pump(source, target, outward=True)
        pump.step({source: select.POLLIN})  # poll(2) said so, and another reader was quicker
        assert not pump.eof
        os.write(typed, b"x")
        turn(pump)
        while True:
            try:
                os.write(target, b"y" * 4096)
            except BlockingIOError:
                break
        pump.step({target: select.POLLOUT})
        assert pump.holding()
        assert not pump.broken
        assert b"x" not in os.read(shown, 1 << 20)


def test_what_is_held_keeps_its_place_when_the_ends_change() -> None:
    """The hand-over of a terminal: what was read before is shown before what comes over the stream; as with what is typed."""
    with pipes(2) as (stream, theirs, shown, target), terminal() as (master, slave):
        outward = Pump(master, target, outward=True, master=True)
        os.write(slave, b"before,")
        turn(outward, wait=WAIT)
        assert outward.holding()
        os.write(slave, b"not ours")
        outward.redirect(source=stream)
        os.write(theirs, b"after")
        while outward.holding() or turn(outward):
            turn(outward)
        assert os.read(shown, 99) == b"before,after"
        inward = Pump(stream, master, outward=False)
        os.write(theirs, b"typed before")
        turn(inward)
        assert inward.holding()
        inward.redirect(target=target)
        turn(inward)
        assert os.read(shown, 99) == b"typed before"
        assert outward.master is False


def test_nothing_is_read_while_it_is_held() -> None:
    with pipes(2) as (source, typed, _, target):
        pump = Pump(source, target, outward=False)
        pump.held = True
        os.write(typed, b"kept")
        assert turn(pump) == {}
        pump.step({source: select.POLLIN})  # found before it was held
        assert not pump.holding()
        assert os.read(source, 99) == b"kept"


def test_who_watches_decides_what_goes_on_and_when_to_leave() -> None:
    def watch(found: list[bytes], data: bytes) -> tuple[bytes, bool]:
        found.append(data)
        return data.upper(), data == b"end"

    found: list[bytes] = []
    with pipes(2) as (source, typed, shown, target):
        pump = Pump(source, target, outward=False)
        pump.watch = partial(watch, found)
        for word in (b"one", b"end"):
            os.write(typed, word)
            turn(pump)
            turn(pump)
        assert (found, os.read(shown, 99)) == ([b"one", b"end"], b"ONEEND")
        assert pump.left
        assert pump.held
