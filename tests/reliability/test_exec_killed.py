"""SIGKILL of the api, the launcher and the guardian while something is executed in a container; and many execs at random moments."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests import host
from tests.integration.conftest import Caller
from tests.integration.terminals import Terminal
from tests.reliability.support import GUARD_SECONDS, eventually, held, kill_and_wait, let_go, the_shim
from tests.reliability.test_terminal_killed import KILLING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

LOOP = 'stty -echo; echo up; while read word rest; do [ "$word" = end ] && exit $rest; echo "got $word"; done'


@pytest.mark.parametrize("what", KILLING)
def test_neither_session_notices_that_the_daemon_is_killed(make_daemon: MakeDaemon, what: str) -> None:
    kill: Callable[[Daemon], None] = KILLING[what]
    caller = Caller(make_daemon(), None)
    with caller.standing(), Terminal(caller) as terminal, caller.start_exec("web", "/bin/cat") as plain:
        terminal.exec("web", "/bin/sh", "-c", LOOP)
        terminal.until("up\r\n")
        assert plain.stdin is not None
        assert plain.stdout is not None
        plain.stdin.write("here\n")
        plain.stdin.flush()
        assert plain.stdout.readline() == "here\n"
        for number in range(2):
            kill(caller.daemon)
            terminal.type(f"line{number}\r")
            terminal.until(f"got line{number}\r\n")
            plain.stdin.write(f"plain{number}\n")
            plain.stdin.flush()
            assert plain.stdout.readline() == f"plain{number}\n"
        assert caller.exec("web", "/bin/echo", "another").stdout == "another\n"
        terminal.type("end 6\r")
        assert terminal.status() == 6
        plain.stdin.close()
        assert plain.wait(GUARD_SECONDS) == 0


def test_without_its_guardian_the_command_runs_on_and_nothing_is_executed_any_more(
    make_daemon: MakeDaemon,
) -> None:
    caller = Caller(make_daemon(), None)
    daemon = caller.daemon
    with caller.standing(), caller.start_exec("web", "/bin/cat") as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("word\n")
        client.stdin.flush()
        assert client.stdout.readline() == "word\n"
        kill_and_wait(the_shim(daemon))
        assert client.wait(GUARD_SECONDS) == 125
        assert client.stderr is not None
        # Not to its end: that the command has, which lives.
        assert "lost the container's guardian" in client.stderr.readline()
        client.stdin.close()
        done = caller.exec("web", "/bin/true")
        assert (done.returncode, "its guardian was killed" in done.stderr) == (125, True)
        with contextlib.suppress(ProcessLookupError):
            host.kill(caller.command("sleep"))
        eventually(lambda: "it has ended" in caller.exec("web", "/bin/true").stderr, "its end is known")


def test_clients_killed_at_random_moments_leave_nothing(make_daemon: MakeDaemon) -> None:
    caller = Caller(make_daemon(), None)
    daemon, chance = caller.daemon, random.Random(5)
    with caller.standing():
        assert caller.exec("web", "/bin/true").returncode == 0
        before = held(daemon)
        for _ in range(40):
            words = chance.choice([("web", "/bin/sleep", "599"), ("web", "/bin/true"), ("web", "/nosuch")])
            quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            with caller.start_exec(*words, **quiet) as client:
                time.sleep(chance.uniform(0.0, 0.03))
                client.send_signal(signal.SIGKILL)
        eventually(
            lambda: not [p for p in daemon.processes() if p.command == "/bin/sleep 599"], "all have ended"
        )
        let_go(daemon, before)
        assert caller.exec("web", "/bin/echo", "on").stdout == "on\n"


def test_a_container_that_ends_while_commands_come_in(make_daemon: MakeDaemon) -> None:
    """Each of them is told one way or the other, and nothing is left."""
    caller = Caller(make_daemon(), None)
    chance = random.Random(7)
    for _ in range(10):
        with contextlib.ExitStack() as stack:
            stack.enter_context(caller.standing())
            clients = [stack.enter_context(caller.start_exec("web", "/bin/sleep", "598")) for _ in range(4)]
            time.sleep(chance.uniform(0.0, 0.05))
            caller.daemon.dkrctl("kill", "web", check=True)
            assert {client.wait(GUARD_SECONDS) for client in clients} <= {125, 137}
