"""Verbs that may take long: what they wait for is told to people, several are waited for at the same time."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.terminals import Terminal
from tests.integration.verbs import sweep
from tests.reliability.support import eventually

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon

pytestmark = pytest.mark.root
STUBBORN = "trap '' TERM; touch /ready; while :; do sleep 600; done"
READY = ("/bin/sh", "-c", "until test -e /ready; do sleep 0.01; done")


def stand(caller: Caller, name: str, line: str, *options: str) -> str:
    """A container called `name`, whose line has made /ready: its id."""
    words = ("run", "-d", *options, "--name", name, "/bin/sh", "-c", line)
    container = str(caller.daemon.dkrctl(*words, check=True).stdout).strip()
    caller.daemon.dkrctl("exec", name, *READY, check=True)
    return container


def test_what_is_waited_for_is_told_at_a_terminal(root: Caller) -> None:
    for name in ("one", "two"):
        stand(root, name, STUBBORN)
    try:
        with Terminal(root) as terminal:
            terminal.client = root.daemon.popen("wait", "one", "two", **terminal.here())
            terminal.until("dkrctl: waiting for one and two to end \\(ctrl-C ends waiting\\)\r\n")
            terminal.type("\x03")
            assert terminal.status() == -signal.SIGINT
            terminal.client = root.daemon.popen("stop", "-t", "3", "one", "two", **terminal.here())
            terminal.until("dkrctl: waiting for one and two to end \\(killed after 3 s\\)\r\none\r\ntwo\r\n")
            assert terminal.status() == 0
            assert terminal.shown == b""
        root.daemon.dkrctl("start", "one", check=True)
        root.daemon.dkrctl("exec", "one", *READY, check=True)
        done = root.daemon.dkrctl("stop", "-t", "2.5", "one")  # no terminal
        assert (done.returncode, done.stdout, done.stderr) == (0, "one\n", "")
    finally:
        sweep(root.daemon)


def test_several_are_waited_for_at_the_same_time(make_daemon: MakeDaemon) -> None:
    """The second has ended, and is gone, before the first."""
    root = Caller(make_daemon(log_level="debug"), None)
    ids = [stand(root, "one", STUBBORN), stand(root, "two", STUBBORN, "--rm")]
    both = root.daemon.popen("wait", "one", "two", stdout=subprocess.PIPE, text=True)
    asked = [f"wait for {container[:12]}" for container in ids]
    eventually(lambda: all(line in root.daemon.log for line in asked), "both are waited for")
    gone = root.daemon.popen("wait", "--condition", "removed", "two", stdout=subprocess.PIPE, text=True)
    eventually(lambda: root.daemon.log.count(asked[1]) == 2, "its removal is waited for")
    root.daemon.dkrctl("kill", "two", check=True)
    assert gone.communicate(timeout=SHELL_SECONDS)[0] == "137\n"
    assert root.daemon.dkrctl("ps", "-a", "--format", "{{.Names}}", check=True).stdout == "one\n"
    root.daemon.dkrctl("kill", "one", check=True)
    assert both.communicate(timeout=SHELL_SECONDS)[0] == "137\n137\n"
    assert (both.returncode, gone.returncode) == (0, 0)
    root.daemon.dkrctl("rm", "one", check=True)


def test_a_removal_is_waited_for_as_long_as_is_wished(root: Caller) -> None:
    with root.standing():
        root.daemon.dkrctl("kill", "web", check=True)
        assert root.daemon.dkrctl("wait", "--condition=stopped", "web", check=True).stdout == "137\n"
        done = root.daemon.dkrctl("wait", "--condition", "removed", "--timeout", "0.1", "web")
        assert (done.returncode, done.stdout) == (1, "")
        assert "cannot tell the end of web: it is not removed after 0.1 s" in done.stderr
        done = root.daemon.dkrctl("wait", "--condition", "running", "web")
        assert "cannot take --condition running: it takes stopped or removed" in done.stderr
