"""Evidence: what a taken-over api can and cannot make root's side believe about who asks."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.security.taken_over import Client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests import host
    from tests.security.taken_over import TakenOver

pytestmark = pytest.mark.root

STREAM, SEQPACKET, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM
UNIX = socket.AF_UNIX


@pytest.mark.parametrize("who", ["root", "tenant"])
def test_the_truth_passes_through_the_same_machinery(
    taken_over: TakenOver, tenant: host.User, who: str
) -> None:
    done = taken_over.run("honest", user=tenant if who == "tenant" else None)
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    answer = taken_over.told("answer")[-1]
    assert answer["type"] == "accepted"
    uid = tenant.uid if who == "tenant" else 0
    assert f"audit shim: started id={answer['id']} uid={uid} " in taken_over.daemon.log
    taken_over.assert_nothing()


# --- forgeries: each is made by root, as whoever it would be taken for


def _pair(kind: int) -> Callable[[ExitStack, TakenOver, Path], int]:
    def make(stack: ExitStack, _evil: TakenOver, _directory: Path) -> int:
        ours, other = socket.socketpair(UNIX, kind)
        stack.callback(other.close)
        stack.callback(ours.close)
        return ours.fileno()

    return make


def _listening(stack: ExitStack, directory: Path, kind: int = STREAM) -> socket.socket:
    sock = stack.enter_context(socket.socket(UNIX, kind))
    sock.bind(str(directory / "other.sock"))
    sock.listen()
    return sock


def _other_listener(stack: ExitStack, _evil: TakenOver, directory: Path) -> int:
    return _listening(stack, directory).fileno()


def _connection(stack: ExitStack, path: Path | str, kind: int = STREAM) -> socket.socket:
    sock = stack.enter_context(socket.socket(UNIX, kind))
    sock.connect(str(path))
    return sock


def _client_end_of_another(stack: ExitStack, _evil: TakenOver, directory: Path) -> int:
    _listening(stack, directory)
    return _connection(stack, directory / "other.sock").fileno()


def _accepted_by_another(stack: ExitStack, _evil: TakenOver, directory: Path) -> int:
    listener = _listening(stack, directory)
    _connection(stack, directory / "other.sock")
    return stack.enter_context(listener.accept()[0]).fileno()


def _accepted_seqpacket(stack: ExitStack, _evil: TakenOver, directory: Path) -> int:
    listener = _listening(stack, directory, SEQPACKET)
    _connection(stack, directory / "other.sock", SEQPACKET)
    return stack.enter_context(listener.accept()[0]).fileno()


def _client_end_of_ours(stack: ExitStack, evil: TakenOver, _directory: Path) -> int:
    # The api accepts it in its turn; it ends without a request.
    return _connection(stack, evil.daemon.socket).fileno()


def _bound(stack: ExitStack, _evil: TakenOver, directory: Path) -> int:
    sock = stack.enter_context(socket.socket(UNIX, STREAM))
    sock.bind(str(directory / "bound.sock"))
    return sock.fileno()


def _accepted_from_the_same_name(stack: ExitStack, evil: TakenOver, directory: Path) -> int:
    # getpeername(2) and getsockname(2) say the daemon's own path: a name is no identity.
    directory.joinpath("elsewhere").mkdir()
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, here)
    os.chdir(directory / "elsewhere")
    try:
        sock = stack.enter_context(socket.socket(UNIX, STREAM))
        sock.bind(evil.daemon.socket.name)
        sock.listen()
        _connection(stack, evil.daemon.socket.name)
    finally:
        os.fchdir(here)
    return stack.enter_context(sock.accept()[0]).fileno()


def _abstract(stack: ExitStack, _evil: TakenOver, _directory: Path) -> int:
    sock = stack.enter_context(socket.socket(UNIX, STREAM))
    sock.bind(f"\0dkr-test-{os.getpid()}")
    sock.listen()
    _connection(stack, f"\0dkr-test-{os.getpid()}")
    return stack.enter_context(sock.accept()[0]).fileno()


def _tcp(stack: ExitStack, _evil: TakenOver, _directory: Path) -> int:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    return stack.enter_context(socket.create_connection(listener.getsockname())).fileno()


def _opened(path: str, flags: int) -> Callable[[ExitStack, TakenOver, Path], int]:
    def make(stack: ExitStack, evil: TakenOver, _directory: Path) -> int:
        fd = os.open(path.format(evil.daemon.socket), flags)
        stack.callback(os.close, fd)
        return fd

    return make


def _pidfd(stack: ExitStack, _evil: TakenOver, _directory: Path) -> int:
    fd = os.pidfd_open(1)
    stack.callback(os.close, fd)
    return fd


FORGERIES = {
    "stream pair": (_pair(STREAM), "evidence-origin"),
    "seqpacket pair": (_pair(SEQPACKET), "evidence-type"),
    "datagram pair": (_pair(DATAGRAM), "evidence-type"),
    "another listener": (_other_listener, "evidence-listening"),
    "client end of another listener": (_client_end_of_another, "evidence-origin"),
    "accepted by another listener": (_accepted_by_another, "evidence-origin"),
    "accepted by a seqpacket listener": (_accepted_seqpacket, "evidence-type"),
    "accepted by a listener of the same name": (_accepted_from_the_same_name, "evidence-origin"),
    "accepted by an abstract listener": (_abstract, "evidence-origin"),
    "client end of our listener": (_client_end_of_ours, "evidence-origin"),
    "bound, never accepted": (_bound, "evidence-origin"),
    "tcp": (_tcp, "evidence-type"),
    "file": (_opened("/etc/hostname", os.O_RDONLY), "evidence-type"),
    "directory": (_opened("/", os.O_RDONLY | os.O_DIRECTORY), "evidence-type"),
    "the socket's file": (_opened("{}", os.O_PATH), "evidence-type"),
    "pidfd": (_pidfd, "evidence-type"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_descriptor_of_roots_is_no_evidence(taken_over: TakenOver, forgery: str, tmp_path: Path) -> None:
    make, rule = FORGERIES[forgery]
    with ExitStack() as stack:
        taken_over.put(make(stack, taken_over, tmp_path))
        done = taken_over.run("given")
    assert done.returncode != 0
    assert done.stdout == ""
    answer = taken_over.told("answer")[-1]
    assert answer["type"] == "refused"
    assert answer["error"]["rule"] == rule
    taken_over.assert_nothing()


def test_what_root_is_told_of_those_would_have_been_uid_0(tmp_path: Path) -> None:
    """The wall that is tested above is needed: without it SO_PEERCRED alone would have said root."""
    with ExitStack() as stack:
        ends = [
            *socket.socketpair(UNIX, STREAM),
            *socket.socketpair(UNIX, SEQPACKET),
            (listener := _listening(stack, tmp_path)),
            _connection(stack, tmp_path / "other.sock"),
        ]
        for end in ends:
            stack.enter_context(end)
            peer = struct.unpack("iII", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            assert peer[1] == 0
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


@pytest.mark.parametrize(
    ("evil", "rule"),
    [("listener", "evidence-listening"), ("own", "evidence-api")],
)
def test_what_the_api_has_itself_is_no_evidence(taken_over: TakenOver, evil: str, rule: str) -> None:
    done = taken_over.run(evil)
    assert (done.returncode != 0, done.stdout) == (True, "")
    answer = taken_over.told("answer")[-1]
    assert (answer["type"], answer["error"]["rule"]) == ("refused", rule)
    taken_over.assert_nothing()


def test_a_connection_whose_client_has_gone_is_no_evidence(taken_over: TakenOver) -> None:
    before = len(taken_over.told("answer"))
    client = Client(taken_over.daemon.socket)
    client.post({"args": ["/bin/echo", "ran"], "labels": {"evil": "gone"}, "rm": True})
    client.connection.close()
    # The api serves one client after the other: when this one has its answer, the first was judged.
    assert taken_over.run("honest").returncode == 0
    answer = taken_over.told("answer")[before]
    assert (answer["type"], answer["error"]["rule"]) == ("refused", "evidence-gone")
    taken_over.assert_nothing()


def test_one_request_makes_one_container(taken_over: TakenOver) -> None:
    done = taken_over.run("replay")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    taken_over.settle()
    first, second = taken_over.told("answer")[-2:]
    # Two shims may have offered a session; the client takes the one that comes first and closes the connection.
    if second["type"] == "accepted":
        assert taken_over.has_started(first["id"]) != taken_over.has_started(second["id"])
    else:
        assert taken_over.has_started(first["id"])
        assert second["error"]["rule"] == "evidence-gone"
    taken_over.assert_nothing()


# --- the session is out of the api's reach


def test_the_api_finds_neither_frames_nor_descriptors_on_the_connection(taken_over: TakenOver) -> None:
    done = taken_over.run("read", "/bin/cat", options=("--env", "SECRET=hidden"))
    assert done.returncode == 0
    assert taken_over.run("honest").returncode == 0  # the api has told by then
    assert taken_over.told("read")[-1] == ""
    assert taken_over.told("descriptors")[-1] == 0
    taken_over.assert_nothing()


def test_a_client_sends_nothing_over_a_session_that_the_api_has_made(taken_over: TakenOver) -> None:
    done = taken_over.run("own-session")
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert "was not made by root" in done.stderr
    assert taken_over.run("honest").returncode == 0
    assert taken_over.told("got")[-1] == 0
    assert taken_over.told("descriptors")[-1] == 0
    taken_over.assert_nothing()


def test_the_launchers_channel_passed_off_as_a_session_starts_nothing(taken_over: TakenOver) -> None:
    api = [p for p in taken_over.daemon.processes() if p.comm == "python3"]
    done = taken_over.run("channel-as-session")
    assert (done.returncode != 0, done.stdout) == (True, "")
    # What the client sent is no message of an api's: this one has ended, another serves.
    assert taken_over.run("honest").returncode == 0
    assert [p for p in taken_over.daemon.processes() if p.comm == "python3"] != api
    taken_over.assert_nothing()


# --- removal asks for evidence as a start does


def test_a_container_is_removed_on_its_owners_connection_alone(
    taken_over: TakenOver, tenant: host.User
) -> None:
    kept = taken_over.daemon.dkrctl("run", "--label", "evil=honest", "--on-disconnect=stop", "/bin/true")
    assert kept.returncode == 0, kept.stderr
    taken_over.settle()
    taken_over.run("nothing")  # the client may have its end before the api has its answer
    container = taken_over.told("answer")[-1]["id"]
    place = taken_over.daemon.state_dir / "containers" / container
    assert place.is_dir()

    def ask(evil: str, user: host.User | None) -> dict[str, object]:
        taken_over.run(f"{evil} {container}", user=user)
        answer: dict[str, object] = taken_over.told("answer")[-1]
        return answer

    refused = ask("remove-by-listener", None)
    assert refused["error"]["rule"] == "evidence-listening"  # type: ignore[index]
    refused = ask("remove", tenant)
    assert refused["error"]["code"] == "not-found"  # type: ignore[index]
    assert place.is_dir()
    assert ask("remove", None)["type"] == "done"
    assert not place.exists()
    taken_over.assert_nothing()


@pytest.mark.parametrize("word", ["../../../etc", "0" * 63, "G" * 64, "0" * 64])
def test_what_is_no_container_is_not_removed(taken_over: TakenOver, word: str) -> None:
    taken_over.run(f"remove {word}")
    answer = taken_over.told("answer")[-1]
    assert answer["type"] == "refused"
    assert answer["error"]["code"] in ("bad-request", "not-found")
    taken_over.assert_nothing()
