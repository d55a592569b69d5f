"""The descriptors of a rootfs are a client's word: what they are is looked at, and what they would open is the caller's."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from dkrd.runtime import syscalls
from tests import trees
from tests.security.callers import as_user
from tests.security.taken_over import Client, frame, frames_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests import host
    from tests.daemon import Daemon
    from tests.security.taken_over import TakenOver

pytestmark = pytest.mark.root

BOTH = ("rootfs", "mntns")
DIRECTORY = os.O_PATH | os.O_DIRECTORY
LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def tree(open_tmp: Path, tenant: host.User) -> Path:
    return trees.plant(open_tmp / "tree", tenant)


def request_of(name: object, *args: str) -> dict[str, Any]:
    return {"args": [*(args or ("cat", "/etc/motd"))], "rootfs": str(name), "rm": True}


def ask(daemon: Daemon, request: dict[str, Any], *descriptors: int, root: object = BOTH) -> dict[str, Any]:
    """The last frame for a request with these descriptors for the root."""
    client = Client(daemon.socket)
    client.post(request)
    with client.session() as session, open(os.devnull, "r+") as null:
        frame(session, request, {0: null.fileno(), 1: null.fileno()}, *descriptors, root=root)
        return frames_of(session)[-1]


def own_namespace() -> int:
    return os.open("/proc/self/ns/mnt", os.O_RDONLY)


def error(frame: dict[str, Any]) -> dict[str, Any]:
    assert frame["type"] == "error", frame
    found = frame["error"]
    assert isinstance(found, dict)
    return found


def test_with_what_the_client_sends_it_runs(daemon: Daemon, tenant: host.User, tree: Path) -> None:
    """What is wrong below is one thing each."""
    opened, namespace = os.open(tree, DIRECTORY), own_namespace()
    asked = request_of(tree)
    for work in (
        lambda: ask(daemon, asked, opened, namespace),
        lambda: ask(daemon, asked, opened, root=("rootfs",)),
    ):
        assert as_user(tenant, work)["exit"]["code"] == 0
    for fd in (opened, namespace):
        os.close(fd)


# --- frame, request and bundle say the same


@pytest.mark.parametrize(
    "root", [("mntns",), ("rootfs", "rootfs"), ("rootfs", "mntns", "mntns"), ("etc",), "rootfs", None, 1]
)
def test_other_words_are_no_frame(daemon: Daemon, tree: Path, root: object) -> None:
    opened = os.open(tree, DIRECTORY)
    many = [opened] * (len(root) if isinstance(root, tuple) else 1)
    assert error(ask(daemon, request_of(tree), *many, root=root))["code"] == "protocol"
    os.close(opened)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_their_number_is_the_promised_one(daemon: Daemon, tree: Path, count: int) -> None:
    opened = os.open(tree, DIRECTORY)
    found = error(ask(daemon, request_of(tree), *[opened] * count))
    os.close(opened)
    assert found["message"].endswith(f"4 descriptors were promised, {2 + count} came")


def test_a_rootfs_without_a_descriptor_is_refused(daemon: Daemon, tenant: host.User) -> None:
    found = error(as_user(tenant, lambda: ask(daemon, request_of("/etc"), root=())))
    assert (found["code"], found["rule"]) == ("not-permitted", "rootfs")


@pytest.mark.parametrize("request_", [{"args": ["/bin/true"]}, {"args": ["true"], "image": "busybox"}])
def test_a_descriptor_without_a_rootfs_is_refused(
    daemon: Daemon, tenant: host.User, tree: Path, request_: dict[str, Any]
) -> None:
    opened = os.open(tree, DIRECTORY)
    asked = {**request_, "rm": True}
    found = error(as_user(tenant, lambda: ask(daemon, asked, opened, root=("rootfs",))))
    assert (found["code"], found["rule"]) == ("not-permitted", "rootfs")
    os.close(opened)


def test_the_daemons_own_directory_cannot_be_asked_for(daemon: Daemon) -> None:
    """A directory of the settings is meant by naming no root at all, and no name is a path."""
    done = daemon.dkrctl("run", "--rm", "--label", "x=y", "/etc/passwd")
    assert "cannot run '/etc/passwd'" in done.stderr
    client = Client(daemon.socket)
    body = json.dumps({"args": ["x"], "image": "/etc"}).encode()
    client.connection.sendall(
        b"POST /v1/run HTTP/1.1\r\nHost: dkr\r\nConnection: Upgrade\r\nUpgrade: dkr-session/1\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    assert client.connection.recv(4096).startswith(b"HTTP/1.1 404 ")
    client.connection.close()


def test_an_api_that_was_taken_over_adds_no_root(
    taken_over: TakenOver, tenant: host.User, open_tmp: Path
) -> None:
    """The directory goes to the shim over the session, with the request that it belongs to."""
    tree = trees.plant(open_tmp / "tree", tenant)
    for evil in ("root", "root is a directory of the host's"):
        done = taken_over.run(
            f"swap {evil}", "cat", "/etc/motd", user=tenant, options=("--rootfs", str(tree))
        )
        assert (done.returncode, done.stdout) == (125, "")
        assert "rule: request" in done.stderr
    taken_over.assert_nothing()


@pytest.mark.parametrize("who", ["tenant", "admin", "root"])
def test_an_api_that_was_taken_over_opens_none_in_a_plain_clients_place(
    taken_over: TakenOver, tenant: host.User, admin: host.User, who: str
) -> None:
    """Over plain HTTP the session is the api's. On root's connection it would have root's /etc, all of it."""
    user = {"tenant": tenant, "admin": admin}.get(who)
    taken_over.run("plain-root", user=user)
    found = error(taken_over.told("frame")[-1])
    assert (found["code"], found["rule"]) == ("not-permitted", "http")
    taken_over.assert_nothing()


# --- what they are


@contextmanager
def not_a_root(kind: str, tree: Path) -> Iterator[int]:
    """A descriptor that is no directory opened with O_PATH."""
    with ExitStack() as stack:
        if kind == "a directory that can be read":
            fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
        elif kind == "a file":
            fd = os.open(tree / "etc/motd", os.O_PATH)
        elif kind == "a link":
            fd = os.open(tree / "bin/sh", os.O_PATH | os.O_NOFOLLOW)
        elif kind == "a pipe":
            read, write = os.pipe()
            stack.callback(os.close, read)
            stack.callback(os.close, write)
            fd = os.open(f"/proc/self/fd/{read}", os.O_PATH)
        elif kind == "memory":
            memory = os.memfd_create("x")
            stack.callback(os.close, memory)
            fd = os.open(f"/proc/self/fd/{memory}", os.O_PATH)
        else:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            fd = os.dup(sock.fileno())
        stack.callback(os.close, fd)
        yield fd


@pytest.mark.parametrize("user", ["root", "tenant"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("a directory that can be read", "it was not opened with O_PATH"),
        ("a socket", "it was not opened with O_PATH"),
        ("a file", "it is not a directory"),
        ("a link", "it is not a directory"),
        ("a pipe", "it is not a directory"),
        ("memory", "it is not a directory"),
    ],
)
def test_what_is_no_directory_is_refused(
    daemon: Daemon, tenant: host.User, tree: Path, kind: str, said: str, user: str
) -> None:
    with not_a_root(kind, tree) as fd:
        who: host.User | int = tenant if user == "tenant" else 0
        found = error(as_user(who, lambda: ask(daemon, request_of(tree), fd, own_namespace())))
    assert (found["code"], found["message"]) == ("bad-request", f"cannot use {tree} as the root: {said}")


NAMESPACES: dict[str, Callable[[], int]] = {
    "another kind of namespace": lambda: os.open("/proc/self/ns/pid", os.O_RDONLY),
    "a user namespace": lambda: os.open("/proc/self/ns/user", os.O_RDONLY),
    "opened with O_PATH": lambda: os.open("/proc/self/ns/mnt", os.O_PATH),
    "a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "a directory": lambda: os.open("/", os.O_RDONLY),
    "a device": lambda: os.open("/dev/null", os.O_RDONLY),
    "memory": lambda: os.memfd_create("mnt"),
    "a process": lambda: os.pidfd_open(os.getpid()),
    "a terminal": lambda: os.openpty()[0],
}


@pytest.mark.parametrize("kind", NAMESPACES)
def test_what_is_no_mount_namespace_is_refused(
    daemon: Daemon, tenant: host.User, tree: Path, kind: str
) -> None:
    opened = os.open(tree, DIRECTORY)
    found = error(as_user(tenant, lambda: ask(daemon, request_of(tree), opened, NAMESPACES[kind]())))
    os.close(opened)
    assert found["message"] == f"cannot use {tree} as the root: what came as mount namespace is none"


def in_a_namespace(work: Callable[[], Any]) -> Any:
    """What `work` returns in a child with a mount namespace of its own."""

    def there() -> Any:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount_setattr(syscalls.AT_FDCWD, "/", propagation=syscalls.MS_PRIVATE, recursive=True)
        return work()

    return as_user(0, there)


def mount_tmpfs(place: Path) -> None:
    place.mkdir()
    assert LIBC.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, None) == 0
    trees.plant(place / "tree")


def test_a_mount_that_is_attached_nowhere_is_refused(daemon: Daemon, tree: Path) -> None:
    """The kernel would clone it, since Linux 6.15."""
    clone = syscalls.open_tree(syscalls.AT_FDCWD, str(tree), syscalls.OPEN_TREE_CLONE)
    found = error(ask(daemon, request_of(tree), clone, own_namespace()))
    os.close(clone)
    assert found["message"].startswith(f"cannot use {tree} as the root: its mount is ")


def test_a_mount_that_was_taken_away_is_refused(daemon: Daemon, open_tmp: Path) -> None:
    place = open_tmp / "place"

    def gone() -> Any:
        mount_tmpfs(place)
        opened = os.open(place / "tree", DIRECTORY)
        syscalls.umount2(str(place), syscalls.MNT_DETACH)
        return ask(daemon, request_of(place), opened, own_namespace())

    assert "no longer mounted" in error(in_a_namespace(gone))["message"]


@pytest.mark.parametrize("root", [BOTH, ("rootfs",)])
def test_a_directory_of_a_third_namespace_is_refused(
    daemon: Daemon, open_tmp: Path, root: tuple[str, ...]
) -> None:
    """It is neither where the daemon is nor where its descriptor says."""
    place = open_tmp / "place"

    def third() -> Any:
        outer = own_namespace()
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount_setattr(syscalls.AT_FDCWD, "/", propagation=syscalls.MS_PRIVATE, recursive=True)
        mount_tmpfs(place)
        opened = os.open(place / "tree", DIRECTORY)
        return ask(daemon, request_of(place), opened, *[outer][: len(root) - 1], root=root)

    found = error(in_a_namespace(third))
    assert "in a mount namespace that is not its caller's" in found["message"]
    assert found["hint"] == "run dkrctl where the directory is mounted"


def test_a_deleted_directory_is_refused(daemon: Daemon, tenant: host.User, open_tmp: Path) -> None:
    place = open_tmp / "gone"
    place.mkdir()
    opened = os.open(place, DIRECTORY)
    place.rmdir()
    found = error(as_user(tenant, lambda: ask(daemon, request_of(place), opened, own_namespace())))
    os.close(opened)
    assert found["message"] == f"cannot use {place} as the root: the directory was deleted"


# --- whose they are


def test_roots_connection_does_not_make_its_files_a_tenants(daemon: Daemon, tenant: host.User) -> None:
    """A connection of root's in a tenant's hands, and the other way round: the tenant's ids are mapped, nobody else's."""
    request = request_of(
        "/etc", "/proc/self/fd/3", "sh", "-c", "read line </shadow && exit 7; read line </passwd && exit 8"
    )
    request["preserveFds"] = 2
    program = os.memfd_create("starter")
    os.write(program, trees.starter())
    busybox = os.open(trees.BUSYBOX, os.O_RDONLY)
    opened, null = os.open("/etc", DIRECTORY), os.open(os.devnull, os.O_RDWR)

    def attend(client: Client) -> Any:
        with client.session() as session:
            more = (program, busybox, opened, own_namespace())
            frame(session, request, {0: null, 1: null}, *more, root=BOTH)
            return frames_of(session)[-1]

    def whole(client: Client) -> Any:
        client.post(request)
        return attend(client)

    def leaked(work: Callable[[Client], Any], *, posted: bool) -> Any:
        roots = Client(daemon.socket)
        if posted:
            roots.post(request)
        end = as_user(tenant, lambda: work(roots))
        roots.connection.close()
        return end

    ends = [
        as_user(tenant, lambda: whole(Client(daemon.socket))),
        leaked(whole, posted=False),
        leaked(attend, posted=True),
    ]
    assert [end["exit"]["code"] for end in ends] == [8, 8, 8]
    assert whole(Client(daemon.socket))["exit"]["code"] == 7  # root's own: the probe is one
    for fd in (program, busybox, opened, null):
        os.close(fd)


def test_one_user_with_two_groups_is_refused(daemon: Daemon, tenant: host.User, tree: Path) -> None:
    """A connection goes by the effective group, a frame by the real one: a program that has two must say which it means."""
    other = next(gid for gid in tenant.groups if gid != tenant.gid)

    def ask_with_two() -> Any:
        os.setgroups(tenant.groups)
        os.setresgid(tenant.gid, other, other)
        os.setresuid(tenant.uid, tenant.uid, tenant.uid)
        return ask(daemon, request_of(tree), os.open(tree, DIRECTORY), own_namespace())

    found = error(as_user(0, ask_with_two))
    assert (found["code"], found["rule"]) == ("not-permitted", "two-callers")


# --- the errand in the caller's mount namespace

SPY = """
import os, sys
seen = 0
parent = os.getppid()
while seen < 5 and os.getppid() == parent:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as file:
                if file.read() != "dkr-errand\\n":
                    continue
        except OSError:
            continue
        seen += 1
        for name in ("root", "cwd", "exe", "fd", "mem", "environ", "maps", "ns/mnt"):
            try:
                if name in ("mem", "environ", "maps"):
                    with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
                        if not file.read(1):
                            continue  # of a process that has ended, which shows nothing
                elif name == "fd":
                    os.listdir(f"/proc/{pid}/fd")
                else:
                    os.readlink(f"/proc/{pid}/{name}")
            except OSError:
                continue
            sys.exit(f"{name} of an errand is open")
print("seen" if seen else "nothing")
"""
RUNS = """
/usr/bin/python3 -IS "$1" & spy=$!
while kill -0 $spy 2>/dev/null; do "$2" run --rm --rootfs "$3" cat /etc/motd || kill $spy; done >/dev/null
wait $spy
"""


def test_a_tenant_gets_nothing_from_the_errand_in_their_namespace(
    daemon: Daemon, tenant: host.User, tree: Path, open_tmp: Path
) -> None:
    """Root's process is for a moment in a mount namespace that the tenant's user namespace owns."""
    spy = open_tmp / "spy"
    spy.write_text(SPY)
    own = ["unshare", "--user", "--map-root-user", "--mount", "--kill-child"]
    words = ["/bin/bash", "-c", RUNS, "bash", str(spy), str(daemon.prefix / "bin/dkrctl"), str(tree)]
    done = subprocess.run(
        [*trees.as_user(tenant), *own, *words],
        env=daemon.environment(),
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "seen\n", "")
