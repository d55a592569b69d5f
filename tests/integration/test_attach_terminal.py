"""What attached clients see and type, how large their window is, and what follows from their going."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.integration.conftest import request
from tests.sessions import ECHO, GUARD_SECONDS, Client, Refused, echoing, gone, says, until_held_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root

# Says how large its window is when that is another, repeats each line of its input, ends by `end`. No shell: a trap that is due in the
# moment before the shell reads again waits for the next line.
SIZES = (
    "/usr/bin/python3",
    "-ISc",
    """
import os, signal, termios, threading
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
if os.isatty(0):
    mode = termios.tcgetattr(0)
    mode[3] &= ~termios.ECHO
    termios.tcsetattr(0, termios.TCSANOW, mode)
def listen():
    for line in open(0):
        if line == "end\\n":
            os._exit(0)
        os.write(1, b"got " + line.encode())
threading.Thread(target=listen).start()
os.write(1, b"up\\n")
while signal.sigwait([signal.SIGWINCH]):
    os.write(1, b"%d %d\\n" % os.get_terminal_size(1)[::-1])
""",
)


@pytest.fixture
def holder(daemon: Daemon) -> Iterator[Client]:
    """Root's client that has started ECHO and holds its terminal."""
    yield from echoing(daemon)


# --- what is seen and typed


def test_the_smallest_window_counts(daemon: Daemon) -> None:
    with Client(daemon).run(*SIZES, rm=True, rows=40, columns=100) as holder:
        holder.until("up\r\n")
        with Client(daemon).attach(holder.id, holder=holder, height=30, width=120) as guest:
            guest.until("30 100\r\n")
            guest.resize(50, 90)
            guest.until("40 90\r\n")
            holder.resize(20, 80)
            holder.until("20 80\r\n")
            with Client(daemon).attach(holder.id) as third:  # knows no size of its own
                third.resize(10, 200)
                third.until("10 80\r\n")
                third.resize(0, 0)
                third.until("20 80\r\n")
                third.detach()
            holder.detach()
            guest.until("50 90\r\n")
            guest.type("end\r")
            assert guest.exit()["code"] == 0
    gone(daemon)


@pytest.mark.parametrize("size", [(40, 100), (0, 0)])
def test_who_comes_has_all_drawn_anew(daemon: Daemon, size: tuple[int, int]) -> None:
    """An application draws when its window has another size: where it has not, it has for a moment, which it may be too late to see."""
    with Client(daemon).run(*SIZES, rm=True, rows=40, columns=100) as holder:
        holder.until("up\r\n")
        with Client(daemon).attach(holder.id, holder=holder, height=size[0], width=size[1]) as guest:
            guest.until("^(39 100\r\n)?40 100\r\n")
            guest.type("end\r")
            assert guest.exit()["code"] == 0
    gone(daemon)


def test_who_only_looks_types_nothing(daemon: Daemon, holder: Client) -> None:
    with Client(daemon).attach(holder.id, holder=holder, stdin=False) as guest:
        guest.type("ignored\r" * 50_000)  # nor does it ever wait for a command that reads nothing
        says(holder, "heard", guest)
        assert b"ignored" not in holder.shown + guest.shown


def test_a_terminal_for_output_only_is_looked_at(daemon: Daemon) -> None:
    """What is typed there goes nowhere: the command's input is its caller's own."""
    read, write = os.pipe()
    with Client(daemon).run(*SIZES, rm=True, stdin=read, rows=40, columns=100) as holder:
        os.close(read)
        holder.until("up\n")
        with Client(daemon).attach(holder.id, holder=holder, height=30, width=90) as guest:
            guest.until("30 90\n")
            guest.type("typed\r" * 50_000)
            os.write(write, b"given\n")
            for client in (guest, holder):
                client.until("got given\n")
                assert b"typed" not in client.shown
            with Client(daemon).attach(holder.id) as third:
                third.until("^(29 90\n)?30 90\n")
            os.write(write, b"end\n")
            assert guest.exit()["code"] == 0
    os.close(write)
    gone(daemon)


def test_what_was_typed_before_leaving_arrives(daemon: Daemon) -> None:
    """In its turn, though the command reads it much later, and though one of the clients was killed."""
    script = "stty raw -echo; echo up; until [ -e /tmp/go ]; do sleep 0.01; done; exec head -c 100000"
    with Client(daemon).run("/bin/sh", "-c", script, rm=True) as holder:
        holder.until("up\n")
        with Client(daemon).attach(holder.id, holder=holder) as guest:
            guest.type("x" * 20_000)
            guest.detach()
        with Client(daemon).attach(holder.id) as guest:
            guest.type("y" * 20_000)
            guest.close()
        holder.type("z" * 60_000)
        with open(f"/proc/{holder.pid}/root/tmp/go", "x"):
            pass
        assert holder.exit()["code"] == 0
        assert holder.read_to_end() == b"x" * 20_000 + b"y" * 20_000 + b"z" * 60_000
    gone(daemon)


def test_a_terminal_that_nobody_has_open_for_a_while(daemon: Daemon) -> None:
    script = "stty -echo; echo up; read word; exec </dev/null >/dev/null 2>&1; until [ -e /tmp/on ]; do sleep 0.01; done; "
    script += "exec </dev/pts/0 >/dev/pts/0; echo again; read word; echo got $word; read word"
    with Client(daemon).run("/bin/sh", "-c", script, rm=True) as holder:
        holder.until("up\r\n")
        with Client(daemon).attach(holder.id, holder=holder) as guest:
            guest.type("go\r")
            while any("/pts/0" in name for name in host.descriptors(holder.pid)):
                os.sched_yield()
            guest.type("early\r")
            with open(f"/proc/{holder.pid}/root/tmp/on", "x"):
                pass
            for client in (guest, holder):
                client.until("again\r\n")
                client.until("got early\r\n")
            guest.type("end\r")
            assert guest.exit()["code"] == 0
    gone(daemon)


def switches(pid: int) -> list[str]:
    """How often the process has gone to sleep, or was made to; proc(5)."""
    return [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "ctxt_switches" in line]


def test_a_guardian_with_nothing_to_do_sleeps(daemon: Daemon) -> None:
    """Whatever state its terminal and its clients are in: a descriptor that is always ready would keep it awake."""
    script = "stty -echo; echo up; read word; exec </dev/null >/dev/null 2>&1; exec sleep 600"
    with Client(daemon).run("/bin/sh", "-c", script, rm=True) as holder, Client(daemon) as guest:
        holder.until("up\r\n")
        [shim] = [process.pid for process in daemon.processes() if process.comm == "dkr-shim"]

        def sleeps() -> bool:
            before = switches(shim)
            select.select([], [], [], 0.1)  # nothing is to happen, and that is no event
            return switches(shim) == before

        def settles(what: str) -> None:
            assert any(sleeps() for _ in range(50)), f"it is awake: {what}"

        settles("held")
        guest.attach(holder.id, holder=holder)
        settles("relayed")
        holder.type("go\r")
        while any("/pts/0" in name for name in host.descriptors(holder.pid)):
            os.sched_yield()
        settles("nobody has the terminal open")
        holder.type("typed\r")
        settles("typed, and nobody reads it")
        guest.let_go()
        settles("a client has closed its stream")
        with socket.socket(fileno=os.dup(holder.terminal)) as stream:
            stream.shutdown(socket.SHUT_WR)
        settles("another has half of it closed")
        guest.close()
        settles("it has gone")
    gone(daemon)


# --- going


WISHES = ("keep", "stop", "kill")


@pytest.mark.parametrize("wish", WISHES)
def test_the_wish_of_the_last_one_that_vanishes(daemon: Daemon, wish: str) -> None:
    with Client(daemon).run("/bin/sh", "-c", ECHO, name="left", onDisconnect="kill") as holder:
        holder.until("up\r\n")
        with Client(daemon).attach("left", holder=holder, onDisconnect=wish) as guest:
            holder.close()  # not the last one
            says(guest, "on")
            guest.close()
        if wish == "keep":
            with Client(daemon).attach("left") as again:
                says(again, "alive")
                again.type("end 0\r")
                again.exit()
        assert host.wait_gone(holder.pid, GUARD_SECONDS)
    gone(daemon)
    ended = request(daemon, "GET", "/v1/containers/left")
    while ended["status"] != "stopped":
        ended = request(daemon, "GET", "/v1/containers/left")
    assert (
        ended["exit"]
        == {
            "keep": {"code": 0, "signal": None, "cause": "exited"},
            "stop": {"code": None, "signal": 15, "cause": "client-gone"},
            "kill": {"code": None, "signal": 9, "cause": "client-gone"},
        }[wish]
    )
    request(daemon, "DELETE", "/v1/containers/left")


@pytest.mark.parametrize("wish", WISHES)
def test_who_detaches_wishes_nothing(daemon: Daemon, wish: str) -> None:
    with Client(daemon).run("/bin/sh", "-c", ECHO, rm=True, onDisconnect=wish) as holder:
        holder.until("up\r\n")
        with Client(daemon).attach(holder.id, holder=holder, onDisconnect=wish) as guest:
            holder.close()  # vanishes, but is not the last one
            says(guest, "on")
            guest.detach()
        # Nobody reads, and the command is not held up.
        with Client(daemon).attach(holder.id) as again:
            says(again, "alive")
            again.type("end 0\r")
            assert again.exit() == {"code": 0, "signal": None, "cause": "exited"}
    gone(daemon)


def test_output_that_nobody_looks_at_holds_nothing_up(daemon: Daemon) -> None:
    script = "stty -echo; echo up; read word; seq 200000; read word; exit $word"
    with Client(daemon).run("/bin/sh", "-c", script, rm=True, onDisconnect="keep") as holder:
        holder.until("up\r\n")
        with Client(daemon).attach(holder.id, holder=holder) as guest:
            holder.detach()
            guest.type("go\r")
            command = eventual_child(holder.pid)
            until_held_up(command)
            guest.detach()
            assert host.wait_gone(command, GUARD_SECONDS)
        with Client(daemon).attach(holder.id) as again:
            again.type("5\r")
            assert again.exit()["code"] == 5
    gone(daemon)


def eventual_child(pid: int) -> int:
    """The one child of that process, once it has been executed."""
    while True:
        for child in host.children(pid):
            if child.comm == "seq":
                return child.pid


def test_signals_come_from_everyone(daemon: Daemon, tenant: User) -> None:
    with (
        Client(daemon, tenant).run("/bin/sleep", "600", rm=True) as holder,
        Client(daemon, tenant).attach(holder.id, holder=holder) as guest,
    ):
        guest.send({"type": "signal", "signal": 15})
        assert guest.exit() == {"code": None, "signal": 15, "cause": "signalled"}
    gone(daemon)


@pytest.mark.parametrize(
    "frame", [{"type": "dance"}, {"type": "resize", "height": "1", "width": 1}, {"type": "relay"}]
)
def test_a_guest_that_breaks_the_protocol_is_gone_and_nobody_else(
    daemon: Daemon, holder: Client, frame: Any
) -> None:
    with Client(daemon).attach(holder.id, holder=holder, onDisconnect="kill") as guest:
        guest.send(frame)
        with pytest.raises(Refused) as refused:
            guest.exit()
        assert refused.value.error["code"] == "protocol"
        says(holder, "on")
