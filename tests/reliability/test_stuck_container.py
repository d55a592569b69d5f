"""A container in which somebody waits for a filesystem that never answers, and cannot be killed: it answers as far as it can, what it
cannot do is told by name, and no other container and no list is held up.

The server is a FUSE one (tests/fuse.py) that reads what is asked of it and answers no read(2); root mounts it in the container's mount
namespace, as whoever brings a volume would.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import host, trees
from tests.integration.kept import create, lines, sh, shown, start
from tests.patience import guard
from tests.reliability.support import GUARD_SECONDS, ask, assert_same, count, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

SERVER = Path(trees.__file__).with_name("fuse.py")
PLACE = "/tmp/dead"  # in the container
ANSWER_SECONDS = guard(45.0)  # a guard: more than the longest patience that is promised
# Process 1 goes on; it is its child that reads.
COMMAND = sh(
    f"mkdir {PLACE}; echo up; until test -e /tmp/go; do sleep 0.05; done; cat {PLACE}/file & "
    "trap 'echo heard' USR1; while :; do sleep 0.05; done"
)


@dataclass
class Stuck:
    """The container `it` of a daemon, and the server's pid. Beside it there is `other`."""

    daemon: Daemon
    server: int

    def dkrctl(self, *words: str) -> subprocess.CompletedProcess[Any]:
        return self.daemon.dkrctl(*words, timeout=ANSWER_SECONDS)

    def told(self, *words: str) -> str:
        """What a command says that must succeed."""
        done = self.dkrctl(*words)
        assert (done.returncode, done.stderr) == (0, ""), (words, done)
        return str(done.stdout)

    def waiting(self) -> list[int]:
        """Those that wait for the server."""
        return [process.pid for process in self.daemon.processes() if process.comm in ("cat", "dkr-copy")]


@contextmanager
def stuck(daemon: Daemon, ready: Path, **wanted: Any) -> Iterator[Stuck]:
    """It is so when the block begins. Once its server is gone it can be removed, and nothing is left."""
    before = count(daemon)
    create(daemon, *COMMAND, name="it", **wanted)
    start(daemon, "it")
    eventually(lambda: lines(daemon, "it"), "it is up")
    pid = shown(daemon, "it")["pid"]
    server = 0
    try:
        subprocess.run(
            ["/usr/bin/python3", "-IS", SERVER, PLACE, "deaf-reads", ready, str(pid)],
            check=True,
            timeout=GUARD_SECONDS,
        )
        server = int(ready.read_text())
        create(daemon, "/bin/sleep", "600", name="other")
        start(daemon, "other")
        found = Stuck(daemon, server)
        found.told("exec", "it", "/bin/touch", "/tmp/go")
        eventually(found.waiting, "its process waits")
        yield found
    finally:
        if server:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGKILL)
            assert host.wait_gone(server, GUARD_SECONDS)
        for name in ("it", "other"):
            assert ask(daemon, "DELETE", f"/v1/containers/{name}?force=true")[0] in (204, 404)
        assert_same(daemon, before)
    assert "Traceback" not in daemon.log


@pytest.fixture
def own(make_daemon: MakeDaemon) -> Daemon:
    return make_daemon()


LISTS = (
    ("ps",),
    ("ps", "-s"),
    ("stats", "--no-stream"),
    ("system", "df"),
    ("events", "--since", "1h", "--until", "0s"),
    ("info",),
)


def lists_answer(there: Stuck) -> None:
    for words in LISTS:
        found = there.told(*words)
        if words[0] in ("ps", "stats"):
            assert {"it", "other"} <= set(found.split())


def the_other_answers(there: Stuck, tmp_path: Path) -> None:
    """All that can be asked of a container, its end and its next start included."""
    for words in (("inspect",), ("top",), ("logs",), ("diff",), ("explain",), ("pause",), ("unpause",)):
        there.told(*words, "other")
    assert there.told("exec", "other", "/bin/echo", "hi") == "hi\n"
    there.told("cp", "other:/etc/hostname", str(tmp_path / "hostname"))
    there.told("stop", "-t", "0", "other")
    there.told("wait", "other")
    there.told("start", "other")
    there.told("restart", "-t", "0", "other")
    assert there.told("run", "--rm", "/bin/echo", "new") == "new\n"


def test_all_else_answers_and_so_does_it(own: Daemon, tmp_path: Path) -> None:
    with stuck(own, tmp_path / "ready") as there:
        lists_answer(there)
        the_other_answers(there, tmp_path)
        for words in (
            ("inspect",),
            ("logs",),
            ("diff",),
            ("explain",),
            ("exec", "ls"),
            ("kill", "-s", "USR1"),
        ):
            there.told(*words, "it")
        assert f"cat {PLACE}/file" in there.told("top", "it")
        assert there.told("exec", "it", "/bin/echo", "hi") == "hi\n"
        there.told("cp", "it:/etc/hostname", str(tmp_path / "hostname"))
        there.told("update", "--pids-limit", "100", "it")
        done = there.dkrctl("wait", "--timeout", "0.1", "it")
        assert (done.returncode, "it is not stopped after 0.1 s" in done.stderr) == (1, True)
        done = there.dkrctl("pause", "it")
        if done.returncode:  # a freezer that cannot freeze them: v1's
            assert "not all of its processes were frozen" in done.stderr
            assert "as for a filesystem that does not answer" in done.stderr
        else:
            there.told("unpause", "it")
        eventually(lambda: "heard\n" in there.told("logs", "it"), "it goes on")


def test_a_client_that_waits_for_it_can_leave(own: Daemon, tmp_path: Path) -> None:
    """Who copies or executes what does not answer waits for it, and nobody else does."""
    with stuck(own, tmp_path / "ready") as there:
        waiting = len(there.waiting())
        for number, words in enumerate(
            (("cp", f"it:{PLACE}/file", str(tmp_path / "file")), ("exec", "it", "/bin/cat", f"{PLACE}/file")),
            1,
        ):
            with own.popen(
                *words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as client:
                try:
                    eventually(lambda n=number: len(there.waiting()) == waiting + n, "it waits")  # type: ignore[misc]
                    lists_answer(there)
                    assert there.told("exec", "it", "/bin/echo", "hi") == "hi\n"
                    there.told("cp", "it:/etc/hostname", str(tmp_path / "hostname"))
                finally:
                    client.kill()
        the_other_answers(there, tmp_path)


def test_a_probe_that_waits_for_it_is_the_only_one(own: Daemon, tmp_path: Path) -> None:
    """Its shell can be killed and what that has started cannot: as long as it is there no further one is made."""
    check = {"args": sh(f"! test -e /tmp/go || cat {PLACE}/file; exit 0"), "interval": 0.1, "timeout": 0.3}
    with stuck(own, tmp_path / "ready", health=check) as there:

        def health() -> dict[str, Any]:
            found = shown(own, "it")["health"]
            assert isinstance(found, dict)
            return found

        eventually(lambda: health()["status"] == "unhealthy", "it is unwell")
        eventually(lambda: health()["failingStreak"] >= 8, "it stays so")
        assert "the probe before has not ended" in health()["log"][-1]["output"]
        assert len(there.waiting()) == 2  # the command's own, and one probe's
        lists_answer(there)


def test_who_wants_its_end_is_told_that_it_does_not_end(own: Daemon, tmp_path: Path) -> None:
    with stuck(own, tmp_path / "ready") as there:
        wishes = (
            ("stop", "-t", "0.1", "it"),
            ("restart", "-t", "0", "it"),
            ("rm", "-f", "it"),
            ("kill", "it"),
        )
        with ThreadPoolExecutor(len(wishes)) as threads:
            asked = [threads.submit(there.dkrctl, *words) for words in wishes]
            # While they wait all else goes on.
            the_other_answers(there, tmp_path)
            lists_answer(there)
            stop, restart, remove, kill = (one.result() for one in asked)
        assert (kill.returncode, kill.stdout) == (0, "it\n")
        for done in (stop, restart):
            assert done.returncode == 1, done
            assert "cannot stop it: it has not ended 10 s after SIGKILL" in done.stderr
            assert "rule: stuck" in done.stderr
            assert "dkrctl top" in done.stderr
        assert remove.returncode == 1
        assert "cannot remove it: it is not gone 20 s after SIGKILL" in remove.stderr
        # It still is what it is, and its guardian answers.
        assert f"cat {PLACE}/file" in there.told("top", "it")
        there.told("logs", "it")
        assert shown(own, "it")["status"] == "running"
        for words in (("exec", "it", "/bin/true"), ("cp", "it:/etc/hostname", str(tmp_path / "no"))):
            done = there.dkrctl(*words)
            assert done.returncode in (1, 125)
            assert "has ended\n  rule: ended" in done.stderr
        assert "it does not end, though it was killed" in own.log
        os.kill(there.server, signal.SIGKILL)
        eventually(lambda: shown(own, "it")["status"] == "stopped", "it ends when the server does")
        assert shown(own, "it")["exit"]["cause"] == "stopped"


def test_the_next_launcher_takes_it_over(own: Daemon, tmp_path: Path) -> None:
    with stuck(own, tmp_path / "ready") as there:
        assert ask(own, "POST", "/v1/containers/it/kill", {"signal": "KILL"})[0] == 204
        own.kill()
        own.start()
        lists_answer(there)
        the_other_answers(there, tmp_path)
        there.told("logs", "it")
        assert shown(own, "it")["status"] == "running"
