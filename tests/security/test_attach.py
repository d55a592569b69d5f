"""Attaching: what a taken-over api, a stranger, or a client with ideas of its own cannot do to a container and its guardian."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import select
import signal
import socket
import struct
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from dkrd.launcher import asks
from tests import host
from tests.reliability.support import eventually, shims
from tests.security.callers import as_user
from tests.security.test_evidence import FORGERIES
from tests.sessions import ECHO, Client, Refused, echoing, gone, refusal, says

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.daemon import Daemon
    from tests.security.taken_over import TakenOver

pytestmark = pytest.mark.root

HONEST: dict[str, Any] = {"labels": {"evil": "honest"}, "rm": True}


@pytest.fixture
def holder(daemon: Daemon) -> Iterator[Client]:
    """Root's client that has started ECHO and holds its terminal."""
    yield from echoing(daemon)


@pytest.fixture
def victim(taken_over: TakenOver) -> Iterator[Client]:
    """Root's container in the hands of a daemon whose api was taken over."""
    with Client(taken_over.daemon).run("/bin/sh", "-c", ECHO, **HONEST) as client:
        client.until("up\r\n")
        yield client
        says(client, "unmoved")
    gone(taken_over.daemon)
    taken_over.assert_nothing()


def sent_to(
    evil: TakenOver,
    container: str,
    user: host.User | None = None,
    deed: str = "honest",
    wish: str = "attach",
) -> Client:
    """A client whose connection the api uses to ask for this container: up to the 101."""
    client = Client(evil.daemon, user)
    client.post("/v1/run", {"args": ["/bin/true"], "labels": {"evil": f"{wish} {deed} {container}"}})
    return client


def all_told(evil: TakenOver, key: str) -> list[Any]:
    """What the api has told; it serves one client after the other, and has told of one when it comes to the next."""
    with Client(evil.daemon) as after:
        after.post("/v1/run", {"args": ["/bin/true"], "labels": {"evil": "nothing"}})
    return evil.told(key)


def verdict(
    evil: TakenOver,
    container: str,
    user: host.User | None = None,
    deed: str = "honest",
    wish: str = "attach",
) -> tuple[str, str | None, str | None]:
    """What the launcher answers then: type, code and rule."""
    before = len(all_told(evil, "answer"))
    with sent_to(evil, container, user, deed, wish):
        [answer] = all_told(evil, "answer")[before:]
    error = answer.get("error", {})
    return answer["type"], error.get("code"), error.get("rule")


# --- evidence


def test_the_truth_attaches(taken_over: TakenOver, tenant: host.User) -> None:
    with Client(taken_over.daemon, tenant).run("/bin/sh", "-c", ECHO, **HONEST) as mine:
        mine.until("up\r\n")
        for user in (tenant, None):
            with sent_to(taken_over, mine.id, user) as guest:
                guest.hand_over()
                guest.send(guest.first_frame())
                if mine.master:
                    mine.relay()
                guest.attached()
                says(guest, "true", mine)
    gone(taken_over.daemon)


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_descriptor_of_roots_is_no_evidence(
    taken_over: TakenOver, victim: Client, forgery: str, tmp_path: Path
) -> None:
    make, rule = FORGERIES[forgery]
    with ExitStack() as stack:
        taken_over.put(make(stack, taken_over, tmp_path))
        assert verdict(taken_over, victim.id, deed="given") == ("refused", "not-permitted", rule)


@pytest.mark.parametrize(("deed", "rule"), [("listener", "evidence-listening"), ("own", "evidence-api")])
def test_what_the_api_has_itself_is_no_evidence(
    taken_over: TakenOver, victim: Client, deed: str, rule: str
) -> None:
    assert verdict(taken_over, victim.id, deed=deed) == ("refused", "not-permitted", rule)


def test_a_connection_whose_client_has_gone_is_no_evidence(taken_over: TakenOver, victim: Client) -> None:
    before = len(all_told(taken_over, "answer"))
    sent_to(taken_over, victim.id, deed="gone").close()
    [answer] = all_told(taken_over, "answer")[before:]
    assert answer["error"]["rule"] == "evidence-gone"


def test_a_tenants_connection_opens_nothing_of_others(
    taken_over: TakenOver, victim: Client, tenant: host.User
) -> None:
    """The launcher knows of no owners: it is the guardian that refuses."""
    assert verdict(taken_over, victim.id, tenant) == ("refused", "not-found", None)
    assert verdict(taken_over, "0" * 64, tenant) == ("refused", "not-found", None)


@pytest.mark.parametrize("word", ["../../../etc", "0" * 63, "G" * 64])
def test_what_is_no_id_becomes_no_path(taken_over: TakenOver, victim: Client, word: str) -> None:
    assert verdict(taken_over, word) == ("refused", "bad-request", None)


def test_a_client_is_not_sent_to_another_container_than_it_wants(
    taken_over: TakenOver, victim: Client
) -> None:
    """Both are its own: root's. It has asked for one, and the api leads it to the other."""
    with (
        Client(taken_over.daemon).run("/bin/sh", "-c", ECHO, **HONEST) as wanted,
        sent_to(taken_over, victim.id) as client,
    ):
        client.hand_over()
        client.send(client.first_frame(container=wanted.id))
        with pytest.raises(Refused) as refused:
            client.attached()
        assert refused.value.why == ("not-permitted", "other-container")


def test_the_api_sees_nothing_of_what_passes(taken_over: TakenOver, victim: Client) -> None:
    before = len(all_told(taken_over, "read"))
    with sent_to(taken_over, victim.id, deed="read") as guest:
        guest.hand_over()
        guest.send(guest.first_frame())
        victim.relay()
        guest.attached()
        says(guest, "secret", victim)
    assert all_told(taken_over, "read")[before:] == [""]
    assert taken_over.told("descriptors")[-1] == 0


# --- whose it is: the lesser of the two


def attached_by(daemon: Daemon, container: str, connects: Any, sends: Any) -> tuple[str, str | None]:
    """Why not, where one has made the connection and another sends the first frame."""
    with Client(daemon, connects) as client:
        try:
            client.post(f"/v1/containers/{container}/attach")
            client.hand_over()
            client.user = sends
            client.send(client.first_frame())
            client.attached()
        except Refused as err:
            return err.why
    return "attached", None


def test_the_lesser_of_connection_and_frame_counts(
    daemon: Daemon, holder: Client, tenant: host.User, other_tenant: host.User, admin: host.User
) -> None:
    nobody = ("not-found", None)
    with Client(daemon).attach(holder.id, holder=holder):
        assert attached_by(daemon, holder.id, None, None) == ("attached", None)
        assert attached_by(daemon, holder.id, admin, admin) == ("attached", None)
        assert attached_by(daemon, holder.id, None, tenant) == nobody
        assert attached_by(daemon, holder.id, admin, None) == nobody  # a setuid program steered here
        assert attached_by(daemon, holder.id, admin, tenant) == ("not-permitted", "two-callers")
    with Client(daemon, tenant).run("/bin/sh", "-c", ECHO, rm=True) as mine:
        mine.until("up\r\n")
        with Client(daemon, tenant).attach(mine.id, holder=mine):
            assert attached_by(daemon, mine.id, tenant, None) == ("attached", None)
            assert attached_by(daemon, mine.id, None, tenant) == ("attached", None)
            assert attached_by(daemon, mine.id, None, other_tenant) == nobody
            assert attached_by(daemon, mine.id, tenant, other_tenant) == ("not-permitted", "two-callers")


# --- shim.sock


@pytest.fixture
def shim_sock(daemon: Daemon, holder: Client) -> Iterator[str]:
    """A name of the holder's container's socket, whose path is too long for one; unix(7)."""
    place = os.open(daemon.run_dir / "containers" / holder.id, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{place}/shim.sock"
    finally:
        os.close(place)


def test_shim_sock_is_roots_alone(shim_sock: str, tenant: host.User, admin: host.User) -> None:
    directory, sock = os.stat(os.path.dirname(shim_sock)), os.stat(shim_sock)
    assert (sock.st_uid, sock.st_mode & 0o777) == (0, 0o600)
    assert (directory.st_uid, directory.st_mode & 0o777) == (0, 0o700)

    def connect() -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            try:
                sock.connect(shim_sock)
            except PermissionError:
                return "no"
        return "yes"

    api = pwd.getpwnam("dkr-api").pw_uid
    assert [as_user(user, connect) for user in (tenant, admin, api, 0)] == ["no", "no", "no", "yes"]


GARBAGE: list[tuple[bytes, int]] = [
    (b"no json", 0),
    (b"\xff" * 60_000, 3),
    (b'{"type": "ask"}', 1),
    (b'{"type": "ask", "version": 1, "listener": [0, 0], "ask": {"type": "attach"}}', 0),
    (b'{"type": "ask", "version": 1, "listener": [0, 0], "ask": {"type": "attach"}}', 1),
    (b'{"type": "ask", "version": 9, "listener": null, "ask": null}', 1),
]


def test_garbage_from_root_itself_harms_no_container(daemon: Daemon, holder: Client, shim_sock: str) -> None:
    with Client(daemon).attach(holder.id, holder=holder) as guest, open("/dev/null") as null:
        for data, descriptors in GARBAGE:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(shim_sock)
                socket.send_fds(sock, [data], [null.fileno()] * descriptors)
                says(guest, "on", holder)
        for _ in range(100):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(shim_sock)
        says(guest, "still", holder)


# --- clients with ideas of their own


def the_shim(daemon: Daemon) -> host.Process:
    """The one guardian."""
    [shim] = [process for process in daemon.processes() if process.comm == "dkr-shim"]
    return shim


def test_who_keeps_the_master_and_has_it_wait_stops_nobody(daemon: Daemon, holder: Client) -> None:
    """The description is shared: who held it can take O_NONBLOCK off behind the guardian's back."""
    kept = os.dup(holder.terminal)
    over = threading.Event()

    def block() -> None:
        flags = fcntl.fcntl(kept, fcntl.F_GETFL) & ~os.O_NONBLOCK
        while not over.is_set():
            fcntl.fcntl(kept, fcntl.F_SETFL, flags)

    with Client(daemon).ask_to_attach(holder.id) as guest:
        thread = threading.Thread(target=block)
        thread.start()
        try:
            holder.relay()
            guest.attached()
            waiting = ""
            while waiting != "wait_woken":  # n_tty_read() of drivers/tty/n_tty.c
                guest.type("one\r")
                with open(f"/proc/{the_shim(daemon).pid}/wchan") as wchan:
                    waiting = wchan.read()
            guest.send({"type": "signal", "signal": 9})
            assert guest.exit()["signal"] == 9
        finally:
            over.set()
            thread.join()
            os.close(kept)


def slow_to_close(way: socket.socket, word: bytes, shim: host.Process) -> None:
    """Send a TCP socket with unsent data and SO_LINGER whose last owner is then the receiver: closing it waits for an hour."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        slow = socket.create_connection(server.getsockname())
        server.accept()[0].detach()  # neither read nor closed: it takes no more
    slow.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            slow.send(b"y" * 65536)
    host.kill(shim, signal.SIGSTOP)  # or it might close the socket before we do, and we would wait
    try:
        socket.send_fds(way, [word], [slow.fileno()])
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    except PermissionError:
        way.send(word)  # from Linux 6.16 on the kernel does not even take it
    finally:
        slow.close()
        host.kill(shim, signal.SIGCONT)


@pytest.mark.parametrize("way", ["stream", "session"])
def test_a_descriptor_that_takes_long_to_close_holds_nobody_up(
    daemon: Daemon, holder: Client, way: str
) -> None:
    with Client(daemon).attach(holder.id, holder=holder) as guest, ExitStack() as stack:
        assert guest.session is not None
        if way == "session":
            slow_to_close(guest.session, b'{"type": "signal", "signal": 28}', the_shim(daemon))
        else:
            stream = stack.enter_context(socket.socket(fileno=os.dup(guest.terminal)))
            slow_to_close(stream, b"x\r", the_shim(daemon))
            guest.until("got x\r\n")
        says(guest, "on")


def test_what_is_kept_for_a_client_is_bounded(daemon: Daemon) -> None:
    script = "stty raw -echo; echo up; exec sleep 600"
    with Client(daemon).run("/bin/sh", "-c", script, rm=True) as holder:
        holder.until("up\n")
        with Client(daemon).attach(holder.id, holder=holder) as guest:
            taken, poll = 0, select.poll()
            poll.register(guest.terminal, select.POLLOUT)
            while taken < 64 << 20 and poll.poll(300):
                with contextlib.suppress(BlockingIOError):
                    taken += os.write(guest.terminal, b"x" * 65536)
            assert taken < 2 << 20  # the kernel's for the stream, 64 KiB, the terminal's
    gone(daemon)


def test_sessions_that_say_nothing_and_clients_are_bounded(daemon: Daemon, holder: Client) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(Client(daemon)) for _ in range(16)]
        for client in silent:
            client.post(f"/v1/containers/{holder.id}/attach")
            client.hand_over()
        assert refusal(daemon, holder.id).why == ("limit-reached", None)

    def attached(stack: ExitStack) -> bool:
        client = stack.enter_context(Client(daemon))
        try:
            client.attach(holder.id, holder=holder)
        except Refused:
            return False
        return True

    with ExitStack() as stack:
        eventually(lambda: attached(stack), "the silent ones have made room")
        for _ in range(30):
            stack.enter_context(Client(daemon).attach(holder.id))
        assert refusal(daemon, holder.id).why == ("limit-reached", None)
        says(holder, "on")


def test_many_questions_of_one_user_leave_room_for_others(
    daemon: Daemon, holder: Client, tenant: host.User
) -> None:
    """They ask a guardian that does not answer: it is stopped."""
    others = {process.pid for process in shims(daemon)}
    with Client(daemon, tenant).run("/bin/sh", "-c", ECHO, rm=True) as mine, ExitStack() as stack:
        mine.until("up\r\n")
        [shim] = [process for process in shims(daemon) if process.pid not in others]
        host.kill(shim, signal.SIGSTOP)
        stack.callback(host.kill, shim, signal.SIGCONT)
        asking = [stack.enter_context(Client(daemon, tenant)) for _ in range(asks.MAX_OF_ONE + 1)]
        for client in asking:
            client.post(f"/v1/containers/{mine.id}/attach")
        with pytest.raises(Refused) as refused:
            asking[-1].hand_over()
        assert refused.value.why == ("limit-reached", None)
        with Client(daemon).attach(holder.id, holder=holder) as guest:
            says(guest, "on", holder)
