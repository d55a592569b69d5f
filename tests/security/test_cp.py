"""What is copied from and to a container that is hostile: it changes its tree meanwhile, and has laid what it liked.

The known ways out that lead through a copy: CVE-2018-15664 (a link in the place of a directory, between the look and the deed),
CVE-2019-14271 (the process that copies loads the container's code), and archives that lead out of where they are unpacked.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.reliability.support import eventually
from tests.security.inside import PYTHON, status_fields
from tests.security.test_attach import HONEST, sent_to, verdict
from tests.security.test_exec import refusal, standing
from tests.sessions import ECHO, Client, gone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon
    from tests.security.taken_over import TakenOver

pytestmark = pytest.mark.root

ROUNDS = 15  # of each direction
# Exchanges (RENAME_EXCHANGE of renameat2(2)) a directory with a link to a directory of the host's name, for ever.
SWAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
os.mkdir("/tmp/x"); open("/tmp/x/canary", "w").write("inside")
os.symlink(sys.argv[1], "/tmp/y")
open("/tmp/up", "w")
while True:
    libc.renameat2(-100, b"/tmp/x", -100, b"/tmp/y", 2)
"""


@pytest.fixture
def canary(open_tmp: Path) -> Path:
    """A directory of the host's that everybody could read, with a file that nobody shall have."""
    place = open_tmp / "host"
    place.mkdir()
    (place / "canary").write_text("outside")
    return place


def _look(place: Path) -> list[tuple[str, int, int, int, bytes]]:
    found = []
    for path in sorted([place, *place.iterdir()]):
        one = path.stat()
        found.append(
            (
                path.name,
                one.st_ino,
                one.st_mtime_ns,
                one.st_ctime_ns,
                path.read_bytes() if path.is_file() else b"",
            )
        )
    return found


def test_a_link_exchanged_for_a_directory_leads_nowhere(daemon: Daemon, canary: Path, open_tmp: Path) -> None:
    (open_tmp / "canary").write_text("mine")
    before = _look(canary)
    seen: set[str] = set()
    command = (*PYTHON, SWAPPER, str(canary))
    done = daemon.dkrctl("run", "-d", "--name", "web", *command, check=True)
    try:
        eventually(
            lambda: daemon.dkrctl("exec", "web", "/bin/ls", "/tmp/up").returncode == 0, "it exchanges them"
        )
        for number in range(ROUNDS):
            for path in ("/tmp/x/canary", "/tmp/x"):
                out = open_tmp / f"out{number}{path.count('/')}"
                daemon.dkrctl("cp", "-L", f"web:{path}", str(out))
                if out.is_symlink():
                    continue  # a link is copied as a link; where that leads to is not looked at by a copy
                if out.is_file():
                    seen.add(out.read_text())
                elif (out / "canary").exists():
                    seen.add((out / "canary").read_text())
            daemon.dkrctl("cp", str(open_tmp / "canary"), "web:/tmp/x")
            daemon.dkrctl("cp", str(open_tmp / "canary"), "web:/tmp/x/canary")
    finally:
        daemon.dkrctl("rm", "-f", done.stdout.strip(), check=True)
    assert seen <= {"inside", "mine"}
    assert seen, "nothing was copied at all"
    assert _look(canary) == before


def _copying(daemon: Daemon, open_tmp: Path, user: host.User | None) -> Iterator[host.Process]:
    """The process of a copy that waits for its input."""
    feed = open_tmp / "feed"
    os.mkfifo(feed)
    feed.chmod(0o666)
    opened = os.open(feed, os.O_RDWR)
    try:
        with daemon.popen("cp", "-", "web:/tmp", user=user, stdin=opened) as client:
            eventually(lambda: len(_processes(daemon)) == 1, "it has begun, and the one before has ended")
            try:
                # Its last step before it reads is to be a user of the container's, with few rights.
                [process] = _processes(daemon)
                eventually(
                    lambda: _status(process)["CapEff"] != _status(process)["CapBnd"], "it has given up rights"
                )
                yield process
            finally:
                client.kill()
    finally:
        os.close(opened)


def _processes(daemon: Daemon) -> list[host.Process]:
    return [process for process in daemon.processes() if process.comm == "dkr-copy"]


def _status(process: host.Process) -> dict[str, str]:
    return status_fields(Path(f"/proc/{process.pid}/status").read_text())


@pytest.mark.parametrize("who", ["root", "tenant"])
def test_the_process_has_the_rights_of_the_containers_root_and_nothing_of_the_host(
    daemon: Daemon, tenant: host.User, open_tmp: Path, who: str
) -> None:
    user = tenant if who == "tenant" else None
    with standing(daemon, user=user) as container:
        [init] = [process for process in daemon.processes() if process.comm == "sleep"]
        for process in _copying(daemon, open_tmp, user):
            inside, first = _status(process), status_fields(Path(f"/proc/{init.pid}/status").read_text())
            assert inside["Uid"] == first["Uid"]
            assert inside["Gid"] == first["Gid"]
            assert inside["Groups"].strip() == ""
            # CHOWN, DAC_OVERRIDE, FOWNER, FSETID: of what the container has; and no more to be had.
            assert (
                int(inside["CapEff"], 16) == int(inside["CapPrm"], 16) == int(first["CapBnd"], 16) & 0b11111
            )
            assert inside["CapBnd"] == first["CapBnd"]
            assert int(inside["CapInh"], 16) == 0
            for name in ("mnt", "user", "net", "ipc", "uts", "cgroup"):
                assert os.readlink(f"/proc/{process.pid}/ns/{name}") == os.readlink(
                    f"/proc/{init.pid}/ns/{name}"
                )
            # Nobody inside sees it, nor could look into it.
            assert os.readlink(f"/proc/{process.pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
            assert (
                Path(f"/proc/{process.pid}/cgroup").read_text()
                == Path(f"/proc/{init.pid}/cgroup").read_text()
            )
            # Of the host: the pipe, the way to its guardian, and nothing else; the root is the container's.
            kinds = [name.partition(":[")[0] for name in host.descriptors(process.pid)]
            assert {kind for kind in kinds if kind not in ("pipe", "socket")} == {"/", "/tmp"}
            root = os.stat(f"/proc/{init.pid}/root/").st_dev
            opened = [os.stat(path) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
            assert (
                {found.st_dev for found in opened if stat.S_ISDIR(found.st_mode)}
                == {root}
                != {os.stat("/").st_dev}
            )
            assert os.stat(f"/proc/{process.pid}/root/").st_ino == os.stat(f"/proc/{init.pid}/root/").st_ino
            # All code that it has was loaded before it went in.
            guardian = host.read_process(process.parent)
            assert guardian is not None
            assert _code(process.pid) <= _code(guardian.pid)
        assert container


def _code(pid: int) -> set[str]:
    lines = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return {" ".join(line[3:]) for line in lines if "x" in line[1]}


def test_modules_and_names_of_the_containers_are_not_looked_at(daemon: Daemon, open_tmp: Path) -> None:
    """Whatever a process loads late it would open inside: nothing there is opened but what is copied."""
    with standing(daemon):
        daemon.dkrctl(
            "exec",
            "web",
            "/bin/sh",
            "-c",
            "mkdir /tmp/d; echo x >/tmp/d/f; chown 1234:1234 /tmp/d/f",
            check=True,
        )
        plant = "for f in /etc/nsswitch.conf /etc/passwd /etc/group; do rm -f $f; mkfifo $f; done"
        daemon.dkrctl("exec", "web", "/bin/sh", "-c", plant, check=True)
        # Who opened one of these would wait for ever.
        daemon.dkrctl("cp", "-a", "web:/tmp/d", str(open_tmp), check=True)
        daemon.dkrctl("cp", "-a", str(open_tmp / "d"), "web:/tmp/e", check=True)
        assert daemon.dkrctl("cp", "web:/tmp/none", str(open_tmp)).returncode == 1


# --- who wants it


@pytest.fixture
def victim(taken_over: TakenOver) -> Iterator[Client]:
    """Root's container."""
    with Client(taken_over.daemon).run("/bin/sh", "-c", ECHO, **HONEST) as client:
        client.until("up\r\n")
        yield client
    gone(taken_over.daemon)
    assert f"audit shim: copy id={client.id}" not in taken_over.daemon.log


def wanting(container: str, **copy: Any) -> dict[str, Any]:
    """A first frame."""
    return {"type": "copy", "version": 2, "container": container, "copy": copy}


def test_a_tenants_connection_copies_nothing_of_others(
    taken_over: TakenOver, victim: Client, tenant: host.User
) -> None:
    assert verdict(taken_over, victim.id, tenant, wish="copy") == ("refused", "not-found", None)


def test_a_client_is_not_led_to_another_container_than_it_wants(
    taken_over: TakenOver, victim: Client
) -> None:
    with sent_to(taken_over, victim.id, wish="copy") as client:
        client.hand_over()
        client.send(wanting("another", direction="out", path="/etc"))
        assert refusal(client) == ("not-permitted", "other-container")


def test_what_is_no_pipe_is_refused(taken_over: TakenOver, victim: Client, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    for flags, path in (
        (os.O_RDWR, tmp_path / "f"),
        (os.O_RDONLY, tmp_path),
        (os.O_PATH, tmp_path),
        (os.O_RDWR, "/dev/null"),
    ):
        fd = os.open(path, flags)
        with sent_to(taken_over, victim.id, wish="copy") as client:
            client.hand_over()
            client.send(wanting(victim.id, direction="out", path="/etc"), fd)
            assert refusal(client) == ("bad-request", None)
        os.close(fd)


@pytest.mark.parametrize(
    ("copy", "code"),
    [
        ({"direction": "out"}, "bad-request"),
        ({"direction": "up", "path": "/etc"}, "bad-request"),
        ({"direction": "out", "path": "/etc", "keepIds": True}, "bad-request"),
        ({"direction": "out", "path": "/" + "x" * 5000}, "bad-request"),
        ({"direction": "in", "path": "/tmp"}, "protocol"),
        ({"direction": "in", "path": "/tmp", "source": {"name": "../x"}}, "bad-request"),
        ({"direction": "in", "path": "/tmp", "source": {"name": ".."}}, "bad-request"),
        ({"direction": "out", "path": "/\ud800"}, "protocol"),
        ({"direction": "in", "path": "/tmp", "source": {"name": "\ud800"}}, "protocol"),
    ],
)
def test_a_frame_that_is_none_is_refused(
    taken_over: TakenOver, victim: Client, copy: dict[str, Any], code: str
) -> None:
    with sent_to(taken_over, victim.id, wish="copy") as client:
        client.hand_over()
        client.send(wanting(victim.id, **copy))
        assert refusal(client)[0] == code
