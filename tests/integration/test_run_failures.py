"""What cannot be run says why, each thing with a message and a status of its own (Docker's: 125, 126, 127), and leaves nothing."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

FOREIGN = 183 if os.uname().machine != "aarch64" else 62  # e_machine of elf(5)
ELF = (
    b"\x7fELF\x02\x01\x01"
    + bytes(9)
    + b"\x02\0"
    + FOREIGN.to_bytes(2, "little")
    + b"\x01\0\0\0"
    + bytes(8)
    + b"\x40".ljust(16, b"\0")
)
ELF += bytes(4) + b"\x40\0\x38\0\0\0\x40\0\0\0\0\0"

FAILURES = {
    "no such file": (("/bin/nosuch",), 127, "cannot run '/bin/nosuch': no such file or directory"),
    "no such directory": (("/no/such",), 127, "cannot run '/no/such': no such file or directory"),
    "below a file": (("/etc/passwd/x",), 127, "cannot run '/etc/passwd/x': not a directory"),
    "not in PATH": (
        ("--entrypoint", "nosuch", "/x"),
        127,
        "cannot run 'nosuch': it is in no directory of PATH (/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)",
    ),
    "not executable": (("/etc/passwd",), 126, "cannot run '/etc/passwd': permission denied"),
    "a directory": (("/usr",), 126, "cannot run '/usr': permission denied"),
    "bad directory": (
        ("-w", "/nosuch", "/bin/true"),
        126,
        "cannot change to the working directory /nosuch: no such file or directory",
    ),
    "a file as directory": (
        ("-w", "/etc/passwd", "/bin/true"),
        126,
        "cannot change to the working directory /etc/passwd: not a directory",
    ),
    "no such user": (
        ("-u", "nosuch", "/bin/true"),
        125,
        "cannot run as 'nosuch': there is no user 'nosuch' in the container's /etc/passwd",
    ),
    "no such group": (
        ("-u", "0:nosuch", "/bin/true"),
        125,
        "cannot run as '0:nosuch': there is no group 'nosuch' in the container's /etc/group",
    ),
    "no such image": (
        ("nosuch", "/bin/true"),
        125,
        'cannot find image "nosuch": no root of this name is known',
    ),
    "no such option": (
        ("--nosuch", "/bin/true"),
        125,
        "cannot take option --nosuch: there is no such option",
    ),
    "no such signal": (
        ("--stop-signal", "SIGNOSUCH", "/bin/true"),
        125,
        "cannot take --stop-signal SIGNOSUCH: no signal is named 'SIGNOSUCH'",
    ),
    "no such length of time": (
        ("--timeout", "soon", "/bin/true"),
        125,
        "cannot take --timeout soon: it is no length of time",
    ),
    "a length of time without end": (
        ("--timeout", "9" * 400, "/bin/true"),
        125,
        f"cannot take --timeout {'9' * 80}…: it is not less than 1e+09 seconds",
    ),
    "the same of a probe's": (
        ("--health-cmd", "true", "--health-interval", "9" * 400, "/bin/true"),
        125,
        f"cannot take --health-interval {'9' * 80}…: it is not less than 1e+09 seconds",
    ),
    "no such scope": (
        ("--pid", "container:x", "/bin/true"),
        125,
        "cannot take --pid container:x: it takes private or host",
    ),
    "a bad name": (
        ("--name", "-x", "/bin/true"),
        125,
        "cannot take --name -x: it is no name: 1 to 128 of letters, digits, _ . - are wanted, a letter or digit first",
    ),
    "a relative directory": (
        ("-w", "here", "/bin/true"),
        125,
        "cannot take --workdir here: it is not absolute: a path that begins with / is wanted",
    ),
    "an id beyond the range": (
        ("-u", "65536", "/bin/true"),
        125,
        "cannot take --user 65536: 65536 is not within 0 and 65535: a container has 65536 ids",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_has_its_message_and_status(caller: Caller, name: str) -> None:
    args, status, message = FAILURES[name]
    done = caller.run(*args)
    assert done.stderr.splitlines()[0] == f"dkrctl: {message}"
    assert (done.returncode, done.stdout) == (status, "")


@pytest.mark.parametrize("words", ["", "--rm", "host"])
def test_a_command_is_wanted(root: Caller, words: str) -> None:
    done = root.daemon.dkrctl("run", *words.split())
    assert done.returncode == 125
    assert done.stderr.startswith("dkrctl: cannot run")


PROGRAMS = {
    "another machine": (ELF, 126, "it is a program for another machine"),
    "no interpreter": (b"#!/no/such -x\n", 127, "its interpreter /no/such is not in the container"),
    "no format": (b"just text\n", 126, "it is neither a program of this machine nor a script with a #! line"),
    "empty": (b"", 126, "it is neither a program of this machine nor a script with a #! line"),
    "a malformed first line": (b"#!\n", 126, "its #! line is malformed"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_that_cannot_be_executed(root: Caller, open_tmp: Path, name: str) -> None:
    """The program comes along as a descriptor: nothing of the caller's files is in the default root."""
    content, status, said = PROGRAMS[name]
    (open_tmp / "program").write_bytes(content)
    (open_tmp / "program").chmod(0o755)
    done = root.shell(f"exec dkrctl run --rm --preserve-fds 1 /proc/self/fd/3 3<{open_tmp}/program")
    assert done.stderr.startswith(f"dkrctl: cannot run '/proc/self/fd/3': {said}")
    assert done.returncode == status


def test_a_program_as_a_descriptor_can_be_executed(root: Caller, open_tmp: Path) -> None:
    (open_tmp / "program").write_text("#!/bin/sh\necho it works\n")
    (open_tmp / "program").chmod(0o755)
    done = root.shell(f"exec dkrctl run --rm --preserve-fds 1 /proc/self/fd/3 3<{open_tmp}/program")
    assert (done.stdout, done.returncode) == ("it works\n", 0)


def test_an_environment_that_is_too_long(root: Caller, open_tmp: Path) -> None:
    """By a file: the command line itself could not be longer than what the command may get."""
    (open_tmp / "env").write_text("".join(f"V{i}={'x' * 100_000}\n" for i in range(25)))
    done = root.run("--env-file", f"{open_tmp}/env", "/bin/true")
    assert done.returncode == 125
    assert "argument list too long" in done.stderr


def test_a_failed_start_leaves_nothing(caller: Caller) -> None:
    """Also without --rm: there is nothing to look at, and the name is free again at once. The test would hang if one stayed."""
    for _ in range(3):
        done = caller.daemon.dkrctl("run", "--name", "failed", "/bin/nosuch", user=caller.user)
        assert (done.returncode, done.stderr.splitlines()[0]) == (
            127,
            "dkrctl: cannot run '/bin/nosuch': no such file or directory",
        )
    assert caller.output("--name", "failed", "/bin/echo", "free") == "free\n"
    while any(container["name"] == "failed" for container in caller.containers()):
        select.select([], [], [], 0.01)  # the last one, which has run, is being removed


def test_a_refused_request_leaves_nothing(root: Caller) -> None:
    for _ in range(3):
        assert root.run("--name", "refused", "nosuch-image", "x").returncode == 125
    assert root.output("--name", "refused", "/bin/echo", "free") == "free\n"


def test_no_daemon(root: Caller, open_tmp: Path) -> None:
    done = root.run("/bin/true", env={"DKR_SOCKET": f"{open_tmp}/nothing"})
    assert done.returncode == 125
    assert f"{open_tmp}/nothing" in done.stderr
    assert "hint: " in done.stderr


def test_a_stranger_may_not(root: Caller, request: pytest.FixtureRequest) -> None:
    done = root.daemon.dkrctl("run", "--rm", "/bin/true", user=request.getfixturevalue("stranger"))
    assert done.returncode == 125
    assert "permission denied" in done.stderr
