"""SIGKILL of whatever there is while somebody works at a terminal: held by its client, or relayed by its guardian."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.integration.conftest import Caller
from tests.integration.terminals import Terminal
from tests.reliability.support import (
    GUARD_SECONDS,
    ask,
    eventually,
    inits,
    kill_and_wait,
    listed,
    running,
    settle,
    the_shim,
)
from tests.sessions import ECHO, Client, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

LINES = 1000
KILLS = 3
LEAVE = "\x10\x11"  # ctrl-P ctrl-Q
KILL_LINE = "\x15"  # ctrl-U: the line that is being typed begins anew


def _kill_api(daemon: Daemon) -> None:
    kill_and_wait(daemon.child("dkr-api"))
    eventually(lambda: _serves(daemon), "the next api serves")


def _serves(daemon: Daemon) -> bool:
    try:
        return ask(daemon, "GET", "/v1/version")[0] == 200
    except ConnectionError:
        return False


def _kill_launcher(daemon: Daemon) -> None:
    daemon.kill()
    daemon.start()


def _kill_both(daemon: Daemon) -> None:
    kill_and_wait(daemon.child("dkr-api"))
    _kill_launcher(daemon)


KILLING = {"api": _kill_api, "launcher": _kill_launcher, "both": _kill_both}


def attach(terminal: Terminal, *args: str) -> None:
    """`dkrctl attach ARGS...`, up to where what is typed is the command's."""
    terminal.attach(*args)
    terminal.until_raw()


class Trouble(threading.Thread):
    """Kills at random moments, in the background."""

    def __init__(self, daemon_: Daemon, kill: Callable[[Daemon], None], seed: int) -> None:
        super().__init__()
        self._daemon_ = daemon_
        self._kill = kill
        self._chance = random.Random(seed)
        self._never = threading.Event()
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            for _ in range(KILLS):
                self._never.wait(self._chance.uniform(0.0, 0.2))
                self._kill(self._daemon_)
        except BaseException as err:
            self.failed = err


def expect(terminals: list[Terminal], line: str) -> None:
    """Everybody is shown this line next, once, and nothing else."""
    for terminal in terminals:
        while not terminal.shown.endswith(b"\n"):
            assert terminal.read(), terminal.shown
        assert terminal.shown == line.encode() + b"\r\n"
        terminal.shown = b""


def work(terminals: list[Terminal], trouble: Trouble) -> None:
    """Types a thousand lines in turns, and more until the trouble is over: each is answered once, in order, to everybody."""
    number = 0
    trouble.start()
    while number < LINES or trouble.is_alive():
        terminals[number % len(terminals)].type(f"{number}\r")
        expect(terminals, f"got {number}")
        number += 1
    trouble.join()
    assert trouble.failed is None


@pytest.mark.parametrize("kill", KILLING)
def test_who_holds_the_terminal_notices_nothing(make_daemon: MakeDaemon, kill: str) -> None:
    daemon = make_daemon()
    caller = Caller(daemon, None)
    with Terminal(caller) as terminal, Terminal(caller) as other:
        terminal.run("--name", "work", "/bin/sh", "-c", ECHO)
        expect([terminal], "up")
        work([terminal], Trouble(daemon, KILLING[kill], 1))
        # The next daemon finds it: another client joins.
        attach(other, "work")
        other.type("joined\r")
        expect([terminal, other], "got joined")
        other.type("end 7\r")
        assert (terminal.status(), other.status()) == (7, 7)
    settle(daemon)


@pytest.mark.parametrize("kill", KILLING)
def test_who_is_attached_notices_nothing(make_daemon: MakeDaemon, kill: str) -> None:
    daemon = make_daemon()
    caller = Caller(daemon, None)
    with Terminal(caller) as first, Terminal(caller) as second, Terminal(caller) as third:
        first.run("--name", "work", "/bin/sh", "-c", ECHO)
        expect([first], "up")
        attach(second, "work")
        second.type("both\r")
        expect([first, second], "got both")
        work([first, second], Trouble(daemon, KILLING[kill], 2))
        attach(third, "work")
        third.type("joined\r")
        expect([first, second, third], "got joined")
        second.type(LEAVE)
        assert second.status() == 0
        third.type(KILL_LINE + "end 7\r")  # the first of the keys that leave has gone on
        assert (first.status(), third.status()) == (7, 7)
    settle(daemon)


def test_a_guardian_that_relays_is_killed(daemon: Daemon) -> None:
    """The terminal hangs up, the clients are told, and the command, where it does not mind, runs on."""
    settle(daemon)
    script = "trap 'echo hung up >/tmp/told' HUP; echo up; while :; do sleep 600 & wait; done"
    caller = Caller(daemon, None)
    with Terminal(caller) as first, Terminal(caller) as second:
        first.run("--name", "lost", "/bin/sh", "-c", script)
        expect([first], "up")
        attach(second, "lost")
        (init,) = inits(daemon)
        kill_and_wait(the_shim(daemon))
        for terminal in (first, second):
            assert terminal.status() == 125
            assert b"lost the container's guardian" in terminal.shown
        told = f"/proc/{init.pid}/root/tmp/told"
        eventually(lambda: _read(told) == "hung up\n", "the command is told that its terminal hung up")
        assert [container["name"] for container in running(daemon)] == ["lost"]
        assert refusal(daemon, "lost").why == ("conflict", "unguarded")
        host.kill(init)
    settle(daemon)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def test_a_guardian_is_killed_while_a_client_holds_the_terminal(daemon: Daemon) -> None:
    """Nobody can join then, and who holds it is not told to yield to nobody."""
    with Client(daemon).run("/bin/sh", "-c", ECHO, name="lost") as holder:
        holder.until("up\r\n")
        kill_and_wait(the_shim(daemon))
        assert holder.frame() is None
        holder.type("on\r")
        holder.until("got on\r\n")
        assert refusal(daemon, "lost").why == ("conflict", "unguarded")
        holder.type("end 3\r")
        holder.read_to_end()
    assert _ended(daemon, "lost") == {"code": 3, "signal": None, "cause": "exited"}
    settle(daemon)


def _ended(daemon: Daemon, name: str) -> dict[str, Any]:
    """How a kept container ended; then it is removed."""
    found: dict[str, Any] = {}

    def stopped() -> bool:
        found.update(ask(daemon, "GET", f"/v1/containers/{name}")[1])
        return bool(found["status"] == "stopped")

    eventually(stopped, f"{name} stops")
    assert ask(daemon, "DELETE", f"/v1/containers/{name}")[0] == 204
    exit_: dict[str, Any] = found["exit"]
    return exit_


ENDS = {
    "keep": {"code": 0, "signal": None, "cause": "exited"},
    "stop": {"code": None, "signal": 15, "cause": "client-gone"},
    "kill": {"code": None, "signal": 9, "cause": "client-gone"},
}


@pytest.mark.parametrize("wish", ENDS)
@pytest.mark.parametrize("first_goes", [True, False])
def test_clients_are_killed_one_after_the_other(daemon: Daemon, wish: str, first_goes: bool) -> None:
    """The wish of the last one counts, whether that is the one that started the container or one that attached."""
    wishes = {True: ("kill" if wish == "keep" else "keep", wish), False: (wish, "kill")}[first_goes]
    caller = Caller(daemon, None)
    with Terminal(caller) as one, Terminal(caller) as other:
        one.client = daemon.popen(
            "run", "--name", "left", "--on-disconnect", wishes[0], "/bin/sh", "-c", ECHO, **one.here()
        )
        expect([one], "up")
        attach(other, "--on-disconnect", wishes[1], "left")
        other.type("both\r")
        expect([one, other], "got both")
        (init,) = inits(daemon)
        gone, last = (one, other) if first_goes else (other, one)
        _kill(gone)
        last.type("alive\r")
        expect([last], "got alive")
        _kill(last)
        if wish == "keep":
            with Terminal(caller) as again:
                attach(again, "left")
                again.type("back\r")
                expect([again], "got back")
                again.type("end 0\r")
                assert again.status() == 0
        assert host.wait_gone(init.pid, GUARD_SECONDS)
    assert _ended(daemon, "left") == ENDS[wish]
    settle(daemon)


def _kill(terminal: Terminal) -> None:
    assert terminal.client is not None
    terminal.client.send_signal(signal.SIGKILL)
    terminal.client.wait()


def test_clients_killed_at_any_moment_leave_nothing_behind(daemon: Daemon) -> None:
    chance, null = random.Random(3), subprocess.DEVNULL
    with Client(daemon).run("/bin/sh", "-c", ECHO, rm=True) as holder:
        holder.until("up\r\n")
        with Client(daemon).attach(holder.id, holder=holder):
            pass
        before = len(host.descriptors(the_shim(daemon).pid))
        for number in range(30):
            client = daemon.popen("attach", holder.id, stdin=null, stdout=null, stderr=null)
            assert not host.wait_gone(client.pid, chance.uniform(0.0, 0.03))
            client.kill()
            client.wait()
            holder.type(f"{number}\r")
            holder.until(f"got {number}\r\n")
        eventually(lambda: len(host.descriptors(the_shim(daemon).pid)) <= before, "the guardian lets go")
        holder.type("end 0\r")
        assert holder.exit()["code"] == 0
    settle(daemon)
    assert not listed(daemon)
