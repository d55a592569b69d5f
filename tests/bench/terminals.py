"""The terminal: a container's pty, held by who asked for it, beside a pty without a container; and the same through `dkrctl`.

Everything on one processor: a round trip between two is the scheduler's whim.
"""

from __future__ import annotations

import os
import pty
import subprocess
import time
import tty
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from dkrctl.http import ask_run
from dkrctl.session import Session
from tests.bench.contenders import BUSYBOX
from tests.bench.report import Result, Target, median

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.daemon import Daemon

    Opener = Callable[[tuple[str, ...]], AbstractContextManager[int]]

PTY_BOUND = 0.95  # of a bare pty's
TRIPS = 50  # in a turn of one terminal, then the next has its turn
TURNS = 40  # of a round
BURST = 2 << 20  # bytes, a turn
LINE = b"a line that somebody types\n"
END = b"\0"  # what a command writes when its terminal is as it should be


def _script(command: str) -> tuple[str, ...]:
    """The command on one processor, its terminal raw, after it has said that it is."""
    mask = f"{1 << min(os.sched_getaffinity(0)):x}"
    ready = f"stty raw -echo; printf '\\0'; exec {command}"
    return (BUSYBOX, "taskset", mask, BUSYBOX, "sh", "-c", ready)


def _await_raw(master: int) -> int:
    """Read up to the command's word."""
    while not os.read(master, 1).endswith(END):
        pass
    return master


@contextmanager
def bare(command: tuple[str, ...]) -> Iterator[int]:
    """A pty of ours, the command on its other side."""
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    try:
        yield _await_raw(master)
    finally:
        os.close(master)
        process.kill()
        process.wait()


@contextmanager
def _held(daemon: Daemon, command: tuple[str, ...]) -> Iterator[int]:
    """The master of a container's pty, as a program has it that talks to dkrd itself."""
    request: dict[str, object] = {"args": list(command), "rm": True, "terminal": True, "onDisconnect": "kill"}
    _, descriptor = ask_run(str(daemon.socket), request)
    session = Session(descriptor)
    session.first(
        {
            "type": "start",
            "request": request,
            "asks": [],
            "stdio": [],
            "tty": [0, 1, 2],
            "root": [],
            "want": [],
        },
        [],
    )
    got = session.receive()
    if got is None or len(got[1]) != 1:
        raise RuntimeError(f"no terminal has come: {got}")
    master = got[1][0]
    try:
        yield _await_raw(master)
    finally:
        os.close(master)
        session.close()


@contextmanager
def _through_client(daemon: Daemon, command: tuple[str, ...]) -> Iterator[int]:
    """The caller's terminal with `dkrctl run` in it: two ptys, and the client copies from one to the other."""
    outer, slave = pty.openpty()
    tty.setraw(slave)
    words = ("run", "--rm", "--on-disconnect", "kill", *command)
    client = daemon.popen(*words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    try:
        yield _await_raw(outer)
    finally:
        client.kill()
        client.wait()
        os.close(outer)


def _round_trip(master: int) -> float:
    """Microseconds for a line to `cat` and back."""
    begun = time.perf_counter_ns()
    for _ in range(TRIPS):
        os.write(master, LINE)
        left = len(LINE)
        while left:
            left -= len(os.read(master, left))
    return (time.perf_counter_ns() - begun) / TRIPS / 1000


def _throughput(master: int) -> float:
    """MiB/s of what the command writes."""
    begun = time.perf_counter_ns()
    left = BURST
    while left > 0:
        left -= len(os.read(master, 65536))
    return BURST / 2**20 / ((time.perf_counter_ns() - begun) / 1e9)


def _in_turn(ways: dict[str, Opener], command: str, look: Callable[[int], float]) -> dict[str, list[float]]:
    """Look at each terminal, all open at once, TURNS times in turn: what else the machine does hits all alike."""
    with ExitStack() as stack:
        masters = {name: stack.enter_context(way(_script(command))) for name, way in ways.items()}
        samples: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, master in masters.items():
                samples[name].append(look(master))
    return samples


def _ratio(over: list[float], under: list[float]) -> float:
    """Each turn's own ratio, then the median."""
    return median([a / b for a, b in zip(over, under, strict=True)])


def pty_(daemon: Daemon, rounds: int) -> Result:
    """Round trip and throughput of a container's terminal, against a bare pty in the same turn."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    ways: dict[str, Opener] = {
        "bare": bare,
        "dkr": partial(_held, daemon),
        "dkrctl": partial(_through_client, daemon),
    }
    trips: dict[str, list[float]] = {name: [] for name in ways}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    try:
        for _ in range(rounds):
            for name, values in _in_turn(ways, f"{BUSYBOX} cat", _round_trip).items():
                trips[name] += values
            for name, values in _in_turn(ways, f"{BUSYBOX} cat /dev/zero", _throughput).items():
                rates[name] += values
    finally:
        os.sched_setaffinity(0, before)
    rows = [
        (
            name,
            f"{median(trips[name]):.1f}",
            f"{_ratio(trips['bare'], trips[name]):.2f}",
            f"{median(rates[name]):.0f}",
            f"{_ratio(rates[name], rates['bare']):.2f}",
        )
        for name in ways
    ]
    return Result(
        "pty",
        f"a terminal, all on one processor, {rounds} rounds of {TURNS} turns",
        ("", "round trip, us", "of bare", "MiB/s", "of bare"),
        rows,
        {"microseconds": trips, "mebibytes_per_second": rates},
        [
            Target(
                "pty round trip, a bare pty's time by ours",
                _ratio(trips["bare"], trips["dkr"]),
                PTY_BOUND,
                at_most=False,
            ),
            Target(
                "pty throughput, share of a bare pty's",
                _ratio(rates["dkr"], rates["bare"]),
                PTY_BOUND,
                at_most=False,
            ),
        ],
        [
            "bare: a pty and no container",
            "dkr: the master of the container's pty, as the client gets it",
            "dkrctl: a terminal with `dkrctl run` in it, which copies between two ptys",
        ],
    )
