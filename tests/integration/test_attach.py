"""Attaching to a container that runs: what is written comes to everybody, what is typed arrives, nothing is lost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import select
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import host
from tests.sessions import ECHO, GUARD_SECONDS, Client, Refused, until_held_up

if TYPE_CHECKING:
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root


@pytest.fixture(params=["root", "tenant"])
def user(request: pytest.FixtureRequest) -> User | None:
    """Who starts and attaches: both for each other's sake."""
    return None if request.param == "root" else request.getfixturevalue("tenant")


def test_the_holder_yields_and_both_go_on(daemon: Daemon, user: User | None) -> None:
    with Client(daemon, user).run("/bin/sh", "-c", ECHO, name="shared", rm=True) as holder:
        holder.until("up\r\n")
        holder.type("one\r")
        holder.until("got one\r\n")
        with Client(daemon, user).attach("shared", holder=holder) as guest:
            assert guest.id == holder.id
            for typing, other in ((holder, guest), (guest, holder)):
                typing.type("two\r")
                typing.until("got two\r\n")
                other.until("got two\r\n")
            guest.type("end 7\r")
            expected = {"code": 7, "signal": None, "cause": "exited"}
            assert (guest.exit(), holder.exit()) == (expected, expected)
            assert (guest.read_to_end(), holder.read_to_end()) == (b"", b"")


def pump(clients: list[Client], typing: Client, rest: bytes, over: bytes) -> None:
    """Type the rest and have every client read until it has been shown `over`: one that did not read would hold up all."""
    while rest or not all(client.shown.endswith(over) for client in clients):
        poll = select.poll()
        for client in clients:
            wanted = select.POLLOUT if client is typing and rest else 0
            poll.register(client.terminal, select.POLLIN | wanted)
        ready = poll.poll(GUARD_SECONDS * 1000)
        assert ready, [client.shown[-100:] for client in clients]
        for fd, events in ready:
            client = next(client for client in clients if client.terminal == fd)
            if events & select.POLLIN:
                client.read_once()
            if events & select.POLLOUT:
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(fd, rest) :]


def test_nothing_is_lost_or_doubled_at_the_hand_over(daemon: Daemon) -> None:
    """Of a flood that goes on meanwhile, and of what is typed on both sides of it."""
    typed = random.Random(1).randbytes(200_000)
    line = b"%b  -\n" % hashlib.sha256(typed).hexdigest().encode()
    text = "".join(f"{number}\n" for number in range(1, 500_000))[:3_000_000].encode()
    script = "stty raw -echo; echo up; head -c 200000 <&0 | sha256sum & seq 1 500000 | head -c 3000000; wait; echo; echo over"
    with Client(daemon).run("/bin/bash", "-c", script, rm=True) as holder:
        holder.until("up\n")
        holder.type(typed[:77_777])
        while len(holder.shown) < len(text) // 3:
            holder.wait()
        with Client(daemon).ask_to_attach(holder.id) as guest:
            holder.relay()
            at = len(holder.shown)
            assert at < len(text) // 2
            guest.attached()
            pump([holder, guest], holder, typed[77_777:], b"over\n")
            assert holder.exit()["code"] == guest.exit()["code"] == 0
        assert holder.shown.count(line) == 1  # as soon as all was typed: somewhere in the flood
        assert holder.shown.replace(line, b"", 1) == text + b"\nover\n"
        assert holder.shown.endswith(guest.shown)
        assert len(guest.shown) == len(holder.shown) - at


def test_a_lone_client_that_is_slow_loses_nothing(daemon: Daemon) -> None:
    """It holds the command up, as its terminal would."""
    script = "stty raw -echo; echo up; read word; exec seq 300000"
    with Client(daemon).run("/bin/bash", "-c", script, rm=True) as client:
        client.until("up\n")
        with Client(daemon).attach(client.id, holder=client) as guest:
            guest.detach()
        client.type("go\n")
        until_held_up(client.pid)
        assert client.read_to_end() == "".join(f"{number}\n" for number in range(1, 300_001)).encode()
        assert client.exit()["code"] == 0


def test_one_of_several_that_reads_nothing_is_dropped_and_the_others_go_on(daemon: Daemon) -> None:
    script = "stty raw -echo; echo up; read word; exec seq 500000"
    text = "".join(f"{number}\n" for number in range(1, 500_001)).encode()
    with Client(daemon).run("/bin/bash", "-c", script, rm=True) as holder:
        holder.until("up\n")
        with (
            Client(daemon).attach(holder.id, holder=holder) as deaf,
            Client(daemon).attach(holder.id) as guest,
        ):
            guest.type("go\n")
            pump([holder, guest], guest, b"", b"\n500000\n")
            assert (holder.exit()["code"], guest.exit()["code"]) == (0, 0)
            assert (holder.shown, guest.shown) == (text, text)
            with pytest.raises(Refused) as dropped:
                deaf.wait_for("exited")
            assert dropped.value.why == ("limit-reached", None)
            assert deaf.frame() is None
            # What it was sent before is still its own, from the first byte on, without a gap.
            assert deaf.terminal >= 0
            shown = deaf.read_to_end()
            assert text.startswith(shown)
            assert 0 < len(shown) < len(text)


def written(pid: int) -> int:
    """Bytes that this process has written, by calls that have returned."""
    return int(re.search(r"wchar: (\d+)", Path(f"/proc/{pid}/io").read_text())[1])  # type: ignore[index]


def test_the_last_output_reaches_one_that_does_not_read_until_after_the_end(daemon: Daemon) -> None:
    """All buffers are full; the container is gone, and so is its guardian, before the first byte is read."""
    script = "stty raw -echo; echo up; read word; exec seq 1000000"
    with Client(daemon).run("/bin/bash", "-c", script, rm=True) as client:
        client.until("up\n")
        with Client(daemon).attach(client.id, holder=client) as guest:
            guest.detach()
        before = written(client.pid)
        client.type("go\n")
        until_held_up(client.pid)
        size = written(client.pid) - before
        client.send({"type": "signal", "signal": 9})
        assert host.wait_gone(client.pid, GUARD_SECONDS)
        for process in daemon.processes():
            if process.comm == "dkr-shim":
                assert host.wait_gone(process.pid, GUARD_SECONDS)
        assert not (daemon.run_dir / "containers" / client.id).exists()
        shown = client.read_to_end()
        assert len(shown) >= size > 100_000
        assert "".join(f"{number}\n" for number in range(1, 200_000)).encode().startswith(shown)
        assert client.exit()["signal"] == 9
