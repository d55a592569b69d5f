"""What a guardian has of its container's stdio, or may come to have: a terminal's master, or its ends of pipes.

run, stdio of the caller's own   nothing: nobody can attach, and there is no log
run, terminal                    the master, once its client gives it up
start                            the master or pipes, from the beginning; all output goes to the log too, unless its driver is none
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dkrd.shim.relay import Relay
from dkrd.shim.terminal import Terminal

if TYPE_CHECKING:
    from dkrd.loop import Loop
    from dkrd.shim.log_queue import LogQueue
    from dkrd.shim.pipes import Pipe

_STREAMS = {1: "stdout", 2: "stderr"}


class Outlets:
    """The relays of one container: one for a terminal, one for each output pipe, or none.

    terminal  where there is one
    typed     whether something that a client sends is the command's input
    """

    def __init__(self, terminal: Terminal | None, relays: tuple[Relay, ...], typed: bool) -> None:
        self.terminal = terminal
        self.relays = relays
        self.typed = typed

    def begin(self) -> None:
        """Read all that the command writes, from now on."""
        for relay in self.relays:
            relay.begin()


def of_terminal(loop: Loop, master: int, typed: bool, log: LogQueue | None = None) -> Outlets:
    """The outlets of a container with this master (-1: it has none), which may be its client's still."""
    if master < 0:
        return Outlets(None, (), typed=False)
    terminal = Terminal(master)
    relay = Relay(loop, terminal)
    _log(loop, log, {1: relay})
    return Outlets(terminal, (relay,), typed)


def of_pipes(loop: Loop, pipes: dict[int, Pipe], log: LogQueue | None) -> Outlets:
    """The outlets of a container with these pipes, by the number of the output."""
    relays = {number: Relay(loop, pipe) for number, pipe in sorted(pipes.items())}
    if log is not None and log.blocking:
        for pipe in pipes.values():
            pipe.chunk //= 2  # all of it is kept, as lines, however short they are
    _log(loop, log, relays)
    return Outlets(None, tuple(relays.values()), typed=any(pipe.writing >= 0 for pipe in pipes.values()))


def _log(loop: Loop, log: LogQueue | None, relays: dict[int, Relay]) -> None:
    """Keep what the relays, by the number of their output, read; they wait for a log that is full."""
    if log is None:
        return
    log.begin(loop)
    for number, relay in relays.items():
        relay.on_data = partial(log.put, _STREAMS[number])
        relay.on_end = partial(log.end, _STREAMS[number])
        relay.waits = lambda: log.full

    def go_on() -> None:
        for relay in relays.values():
            relay.go_on()

    log.on_room = go_on
