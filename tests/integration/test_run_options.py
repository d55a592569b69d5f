"""Every option of `dkrctl run` about the process and its root, seen from inside."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENV = "/usr/bin/env"


def variables(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


# Environment


def test_the_environment_is_the_containers_own(caller: Caller) -> None:
    printed = caller.output(ENV, env={"SECRET": "1", "TERM": "dumb", "HOME": "/home/caller"})
    assert variables(printed) == {"PATH": PATH, "HOSTNAME": "container", "HOME": "/root"}


def test_home_is_the_users(root: Caller) -> None:
    assert variables(root.output("-u", "12345:1", ENV))["HOME"] == "/"
    assert variables(root.output("-u", "www-data", ENV))["HOME"] == "/var/www"
    assert variables(root.output("-u", "www-data", "-e", "HOME=/mine", ENV))["HOME"] == "/mine"


def test_variables(caller: Caller) -> None:
    options = (
        "-e",
        "A=1",
        "--env",
        "EMPTY=",
        "-e",
        "MINE",
        "-e",
        "NOT_SET",
        "-eB=a=b c",
        "-e",
        "PATH=/usr/bin",
        "-e",
        "A=2",
    )
    printed = variables(caller.output(*options, ENV, env={"MINE": "from here\u00e4"}))
    assert {k: v for k, v in printed.items() if k not in ("HOSTNAME", "HOME")} == {
        "A": "2",
        "EMPTY": "",
        "MINE": "from here\u00e4",
        "B": "a=b c",
        "PATH": "/usr/bin",
    }


def test_variables_from_files(caller: Caller, open_tmp: Path) -> None:
    (open_tmp / "first").write_bytes(
        b'\xef\xbb\xbf# a comment\r\n\r\n  INDENTED=in dented \nQUOTED="as is"\nMINE\nNOT_SET\nHASH=a#b\nEMPTY=\nBOTH=first\nOVER=file\n'
    )
    (open_tmp / "second").write_text("BOTH=second")
    files = ("--env-file", f"{open_tmp}/first", "--env-file", f"{open_tmp}/second")
    printed = variables(caller.output("-e", "OVER=option", *files, ENV, env={"MINE": "mine"}))
    assert {k: v for k, v in printed.items() if k not in ("HOSTNAME", "HOME", "PATH")} == {
        "INDENTED": "in dented ",
        "QUOTED": '"as is"',
        "MINE": "mine",
        "HASH": "a#b",
        "EMPTY": "",
        "BOTH": "second",
        "OVER": "option",
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file or directory"),
        (b"=x\n", "the variable has no name"),
        (b"ok=1\na b=x\n", "the name 'a b' holds white space"),
        (b"a=\xff\n", "it is not UTF-8"),
        (b"a=\0\n", "it holds a NUL"),
    ],
)
def test_files_of_variables_that_cannot_be(
    root: Caller, open_tmp: Path, content: bytes | None, said: str
) -> None:
    if content is not None:
        (open_tmp / "file").write_bytes(content)
    done = root.run("--env-file", f"{open_tmp}/file", "/bin/true")
    assert done.returncode == 125
    assert said in done.stderr


def test_arguments_arrive_as_they_are(caller: Caller) -> None:
    words = ["", " ", "a b", "--rm", "-e", "*", "$HOME", "\n", "'\"\\", "\u00e4\u20ac\U0001f40b"]
    assert caller.output("/usr/bin/printf", "%s\\0", *words) == "".join(f"{word}\0" for word in words)


def test_the_entrypoint_comes_first(root: Caller) -> None:
    assert root.output("--entrypoint", "/bin/echo", "/a", "b") == "/a b\n"
    assert root.output("--entrypoint", "", "/bin/echo", "b") == "b\n"


def test_a_command_without_a_slash_is_searched_for(root: Caller) -> None:
    assert root.output("--entrypoint", "echo", "/found") == "/found\n"
    done = root.run("--entrypoint", "echo", "-e", "PATH=/nowhere", "/found")
    assert (done.returncode, "it is in no directory of PATH (/nowhere)" in done.stderr) == (127, True)


def test_the_default_root_can_be_named(root: Caller) -> None:
    assert root.output("host", "/bin/echo", "hello") == "hello\n"


# User and directory


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ((), "0 0 0"),
        (("-u", "1234:4321"), "1234 4321 4321"),
        (("--user", "1234"), "1234 0 0"),
        (("-u", "daemon"), "1 1 1"),
        (("-u", "daemon:mail"), "1 8 8"),
        (("-u", "1"), "1 1 1"),
        (("-u", "nobody:0"), "65534 0 0"),
        (("-u", "65535:65535"), "65535 65535 65535"),
    ],
)
def test_the_user(caller: Caller, options: tuple[str, ...], ids: str) -> None:
    assert caller.output(*options, "/bin/sh", "-c", "echo $(id -u) $(id -g) $(id -G)").strip() == ids


def test_only_root_inside_has_capabilities(root: Caller) -> None:
    show = ("/bin/grep", "CapEff", "/proc/self/status")
    assert root.output(*show) != root.output("-u", "1:1", *show)
    assert int(root.output("-u", "1:1", *show).split()[1], 16) == 0


def test_the_working_directory(caller: Caller) -> None:
    assert caller.output("/bin/pwd") == "/\n"
    assert caller.output("-w", "/usr/bin", "/bin/pwd") == "/usr/bin\n"
    assert caller.output("--workdir", "/usr/../usr//lib/", "/bin/pwd") == "/usr/lib\n"


# Host name


def test_the_host_name(caller: Caller) -> None:
    show = "hostname; cat /etc/hostname; echo $HOSTNAME; getent hosts $HOSTNAME | tr -s ' '"
    assert caller.output("/bin/sh", "-c", show).split() == [*["container"] * 3, "127.0.1.1", "container"]
    for option in ("-h", "--hostname"):
        assert caller.output(option, "box.example", "/bin/sh", "-c", show).split() == [
            *["box.example"] * 3,
            "127.0.1.1",
            "box.example",
        ]
    assert os.uname().nodename not in ("container", "box.example")


# The root


def test_what_a_run_writes_only_it_sees(caller: Caller) -> None:
    assert caller.output("/bin/sh", "-c", "echo note >/srv/note; cat /srv/note") == "note\n"
    assert caller.run("/bin/ls", "/srv/note").returncode == 2


def test_a_read_only_root(caller: Caller) -> None:
    touch = "for place in / /tmp /etc /var; do touch $place/new && echo wrote $place; done; touch /dev/shm/new && echo shm"
    done = caller.run("--read-only", "/bin/sh", "-c", touch)
    assert (done.stdout, done.stderr.count("Read-only file system")) == ("shm\n", 4)
    assert caller.run("/bin/sh", "-c", touch).stdout.count("wrote") == 4


def test_a_filesystem_in_memory(caller: Caller) -> None:
    script = "stat -f -c '%T %b %S' /scratch; stat -c '%a %u %g' /scratch; grep ' /scratch ' /proc/mounts"
    kind, mode, mount = caller.output("--tmpfs", "/scratch", "/bin/sh", "-c", script).splitlines()
    assert (kind.split()[0], mode) == ("tmpfs", "1777 0 0")
    assert {"nosuid", "nodev", "noexec", "rw"} <= set(mount.split()[3].split(","))
    options = "/scratch:size=1m,mode=700,exec,uid=5,gid=6,nr_inodes=20"
    kind, mode, mount = caller.output("--tmpfs", options, "/bin/sh", "-c", script).splitlines()
    name, blocks, size = kind.split()
    assert (name, int(blocks) * int(size), mode) == ("tmpfs", 1024 * 1024, "700 5 6")
    assert "noexec" not in mount.split()[3].split(",")
    assert "nr_inodes=20" in mount.split()[3].split(",")


def test_a_filesystem_in_memory_is_bounded_and_alone_writable(caller: Caller) -> None:
    script = "head -c 2m /dev/zero >/scratch/much; stat -c %s /scratch/much; touch /new; touch /a/b/c/new && echo made"
    done = caller.run(
        "--read-only",
        "--tmpfs",
        "/scratch:size=1m",
        "--tmpfs",
        "/tmp",
        "/bin/sh",
        "-c",
        script.replace("/a/b/c", "/tmp"),
    )
    assert done.stdout == f"{1024 * 1024}\nmade\n"
    assert "No space left on device" in done.stderr
    assert "cannot touch '/new': Read-only file system" in done.stderr
    assert (
        caller.output("--tmpfs", "/a/b/c", "/bin/sh", "-c", script.partition("touch /new; ")[2]) == "made\n"
    )


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("relative", "relative is not absolute"),
        ("/x:size=many", "'many' is no value for size"),
        ("/x:dev", "no option 'dev' is known"),
        ("/proc/x", "nothing is mounted at or below /proc, /sys and /dev"),
        ("/a/../etc", "holds .."),
        ("/", "the root itself cannot be mounted over"),
    ],
)
def test_filesystems_in_memory_that_cannot_be(root: Caller, word: str, said: str) -> None:
    done = root.run("--tmpfs", word, "/bin/true")
    assert done.returncode == 125
    assert said in done.stderr


# Namespaces

SCOPES = {
    "pid": "pid",
    "ipc": "ipc",
    "uts": "uts",
    "cgroupns": "cgroup",
    "network": "net",
    "net": "net",
    "userns": "user",
}
LINKS = ("pid", "ipc", "uts", "cgroup", "net", "user", "time", "mnt")


def spaces(caller: Caller, *options: str) -> dict[str, str]:
    printed = caller.output(*options, "/usr/bin/readlink", *(f"/proc/self/ns/{link}" for link in LINKS))
    return dict(zip(LINKS, printed.split(), strict=True))


def shared(caller: Caller, *options: str) -> set[str]:
    return {
        link
        for link, space in spaces(caller, *options).items()
        if space == os.readlink(f"/proc/self/ns/{link}")
    }


def test_every_namespace_is_the_containers_own(caller: Caller) -> None:
    assert shared(caller) == {"time"}
    private = [word for option in SCOPES for word in (f"--{option}", "private")]
    assert shared(caller, *private, "--timens", "private") == set()


@pytest.mark.parametrize("option", SCOPES)
def test_a_namespace_of_the_host(root: Caller, option: str) -> None:
    assert shared(root, f"--{option}", "host") == {SCOPES[option], "time"}


def test_all_of_the_host(root: Caller) -> None:
    every = [word for option in SCOPES for word in (f"--{option}", "host")]
    assert shared(root, *every, "--timens", "host") == {*LINKS} - {"mnt"}


@pytest.mark.parametrize("option", SCOPES)
def test_no_tenant_gets_a_namespace_of_the_host(
    root: Caller, request: pytest.FixtureRequest, option: str
) -> None:
    done = root.daemon.dkrctl(
        "run", "--rm", f"--{option}", "host", "/bin/true", user=request.getfixturevalue("tenant")
    )
    assert done.returncode == 125
    assert "rule:" in done.stderr


def test_the_hosts_name_cannot_be_set(root: Caller) -> None:
    assert root.output("--uts", "host", "/bin/hostname").strip() == os.uname().nodename
    done = root.run("--uts", "host", "--hostname", "box", "/bin/true")
    assert done.returncode == 125
    assert "the container has the UTS namespace of the host" in done.stderr
