"""A client in a user namespace cannot see that a socket is root's: SO_PEERCRED shows it nobody's uid for root and api alike.

So root sends its word with the session: the client's own credentials, which nobody else may send. A taken-over api, which may
hold the connection, cannot put itself in between there either.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests import trees
from tests.security.callers import as_user
from tests.security.taken_over import Client

if TYPE_CHECKING:
    from tests import host
    from tests.daemon import Daemon
    from tests.security.taken_over import TakenOver

pytestmark = pytest.mark.root

WAYS = {
    "as root": ("unshare", "--user", "--map-root-user"),
    "as themselves": ("unshare", "--user", "--map-current-user"),
    "in a sandbox": ("bwrap", "--dev-bind", "/", "/", "--unshare-all"),
}


def run(
    daemon: Daemon, user: host.User | None, way: tuple[str, ...], *words: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*trees.as_user(user), *way, str(daemon.prefix / "bin/dkrctl"), "run", "--rm", *words],
        env=daemon.environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=trees.SECONDS,
    )


@pytest.mark.parametrize("way", WAYS)
def test_an_honest_daemon_is_trusted(daemon: Daemon, tenant: host.User, way: str) -> None:
    done = run(daemon, tenant, WAYS[way], "/bin/echo", "ran")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


@pytest.mark.parametrize("evil", ["own-session", "channel-as-session"])
@pytest.mark.parametrize("way", WAYS)
def test_an_api_in_between_gets_nothing(
    taken_over: TakenOver, tenant: host.User, way: str, evil: str
) -> None:
    done = run(taken_over.daemon, tenant, WAYS[way], "--label", f"evil={evil}", "/bin/echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert "cannot trust the session: the session was not made by root" in done.stderr
    taken_over.assert_nothing()


def test_a_user_without_a_uid_there_trusts_nobody(daemon: Daemon, tenant: host.User) -> None:
    """Whoever has no number looks like everybody who has none."""
    done = run(daemon, tenant, ("unshare", "--user"), "/bin/echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert "cannot trust the session" in done.stderr


def test_roots_word_is_the_clients_uid_and_no_other(daemon: Daemon, tenant: host.User) -> None:
    """What a client is told is what it is itself: no process can be made to take root's word for somebody else's."""

    def ask() -> list[int]:
        client = Client(daemon.socket)
        client.post({"args": ["/bin/true"], "rm": True})
        client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        _, ancillary, _, _ = client.connection.recvmsg(1 << 16, 256)
        client.connection.close()
        [word] = [data for _, kind, data in ancillary if kind == socket.SCM_CREDENTIALS]
        return list(struct.unpack("iII", word))

    pid, uid, gid = as_user(tenant, ask)
    assert (uid, gid) == (tenant.uid, tenant.gid)
    assert pid not in (0, os.getpid())


def abstract_names() -> set[str]:
    """Those that the kernel has made, five digits long, of the sockets of this network namespace; proc(5)."""
    with open("/proc/net/unix") as file:
        names = {words[7] for words in map(str.split, file) if len(words) > 7}
    return {name for name in names if re.fullmatch("@[0-9a-f]{5}", name)}


def test_no_socket_gets_an_abstract_name_by_it(daemon: Daemon, tenant: host.User) -> None:
    """A socket that sends while it wants credentials would: autobind, unix(7)."""
    before = abstract_names()
    program = str(daemon.prefix / "bin/dkrctl")
    with subprocess.Popen(
        [*trees.as_user(tenant), *WAYS["as root"], program, "run", "--rm", "/bin/cat"],
        env=daemon.environment(),
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("up\n")
        client.stdin.flush()
        assert client.stdout.readline() == "up\n"
        during = abstract_names()
        client.stdin.close()
        assert client.wait(10) == 0
    assert during <= before
