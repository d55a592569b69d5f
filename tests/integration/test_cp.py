"""`dkrctl cp`: files and directories from a running container, and to one, by Docker's rules for where they go."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import host
from tests.integration.kept import made
from tests.reliability.support import assert_same, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon
    from tests.integration.conftest import Caller
    from tests.reliability.support import Counts

pytestmark = pytest.mark.root

BIG = 100 * 1024 * 1024  # bytes


@pytest.fixture
def web(caller: Caller, at_rest: Counts) -> Iterator[Caller]:
    """Somebody whose container `web` stands; when it is gone so is all that copied."""
    with caller.standing():
        yield caller
    assert_same(caller.daemon, at_rest)
    assert "Traceback" not in caller.daemon.log
    assert not _copying(caller)


@pytest.fixture
def here(web: Caller, open_tmp: Path) -> Path:
    """A directory of the caller's."""
    if web.user is not None:
        os.chown(open_tmp, web.user.uid, web.user.gid)
    return open_tmp


def cp(caller: Caller, *args: object, **options: object) -> subprocess.CompletedProcess[str]:
    """`dkrctl cp ARGS...`."""
    return caller.daemon.dkrctl("cp", *map(str, args), user=caller.user, **options)  # type: ignore[arg-type]


def copied(caller: Caller, *args: object, **options: object) -> str:
    """The same, which must succeed: what it said on stderr."""
    done = cp(caller, *args, check=True, **options)
    assert not done.stdout
    return done.stderr


def refused(caller: Caller, *args: object) -> str:
    """The same, which must not: what it said."""
    done = cp(caller, *args)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def inside(caller: Caller, line: str) -> str:
    """What a line of shell says in the container."""
    return str(caller.exec("web", "/bin/sh", "-c", line, check=True).stdout)


# --- from a container


def test_a_file_by_its_name_and_by_another(web: Caller, here: Path) -> None:
    inside(web, "echo words >/tmp/f; chmod 4751 /tmp/f; touch -d @1000000000 /tmp/f; echo old >/tmp/g")
    copied(web, "web:/tmp/f", here)
    copied(web, "web:tmp/f", here / "other")
    for name in ("f", "other"):
        found = (here / name).stat()
        assert (here / name).read_text() == "words\n"
        # A setuid program of a container's making would be one of whoever has copied it.
        assert (found.st_mode & 0o7777, found.st_mtime) == (0o751, 1000000000)
        assert found.st_uid == (web.user.uid if web.user else 0)
    copied(web, "web:/tmp/g", here / "f")
    assert (here / "f").read_text() == "old\n"


def test_a_directory_within_a_directory_as_another_and_by_its_contents(web: Caller, here: Path) -> None:
    inside(
        web,
        "mkdir -p /tmp/d/e; cd /tmp/d; echo 1 >e/f; ln -s /etc/passwd l; ln e/f h; mkfifo p; chmod 500 e; chmod 700 .",
    )
    copied(web, "web:/tmp/d", here / "new")
    copied(web, "web:/tmp/d", here / "new")
    (here / "there").mkdir()
    if web.user is not None:
        os.chown(here / "there", web.user.uid, web.user.gid)
    copied(web, "web:/tmp/d/.", here / "there")
    top = here / "new"
    for place in (top, top / "d", here / "there"):
        assert (place / "e" / "f").read_text() == "1\n"
        assert (place / "l").readlink() == Path("/etc/passwd")
        assert (place / "p").is_fifo()
        assert (place / "h").samefile(place / "e" / "f")
    assert (top / "d" / "e").stat().st_mode & 0o777 == 0o500


def test_what_does_not_fit_is_refused_by_name(web: Caller, here: Path) -> None:
    (here / "file").write_text("mine\n")
    assert "cannot copy a directory to" in refused(web, "web:/etc", here / "file")
    assert "no such directory" in refused(web, "web:/etc/hostname", f"{here}/none/")
    assert "cannot find /none in the container" in refused(web, "web:/none", here)
    assert "not a directory" in refused(web, "web:/etc/hostname/.", here)
    assert "one of the two, and one only" in refused(web, "/etc/passwd", here)
    assert "one of the two, and one only" in refused(web, "web:/etc", "web:/tmp")
    assert "path is empty" in refused(web, "web:", here)
    assert "cannot find" in refused(web, "nosuch:/etc", here)
    assert [path.name for path in here.iterdir()] == ["file"]
    assert (here / "file").read_text() == "mine\n"


def test_a_link_is_a_link_unless_it_is_followed(web: Caller, here: Path) -> None:
    inside(web, "echo words >/tmp/f; ln -s f /tmp/l; ln -s /tmp /opt/up 2>/dev/null || ln -s /tmp /tmp/up")
    copied(web, "web:/tmp/l", here)
    copied(web, "-L", "web:/tmp/l", here / "followed")
    assert (here / "l").readlink() == Path("f")
    assert (here / "followed").read_text() == "words\n"


def test_devices_sockets_and_the_kernels_files_are_left_out_and_told(web: Caller, here: Path) -> None:
    said = copied(web, "web:/dev/null", here / "null")
    assert "left out 1 of devices" in said
    assert not (here / "null").exists()
    assert not copied(web, "-q", "web:/dev/null", here / "null")


def test_what_the_kernel_shows_is_left_out_of_the_whole(caller: Caller) -> None:
    with caller.standing("busybox", "/bin/sleep", "600"):
        done = caller.shell("dkrctl cp web:/ - | tar t")
    names = done.stdout.splitlines()
    assert {"./", "./bin/", "./proc/", "./sys/"} <= set(names)
    assert not [name for name in names if name.startswith(("./proc/s", "./sys/k"))]
    assert "directories of the kernel's own filesystems" in done.stderr


def test_an_archive_on_standard_output(web: Caller) -> None:
    inside(web, "mkdir /tmp/d; echo words >/tmp/d/f; chown 7:8 /tmp/d/f")
    done = web.shell("dkrctl cp web:/tmp/d - | tar tv --numeric-owner")
    assert [line.split()[:2] + line.split()[5:] for line in done.stdout.splitlines()] == [
        ["drwxr-xr-x", "0/0", "d/"],
        ["-rw-r--r--", "7/8", "d/f"],
    ]


# --- to a container


def test_what_is_copied_in_belongs_to_root(web: Caller, here: Path) -> None:
    tree = here / "d"
    (tree / "e").mkdir(parents=True)
    (tree / "e" / "f").write_text("words\n")
    (tree / "e" / "f").chmod(0o4711)
    (tree / "l").symlink_to("/etc/shadow")
    os.mkfifo(tree / "p")
    if web.user is not None:
        os.chown(tree / "e" / "f", web.user.uid, -1)
        (tree / "e" / "f").chmod(0o4711)
    copied(web, tree, "web:/tmp")
    copied(web, tree, "web:/tmp/new")
    copied(web, f"{tree}/.", "web:/tmp/new/e")
    copied(web, tree / "e" / "f", "web:/tmp/g")
    look = "cd /tmp; stat -c '%a %u:%g %F' d/e/f new/e/f new/e/e/f g d/l d/p; cat g; readlink new/l"
    assert inside(web, look).splitlines() == [
        *(["4711 0:0 regular file"] * 4),
        "777 0:0 symbolic link",
        *inside(web, "stat -c '%a 0:0 fifo' /tmp/d/p").splitlines(),
        "words",
        "/etc/shadow",
    ]


def test_where_it_goes_is_resolved_inside(web: Caller, here: Path) -> None:
    (here / "f").write_text("words\n")
    inside(web, "mkdir /tmp/d; ln -s /tmp/d /tmp/up; ln -s ../../../../tmp/t /tmp/l; echo x >/tmp/file")
    copied(web, here / "f", "web:/tmp/up")
    copied(web, here / "f", "web:/tmp/l")
    assert inside(web, "cat /tmp/d/f /tmp/t") == "words\nwords\n"
    assert "no such directory" in refused(web, here / "f", "web:/tmp/none/")
    assert "cannot find /none/g in the container" in refused(web, here / "f", "web:/none/g")
    assert "cannot copy a directory to /tmp/file" in refused(web, here, "web:/tmp/file")


def test_a_directory_and_a_file_do_not_take_each_others_place(web: Caller, here: Path) -> None:
    (here / "x" / "y").mkdir(parents=True)
    inside(web, "mkdir -p /tmp/x; echo old >/tmp/x/y")
    assert "something else is there" in refused(web, here / "x", "web:/tmp")
    inside(web, "rm /tmp/x/y; ln -s /etc /tmp/x/y")
    (here / "x" / "y" / "passwd").write_text("mine\n")
    assert "something else is there" in refused(web, here / "x", "web:/tmp")
    assert inside(web, "cat /etc/passwd") != "mine\n"


def test_an_archive_from_standard_input(web: Caller, here: Path) -> None:
    (here / "f").write_text("words\n")
    done = web.shell(
        f"tar c --owner=7 --group=8 -C {here} f | dkrctl cp - web:/tmp && tar c -C {here} f | dkrctl cp - web:/none"
    )
    assert done.returncode == 1
    assert "cannot find /none in the container" in done.stderr
    done = web.shell(
        f"tar c --owner=7 --group=8 -C {here} --transform 's/f/g/' f | dkrctl cp -a - web:/tmp; echo no | dkrctl cp - web:/tmp"
    )
    assert "it is cut off" in done.stderr
    assert inside(web, "cd /tmp; stat -c '%n %u:%g' f g; cat g") == "f 0:0\ng 7:8\nwords\n"


def test_uids_are_kept_where_it_is_asked_for(web: Caller, here: Path) -> None:
    inside(web, "echo words >/tmp/f; chown 7:8 /tmp/f")
    done = cp(web, "-a", "web:/tmp/f", here)
    if web.user is None:
        assert ((here / "f").stat().st_uid, (here / "f").stat().st_gid) == (7, 8)
    else:
        assert done.returncode == 1
        assert "cannot give f to 7:8" in done.stderr
        assert not list(here.iterdir())
        return
    copied(web, "-a", here / "f", "web:/tmp/g")
    assert inside(web, "stat -c %u:%g /tmp/g") == "7:8\n"


# --- large, slow, interrupted


def test_a_large_file_and_one_of_holes(web: Caller, here: Path) -> None:
    inside(web, f"head -c {BIG} /dev/urandom >/tmp/big; truncate -s 3G /tmp/holes; echo end >>/tmp/holes")
    copied(web, "web:/tmp/big", here)
    copied(web, here / "big", "web:/tmp/back")
    assert inside(web, "cmp /tmp/big /tmp/back && echo same") == "same\n"
    copied(web, "web:/tmp/holes", here)
    found = (here / "holes").stat()
    assert found.st_size == 3 * 1024**3 + 4
    assert found.st_blocks * 512 < 1024**2
    with (here / "holes").open("rb") as file:
        file.seek(-4, os.SEEK_END)
        assert file.read() == b"end\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_client_that_is_ended_leaves_no_half_of_a_file_inside(web: Caller, here: Path, number: int) -> None:
    os.mkfifo(here / "feed")
    client = web.popen_shell(f"exec dkrctl cp - web:/tmp <{here}/feed")
    with (here / "feed").open("wb", 0) as feed:
        data = subprocess.run(["/bin/tar", "c", "/usr/bin/perl"], capture_output=True, check=True).stdout
        feed.write(data[: len(data) // 2])
        eventually(lambda: inside(web, "ls /tmp").strip() == "usr", "it has begun")
        client.send_signal(number)
        assert client.wait() == -number
    client.communicate()
    eventually(lambda: not _copying(web), "no process copies any more")
    assert inside(web, "find /tmp -type f") == ""


def test_ctrl_c_leaves_no_half_of_a_file_here(web: Caller, here: Path) -> None:
    inside(web, "truncate -s 1T /tmp/holes")
    client = web.popen_shell(f"exec dkrctl cp web:/tmp/holes {here}")
    eventually(lambda: (here / "holes").exists(), "it has begun")
    client.send_signal(signal.SIGINT)
    assert client.wait() == -signal.SIGINT
    client.communicate()
    assert not list(here.iterdir())
    eventually(lambda: not _copying(web), "no process copies any more")


def test_a_container_that_ends_ends_what_is_copied(caller: Caller, open_tmp: Path) -> None:
    os.mkfifo(open_tmp / "feed")
    with caller.standing():
        client = caller.popen_shell(f"exec dkrctl cp - web:/tmp <{open_tmp}/feed", text=True)
        with (open_tmp / "feed").open("wb", 0):
            eventually(lambda: any(map(_is_inside, _copying(caller))), "it has begun")
            caller.daemon.dkrctl("kill", "web", user=caller.user, check=True)
            _, said = client.communicate()
    assert client.returncode == 1
    assert "it has ended" in said
    assert not _copying(caller)


def test_the_process_that_copies_is_killed(web: Caller, here: Path) -> None:
    os.mkfifo(here / "feed")
    client = web.popen_shell(f"exec dkrctl cp - web:/tmp <{here}/feed", text=True)
    with (here / "feed").open("wb", 0):
        eventually(lambda: _copying(web), "it has begun")
        host.kill(_copying(web)[0])
        _, said = client.communicate()
    assert client.returncode == 1
    assert "the process that copies was killed" in said


def test_a_full_disk_is_told(caller: Caller, open_tmp: Path) -> None:
    (open_tmp / "f").write_bytes(os.urandom(2 * 1024**2))
    with caller.standing("--tmpfs", "/small:size=1m", "/bin/sleep", "600"):
        assert "no space left on device" in refused(caller, open_tmp / "f", "web:/small")
        assert inside(caller, "ls /small") == ""


# --- who may, and when


def test_another_users_container_is_not_there(
    caller: Caller, other_tenant: host.User, open_tmp: Path
) -> None:
    with caller.standing():
        done = caller.daemon.dkrctl("cp", "web:/etc", str(open_tmp), user=other_tenant)
    assert done.returncode == 1
    assert "cannot find" in done.stderr


def test_one_that_is_paused_is_refused_by_name(daemon: Daemon, root: Caller, open_tmp: Path) -> None:
    with made(daemon, "/bin/sleep", "600", name="web"):
        daemon.dkrctl("pause", "web", check=True)
        assert "it is paused" in refused(root, "web:/etc", open_tmp)


def _copying(caller: Caller) -> list[host.Process]:
    return [process for process in caller.daemon.processes() if process.comm == "dkr-copy"]


def _is_inside(process: host.Process) -> bool:
    """Whether it has come to where the container is: one that has not when that ends has another reason to give up."""
    own, guardians = (os.readlink(f"/proc/{pid}/ns/mnt") for pid in (process.pid, process.parent))
    return own != guardians
