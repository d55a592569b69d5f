"""What a tenant is refused, by name; and a process of a container at dkr's own socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.patience import guard
from tests.security.callers import as_user
from tests.security.inside import PRELUDE, PYTHON, ask

if TYPE_CHECKING:
    from pathlib import Path

    from tests import host
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

LIFTS = {
    "--pid": "pid-host",
    "--ipc": "ipc-host",
    "--uts": "uts-host",
    "--cgroupns": "cgroup-host",
    "--network": "network-host",
    "--userns": "user-host",
}


@pytest.mark.parametrize("option", LIFTS)
def test_a_namespace_of_the_hosts_is_refused_to_a_tenant_by_name(
    daemon: Daemon, tenant: host.User, option: str
) -> None:
    before = set((daemon.state_dir / "containers").iterdir())
    done = daemon.dkrctl("run", "--rm", option, "host", "/bin/echo", "ran", user=tenant)
    assert (done.returncode, done.stdout) == (125, "")
    assert f"rule: {LIFTS[option]}" in done.stderr
    assert f"uid {tenant.uid}" in done.stderr
    assert "hint: " in done.stderr
    assert set((daemon.state_dir / "containers").iterdir()) <= before


@pytest.mark.parametrize("option", LIFTS)
def test_an_admin_who_is_not_root_may_have_it(daemon: Daemon, admin: host.User, option: str) -> None:
    assert daemon.run(option, "host", "/bin/echo", "ran", user=admin).stdout == "ran\n"


def test_several_are_refused_as_one_is(daemon: Daemon, tenant: host.User) -> None:
    everything = [word for option in LIFTS for word in (option, "host")]
    done = daemon.dkrctl("run", "--rm", *everything, "/bin/echo", "ran", user=tenant)
    assert (done.returncode, done.stdout) == (125, "")
    assert "rule: " in done.stderr


def test_a_stranger_does_not_connect(daemon: Daemon, stranger: host.User) -> None:
    done = daemon.dkrctl("run", "--rm", "/bin/echo", "ran", user=stranger)
    assert (done.returncode, done.stdout) == (125, "")
    assert "permission denied" in done.stderr


def test_nobody_else_is_let_into_the_daemons_directories(daemon: Daemon, tenant: host.User) -> None:
    def look() -> list[str]:
        reached = []
        for place in (daemon.state_dir, daemon.run_dir, daemon.directory / "ids"):
            for name in ("layers", "containers", "api", "api/dkr.db", "seccomp", ""):
                path = place / name
                try:
                    os.listdir(path)
                    reached.append(f"{path.relative_to(daemon.directory)}")
                except OSError:
                    continue
        return sorted(reached)

    # The socket's directory is open, so that clients find it; compiled filters hold no secret.
    assert set(as_user(tenant, look)) <= {"run", "state/seccomp"}


# --- from inside

KNOCK = """
os.chdir("/proc/self/fd/3")
sock = socket.socket(socket.AF_UNIX)
how = refusal(sock.connect, "dkr.sock")
if how is None:
    body = json.dumps({"args": ["/bin/true"], "rm": True}).encode()
    sock.sendall(b"POST /v1/run HTTP/1.1\\r\\nHost: dkr\\r\\nConnection: Upgrade\\r\\nUpgrade: dkr-session/1\\r\\n"
                 b"Content-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    answer, size = b"", None
    while size is None or len(answer.partition(b"\\r\\n\\r\\n")[2]) < size:
        got = sock.recv(65536)
        if not got:
            break
        answer += got
        head, end, _ = answer.lower().partition(b"\\r\\n\\r\\n")
        if end and b"content-length:" in head:
            size = int(head.partition(b"content-length:")[2].split()[0])
    how = answer.decode(errors="replace")
tell(how)
"""


def _knock(daemon: Daemon, user: host.User | None, *options: str) -> str:
    """What the daemon says to a process of a container that was handed the socket's directory."""
    directory = os.open(daemon.run_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        done = daemon.run(
            "--preserve-fds", "1", *options, *PYTHON, PRELUDE + KNOCK,
            user=user, close_fds=False, preexec_fn=lambda: os.dup2(directory, 3, inheritable=True),
        )  # fmt: skip
    finally:
        os.close(directory)
    answer: str = json.loads(done.stdout)
    return answer


def test_a_container_cannot_connect(daemon: Daemon, tenant: host.User) -> None:
    """Its root has CAP_DAC_OVERRIDE over its own ids alone."""
    assert _knock(daemon, tenant) == "EACCES"
    assert _knock(daemon, None) == "EACCES"


def test_a_container_that_reaches_the_socket_is_nobody(make_daemon: MakeDaemon, tenant: host.User) -> None:
    daemon = make_daemon(socket_mode="0666")
    for user in (tenant, None):
        for options in ((), ("--user", "1000:1000")):
            answer = _knock(daemon, user, *options)
            status = answer.partition("\r\n")[0]
            assert " 101 " not in status or '"type":"error"' in answer.replace(" ", ""), answer
            assert "not-permitted" in answer
    started = [line for line in daemon.log.splitlines() if "audit shim: started" in line]
    assert [line for line in started if "command=/bin/true" in line] == []
    # The premise: the socket as such is open to everybody.
    assert as_user(12345, lambda: socket.socket(socket.AF_UNIX).connect(str(daemon.socket))) is None


def test_an_id_of_the_pool_is_nobody_outside_too(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(socket_mode="0666")
    inside = daemon.settings["ids"]["first"] + 70_000
    client = daemon.prefix / "bin/dkrctl"
    done = subprocess.run(
        [client, "run", "--rm", "/bin/echo", "ran"],
        env=daemon.environment(),
        cwd="/",
        user=inside,
        group=inside,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=guard(20.0),
        check=False,
    )
    assert (done.returncode, done.stdout) == (125, "")


def test_the_supplementary_groups_of_the_caller_do_not_come_along(
    daemon: Daemon, admin: host.User, open_tmp: Path
) -> None:
    """A directory that only the caller's group may enter, handed in: no entry."""
    closed = open_tmp / "groups"
    closed.mkdir()
    (closed / "file").write_text("for the group")
    os.chown(closed, 0, admin.groups[-1])
    closed.chmod(0o750)
    directory = os.open(closed, os.O_RDONLY | os.O_DIRECTORY)
    try:
        probe = "tell([os.getgroups(), refusal(os.open, '/proc/self/fd/3/file', os.O_RDONLY)])"
        seen = ask(
            daemon, probe, "--preserve-fds", "1", user=admin, close_fds=False,
            preexec_fn=lambda: os.dup2(directory, 3, inheritable=True),
        )  # fmt: skip
    finally:
        os.close(directory)
    assert seen == [[], "EACCES"]
