"""Many runs, one after the other and at once, good ones and failing ones: each answer is right, nothing is left."""

from __future__ import annotations

import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.reliability.support import GUARD_SECONDS, RawClient, assert_same, count, null_stdio, start_raw

if TYPE_CHECKING:
    from tests import host
    from tests.daemon import Daemon

pytestmark = pytest.mark.root


def _run_raw(daemon: Daemon, stdio: tuple[int, int, int], **request: Any) -> dict[str, Any]:
    """One run to its end: the last frame."""
    last: dict[str, Any] = {}
    with start_raw(daemon, stdio, **{"rm": True, **request}) as client:
        while frame := client.frame():
            last = frame
    return last


def test_two_hundred_runs_one_after_the_other(daemon: Daemon) -> None:
    before = count(daemon)
    with null_stdio() as stdio:
        for number in range(200):
            code = number % 256
            frame = _run_raw(daemon, stdio, args=["/bin/sh", "-c", f"exit {code}"])
            assert frame == {"type": "exited", "exit": {"code": code, "signal": None, "cause": "exited"}}
    assert_same(daemon, before)


def test_fifty_runs_in_each_of_eight_clients_at_once(daemon: Daemon) -> None:
    before = count(daemon)
    wrong: list[str] = []

    def work(worker: int, stdio: tuple[int, int, int]) -> None:
        for number in range(50):
            code = (worker * 50 + number) % 256
            try:
                frame = _run_raw(daemon, stdio, args=["/bin/sh", "-c", f"exit {code}"])
                if frame.get("exit") != {"code": code, "signal": None, "cause": "exited"}:
                    wrong.append(f"{code}: {frame}")
            except (AssertionError, OSError) as err:
                wrong.append(f"{code}: {err!r}")

    with null_stdio() as stdio:
        workers = [threading.Thread(target=work, args=(number, stdio)) for number in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []
    assert_same(daemon, before)


def test_many_clients_at_once_each_gets_its_own_output(daemon: Daemon, tenant: host.User) -> None:
    before = count(daemon)
    clients = [
        daemon.popen(
            *("run", "--rm", "/bin/sh", "-c", f"echo mine {number}; exit {number}"),
            user=tenant,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(40)
    ]
    for number, client in enumerate(clients):
        with client:
            out, _ = client.communicate(timeout=GUARD_SECONDS)
        assert (out, client.returncode) == (f"mine {number}\n", number)
    assert_same(daemon, before)


def test_one_name_for_eight_runs_at_once_is_given_once(daemon: Daemon) -> None:
    before = count(daemon)
    clients = [
        daemon.popen(
            *("run", "--rm", "--name", "one", "/bin/cat"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    said = [client.communicate(timeout=GUARD_SECONDS)[1] for client in clients[1:]]
    # The first may be among the refused: then one of the others had its end of file, and the name, before.
    said.append(clients[0].communicate(timeout=GUARD_SECONDS)[1])
    for text, client in zip([said[-1], *said[:-1]], clients, strict=True):
        assert client.returncode == (125 if "one" in text else 0), text
    assert any(client.returncode == 0 for client in clients)
    assert_same(daemon, before)


# What fails -> the client's status, its words, the request that they become.
FAILING: dict[str, tuple[int, tuple[str, ...], dict[str, Any]]] = {
    "no such command": (127, ("/bin/nosuch",), {"args": ["/bin/nosuch"]}),
    "not executable": (126, ("/etc/hosts",), {"args": ["/etc/hosts"]}),
    "a directory": (126, ("/etc",), {"args": ["/etc"]}),
    "no such user": (125, ("--user", "nosuch", "/bin/true"), {"user": "nosuch"}),
    "a bad mount": (125, ("--tmpfs", "/x:nosuchoption=1", "/bin/true"), {"tmpfs": {"/x": "nosuchoption=1"}}),
    "no mount there": (125, ("--tmpfs", "/etc/hosts/x", "/bin/true"), {"tmpfs": {"/etc/hosts/x": ""}}),
    "no directory": (126, ("--workdir", "/etc/hosts", "/bin/true"), {"cwd": "/etc/hosts"}),
    "no such image": (125, ("nosuch", "/bin/true"), {"image": "nosuch"}),
    "a bad name": (125, ("--name", "/", "/bin/true"), {"name": "/"}),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_start_that_fails_leaves_nothing(daemon: Daemon, kind: str) -> None:
    """Kept or not: of what never ran there is nothing to look at."""
    status, words, request = FAILING[kind]
    refused = daemon.dkrctl("run", *words)
    assert (refused.returncode, refused.stdout) == (status, "")
    assert refused.stderr.startswith("dkrctl: "), refused.stderr
    before = count(daemon)
    with null_stdio() as stdio:
        for turn in range(20):
            assert _fails(daemon, stdio, {"args": ["/bin/true"], "rm": bool(turn % 2), **request})
    assert_same(daemon, before)


def _fails(daemon: Daemon, stdio: tuple[int, int, int], request: dict[str, Any]) -> bool:
    """Whether a start ends in an error: a problem, an error record, or an error frame."""
    with RawClient(daemon) as client:
        client.post(request)
        if client.head() != 101:
            return True
        if client.record()["type"] == "error":
            return True
        client.first(request, stdio)
        frame = client.frame()
        return frame is not None and frame["type"] == "error"


def test_a_first_frame_with_other_wishes_than_the_request_leaves_nothing(daemon: Daemon) -> None:
    before = count(daemon)
    with null_stdio() as stdio:
        for _ in range(20):
            frame = _differing(daemon, stdio)
            assert frame is not None
            assert frame["error"]["code"] == "not-permitted"
    assert_same(daemon, before)


def _differing(daemon: Daemon, stdio: tuple[int, int, int]) -> dict[str, Any] | None:
    with RawClient(daemon) as client:
        client.post({"args": ["/bin/true"], "rm": True})
        assert client.head() == 101
        client.record()
        client.first({"args": ["/bin/false"], "rm": True}, stdio)
        return client.frame()


def test_garbage_at_the_door_leaves_nothing(daemon: Daemon) -> None:
    before = count(daemon)
    for data in (
        b"",
        b"\0" * 4096,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/run HTTP/1.1\r\nContent-Length: 99\r\n\r\n{",
    ):
        for _ in range(20):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.connect(str(daemon.socket))
                sock.sendall(data)
    assert_same(daemon, before)
