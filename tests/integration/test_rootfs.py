"""`dkrctl run --rootfs DIR COMMAND`: in a tree of the caller's own, which no run changes."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests import trees
from tests.integration.terminals import Terminal
from tests.sessions import Client, Refused

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host import User
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root


@pytest.fixture
def tree(open_tmp: Path, caller: Caller) -> Path:
    return trees.plant(open_tmp / "tree", caller.user)


def refused(done: subprocess.CompletedProcess[Any], message: str) -> None:
    """It was, with this message and a way out, and nothing ran."""
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.splitlines()[0] == f"dkrctl: {message}"


# --- the command line


def test_all_words_are_the_command(caller: Caller, tree: Path) -> None:
    """None of them is an image: `busybox` is the program of the tree."""
    assert caller.output("--rootfs", str(tree), "cat", "/etc/motd") == "a tree\n"
    assert caller.output("--rootfs", str(tree), "busybox", "echo", "host") == "host\n"
    assert caller.output("--rootfs", str(tree), "/bin/echo", "x") == "x\n"
    assert caller.output(f"--rootfs={tree}", "--entrypoint", "echo", "host", "x") == "host x\n"


def test_the_directory_may_be_named_in_any_way(caller: Caller, tree: Path) -> None:
    (tree.parent / "link").symlink_to("tree")
    (tree.parent / "a b").mkdir()
    ways = [
        "tree",
        "./tree",
        "tree/",
        "link",
        f"{tree}/",
        f"{tree.parent}/./a b/../tree",
        str(tree.parent / "link"),
    ]
    for way in ways:
        assert caller.output("--rootfs", way, "cat", "/etc/motd", cwd=str(tree.parent)) == "a tree\n"
    assert caller.output("--rootfs", ".", "cat", "/etc/motd", cwd=str(tree)) == "a tree\n"
    assert caller.output("--rootfs", "/nosuch", "--rootfs", str(tree), "cat", "/etc/motd") == "a tree\n"


@pytest.mark.parametrize(
    "name", ["with blanks", "ünïcode", "quo'te\"s", "back\\slash", "new\nline", "colon:s,comma", "-dash"]
)
def test_a_directory_may_have_any_name(caller: Caller, tree: Path, name: str) -> None:
    """mountinfo escapes some characters, overlay's options would split at others."""
    tree.rename(tree.parent / name)
    assert caller.output("--rootfs", str(tree.parent / name), "cat", "/etc/motd") == "a tree\n"


def test_a_directory_that_only_its_owner_can_enter(caller: Caller, tree: Path) -> None:
    """As mktemp(1) makes them. Inside everybody may enter the root: its directory is the container's own."""
    tree.chmod(0o700)
    assert caller.output("--rootfs", str(tree), "-u", "7:7", "cat", "/etc/motd") == "a tree\n"
    assert caller.output("--rootfs", str(tree), "stat", "-c", "%a %u:%g", "/") == "755 0:0\n"


def test_the_descriptor_counts_not_the_name(caller: Caller, tree: Path) -> None:
    """A shell passes a directory that is found by no name the daemon could resolve."""
    line = 'exec dkrctl run --rm --rootfs /proc/self/fd/9 cat /etc/motd 9<"$1"'
    done = caller.shell(line, str(tree))
    assert (done.stdout, done.stderr, done.returncode) == ("a tree\n", "", 0)


FAILURES = {
    "missing": ("/nosuch/tree", "cannot use /nosuch/tree as the root: there is no such directory"),
    "empty": ("", "cannot use --rootfs: it is empty"),
    "a file": ("{tree}/etc/motd", "cannot use {tree}/etc/motd as the root: it is not a directory"),
    "below a file": ("{tree}/etc/motd/x", "cannot use {tree}/etc/motd/x as the root: it is not a directory"),
    "a device": ("/dev/null", "cannot use /dev/null as the root: it is not a directory"),
    "a dangling link": (
        "{tree}/../dangling",
        "cannot use {tree}/../dangling as the root: it is a symbolic link that leads nowhere",
    ),
    "a loop": ("{tree}/../loop", "cannot use {tree}/../loop as the root: too many levels of symbolic links"),
    "too long": ("/" + "x" * 300, "cannot use /" + "x" * 300 + " as the root: file name too long"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_cannot_be_opened_says_why(caller: Caller, tree: Path, name: str) -> None:
    (tree.parent / "dangling").symlink_to("nothing")
    (tree.parent / "loop").symlink_to("loop")
    given, message = FAILURES[name]
    done = caller.run("--rootfs", given.format(tree=tree), "cat", "/etc/motd")
    refused(done, message.format(tree=tree))


def test_what_the_caller_may_not_reach_cannot_be_opened(root: Caller, tenant: User, open_tmp: Path) -> None:
    closed = open_tmp / "closed"
    trees.plant(closed / "tree")
    closed.chmod(0o700)
    done = root.daemon.dkrctl("run", "--rm", "--rootfs", f"{closed}/tree", "cat", "/etc/motd", user=tenant)
    refused(done, f"cannot use {closed}/tree as the root: permission denied")
    assert root.output("--rootfs", f"{closed}/tree", "cat", "/etc/motd") == "a tree\n"


def test_a_command_is_wanted(caller: Caller, tree: Path) -> None:
    done = caller.run("--rootfs", str(tree))
    refused(done, "cannot run a container: there is no command")
    assert "--rootfs DIR" in done.stderr


def test_a_name_that_is_no_utf8_is_refused(caller: Caller, tree: Path) -> None:
    done = caller.run("--rootfs", "/tmp/\udcff", "cat", "/etc/motd")
    refused(done, "cannot pass --rootfs '/tmp/\\udcff': it is not UTF-8")


def test_as_many_descriptors_as_one_message_carries(caller: Caller, tree: Path) -> None:
    line = (
        'for n in {3..250}; do eval "exec $n</dev/null"; done; exec dkrctl run --rm --preserve-fds "$2" --rootfs "$1" '
        "sh -c 'ls /proc/self/fd | grep -c .'"
    )
    done = caller.shell(line, str(tree), "248")
    assert (done.stdout, done.stderr) == ("252\n", "")  # 0-2, those, and the directory that ls reads
    done = caller.shell(line, str(tree), "249")
    assert "cannot take --preserve-fds 249: it takes a whole number from 0 to 248" in done.stderr


# --- what it is inside


def test_the_tree_stays_as_it_is(caller: Caller, tree: Path) -> None:
    before = trees.listing(tree)
    spoil = (
        "echo x >>/etc/motd; rm /etc/passwd; mv /bin/cat /bin/tac; mkdir /new; touch /new/file /bin/sh; chmod 700 /bin; "
        "chown 5:5 /bin/busybox; ln -s x /link; grep x /etc/motd; ls /new"
    )
    assert caller.output("--rootfs", str(tree), "sh", "-c", spoil) == "x\nfile\n"
    assert trees.listing(tree) == before
    assert caller.output("--rootfs", str(tree), "ls", "/").split() == ["bin", "dev", "etc", "proc", "sys"]


def test_two_containers_share_a_tree_and_nothing_else(caller: Caller, tree: Path) -> None:
    line = "echo $0 >/etc/mine; echo up; read word; cat /etc/mine"
    with (
        caller.popen("--rootfs", str(tree), "sh", "-c", line, "one") as first,
        caller.popen("--rootfs", str(tree), "sh", "-c", line, "two") as second,
    ):
        for client in (first, second):
            assert client.stdout is not None
            assert client.stdout.readline() == b"up\n"
        assert [client.communicate(b"\n")[0] for client in (first, second)] == [b"one\n", b"two\n"]


def test_root_inside_owns_what_is_the_callers(caller: Caller, tree: Path) -> None:
    assert (
        caller.output("--rootfs", str(tree), "stat", "-c", "%u:%g", "/bin/busybox", "/etc", "/")
        == "0:0\n" * 3
    )


def test_an_administrators_ids_are_those_of_the_host(
    root: Caller, admin: User, tenant: User, open_tmp: Path
) -> None:
    tree = trees.plant(open_tmp / "tree")
    owners = {"zero": (0, 0), "five": (5, 6), "tenant": (tenant.uid, tenant.gid), "beyond": (70000, 70000)}
    for name, (uid, gid) in owners.items():
        (tree / name).touch()
        os.chown(tree / name, uid, gid)
    expected = f"0:0\n5:6\n{tenant.uid}:{tenant.gid}\n65534:65534\n"
    for user in (None, admin):
        done = root.daemon.run(
            "--rootfs", str(tree), "stat", "-c", "%u:%g", *(f"/{name}" for name in owners), user=user
        )
        assert done.stdout == expected
        done = root.daemon.run(
            "--userns", "host", "--rootfs", str(tree), "stat", "-c", "%u:%g", "/beyond", user=user
        )
        assert done.stdout == "70000:70000\n"


def test_the_options_of_run_are_those_of_any_root(caller: Caller, tree: Path) -> None:
    run = ("--rootfs", str(tree))
    assert caller.output(*run, "-u", "guest", "sh", "-c", "id -u; echo $HOME") == "7\n/\n"
    assert caller.output(*run, "-w", "/etc", "-e", "A=b", "sh", "-c", "pwd; echo $A") == "/etc\nb\n"
    assert caller.output(*run, "--init", "sh", "-c", "echo $PPID") == "1\n"
    line = "touch /new 2>/dev/null || touch /scratch/new && ls /scratch"
    assert caller.output(*run, "--read-only", "--tmpfs", "/scratch", "sh", "-c", line) == "new\n"
    assert caller.run(*run, "sh", "-c", "exit 3").returncode == 3
    done = caller.run(*run, "nosuch")
    assert (done.returncode, "cannot run 'nosuch'" in done.stderr) == (127, True)
    done = caller.run(*run, "-u", "nosuch", "id")
    assert "there is no user 'nosuch' in the container's /etc/passwd" in done.stderr


def test_an_interactive_shell(caller: Caller, tree: Path) -> None:
    with Terminal(caller) as terminal:
        terminal.run("--rootfs", str(tree), "sh")
        terminal.type("cat /etc/motd; exit 4\n")
        terminal.until("a tree")
        assert terminal.status() == 4


def test_a_stopped_container_says_where_its_root_was(caller: Caller, tree: Path) -> None:
    name = f"rooted-{caller.uid}"
    done = caller.daemon.dkrctl(
        "run", "--name", name, "--rootfs", str(tree), "sh", "-c", "exit 0", user=caller.user
    )
    assert done.returncode == 0
    assert caller.ended(name)["image"] == str(tree)
    assert caller.daemon.dkrctl("rm", name, user=caller.user).returncode == 0


def test_the_plan_tells_of_the_root_and_makes_nothing(caller: Caller, tree: Path) -> None:
    words = ("--dry-run", "--format", "json", "--rootfs", str(tree), "cat", "/etc/motd")
    plan = json.loads(caller.output(*words))
    assert plan["root"] == {"name": str(tree), "readonly": False}
    [call] = [entry["call"] for entry in plan["mounts"] if entry["step"] == "attach root"]
    own = caller.user
    mapping = "its user namespace" if own is None else f"one that maps {own.uid}:{own.gid} to 0:0"
    assert f"userns_fd={mapping}" in call
    done = caller.run("--dry-run", "--rootfs", "/nosuch", "cat")
    assert "cannot use /nosuch as the root: there is no such directory" in done.stderr


def test_the_record_tells_of_the_root(caller: Caller, tree: Path) -> None:
    """From a mount namespace of the client's own, too: there an errand fetches it."""
    words = ("--explain", "--format", "json", "--rootfs", str(tree), "cat", "/etc/motd")
    for setup in ("", "true"):
        done = trees.run(caller.daemon, *words, user=caller.user, setup=setup)
        assert done.stdout == "a tree\n"
        steps = {step["name"]: step for step in json.loads(done.stderr)["steps"]}
        assert ("setns(mntns, CLONE_NEWNS)" in steps["clone root"]["call"]) == bool(setup)
        assert steps["attach root"]["process"] == "helper"
        assert "layers" not in steps


def test_over_plain_http_there_is_none(root: Caller, open_tmp: Path) -> None:
    """Nobody but the client can open it in the client's place."""
    tree = trees.plant(open_tmp / "tree")
    body = {"args": ["cat", "/etc/motd"], "rootfs": str(tree)}
    command = ["curl", "--silent", "--unix-socket", str(root.daemon.socket), "--json", json.dumps(body)]
    done = subprocess.run([*command, "http://dkr/v1/run"], check=True, capture_output=True, text=True)
    problem = json.loads(done.stdout)
    assert (problem["status"], problem["code"]) == (400, "bad-request")
    assert problem["fields"] == [
        {"path": "rootfs", "message": "cannot be passed over plain HTTP: use dkrctl, or a session"}
    ]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"image": "busybox"}, "rootfs"),
        ({"rootfs": "relative"}, "rootfs"),
        ({"rootfs": ""}, "rootfs"),
        ({"rootfs": None}, "rootfs"),
        ({"preserveFds": 249}, "preserveFds"),
    ],
)
def test_what_fits_no_rootfs_is_refused_by_its_path(root: Caller, change: dict[str, Any], path: str) -> None:
    with Client(root.daemon) as client:
        with pytest.raises(Refused) as refusal:
            client.post("/v1/run", {"args": ["x"], "rootfs": "/x", "rm": True, **change})
        assert refusal.value.status == 400
        assert [fault["path"] for fault in refusal.value.error["fields"]] == [path]
