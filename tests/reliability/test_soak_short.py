"""Thousands of starts with apis dying all the while: every answer is right, nothing is left, nothing grows. `make soak`."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests import host
from tests.reliability.support import (
    RawClient,
    assert_same,
    count,
    eventually,
    listed,
    null_stdio,
    pss,
    settle,
    start_raw,
)

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = [pytest.mark.root, pytest.mark.soak, pytest.mark.timeout(1800)]

STARTS = 600
WORKERS = 6
GROWTH = 2 * 1024 * 1024  # bytes; less than one byte in a thousand a start would be more than this


class _Load:
    """Workers that start short runs one after the other; counts what came of them."""

    def __init__(self, daemon: Daemon, starts: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._daemon = daemon
        self._left = list(range(starts))
        self._threads = [threading.Thread(target=self._work) for _ in range(WORKERS)]

    @property
    def done(self) -> int:
        """How many have an outcome."""
        return self.outcomes.total()

    def start(self) -> None:
        """Begins."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Waits until all have an outcome."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        with null_stdio() as stdio:
            while self._left:
                try:
                    number = self._left.pop()
                except IndexError:
                    return
                self.outcomes[self._one(number, stdio)] += 1

    def _one(self, number: int, stdio: tuple[int, int, int]) -> str:
        code = number % 256
        try:
            with start_raw(self._daemon, stdio, args=["/bin/sh", "-c", f"exit {code}"], rm=True) as client:
                last = None
                while frame := client.frame():
                    last = frame
        except ConnectionRefusedError:
            return "refused"
        except (AssertionError, ConnectionError):
            return "cut off"
        right = {"type": "exited", "exit": {"code": code, "signal": None, "cause": "exited"}}
        return "right" if last == right else f"wrong: {last}"


def _run(daemon: Daemon, starts: int) -> Counter[str]:
    load = _Load(daemon, starts)
    load.start()
    load.join()
    return load.outcomes


def test_thousands_of_starts_leave_nothing_and_nothing_grows(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(log_level="warning")
    # Caches fill and arenas grow to their working size first.
    assert _run(daemon, 500) == {"right": 500}
    before = count(daemon)
    processes = {"launcher": daemon.pid, "api": daemon.child("dkr-api").pid}
    memory = {name: pss(pid) for name, pid in processes.items()}
    assert _run(daemon, STARTS) == {"right": STARTS}
    assert_same(daemon, before)
    grown = {name: pss(pid) - memory[name] for name, pid in processes.items()}
    assert max(grown.values()) < GROWTH, grown


def test_apis_die_at_random_while_thousands_start(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(log_level="warning")
    assert _run(daemon, 100) == {"right": 100}
    before = count(daemon)
    launcher = pss(daemon.pid)
    load = _Load(daemon, STARTS)
    load.start()
    chance = random.Random(4)
    kills = 0
    while load.done < STARTS - 100:
        goal = load.done + chance.randrange(20, 200)
        eventually(lambda goal=goal: load.done >= min(goal, STARTS), "starts go on", 120.0)  # type: ignore[misc]
        for process in host.children(daemon.pid):
            if process.comm == "dkr-api":
                host.kill(process)
                kills += 1
    load.join()
    assert load.done == STARTS
    assert kills > 5
    # A request that an api had accepted goes down with it, one for each worker at most.
    assert set(load.outcomes) <= {"right", "cut off"}, load.outcomes
    assert load.outcomes["cut off"] <= kills * WORKERS
    assert_same(daemon, before)
    assert pss(daemon.pid) - launcher < GROWTH


def test_clients_die_at_random_a_thousand_times(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(log_level="warning")
    assert _run(daemon, 100) == {"right": 100}
    before = count(daemon)
    chance = random.Random(5)
    request = {"args": ["/bin/sleep", "600"], "rm": True}
    with null_stdio() as stdio:
        for _ in range(200):
            with RawClient(daemon) as client:
                client.post(request)
                if chance.random() < 0.2:
                    continue
                assert client.head() == 101
                client.record()
                if chance.random() < 0.2:
                    continue
                client.first(request, stdio)
                assert client.session is not None
                client.session.settimeout(chance.uniform(0.0001, 0.05))
                try:
                    client.frame()
                except TimeoutError:
                    continue
    assert_same(daemon, before)


def test_shims_die_at_random_a_few_hundred_times(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(log_level="error")
    assert _run(daemon, 100) == {"right": 100}
    before = count(daemon)
    load = _Load(daemon, 300)
    load.start()
    chance = random.Random(6)
    while load.done < 300:
        seen = load.done
        eventually(lambda seen=seen: load.done > seen or load.done >= 300, "starts go on", 60.0)  # type: ignore[misc]
        for process in host.children(daemon.pid):
            if process.comm == "dkr-shim" and chance.random() < 0.1:
                host.kill(process)
    load.join()
    assert set(load.outcomes) <= {"right", "cut off", "wrong: None"} | {
        outcome for outcome in load.outcomes if outcome.startswith("wrong: {'type': 'started'")
    }, load.outcomes
    eventually(lambda: not listed(daemon), "all is over", 60.0)
    settle(daemon)
    assert_same(daemon, before)
