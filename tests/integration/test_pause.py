"""Pausing containers: what stands still, what works on it all the same, and whoever is killed meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dkrctl.client import Client, Conflict
from tests import trees
from tests.daemon import Daemon
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import Stream, asked, create, lines, logged, remove, sh, shown, start
from tests.integration.verbs import sweep
from tests.reliability.support import ask, eventually, inits, kill_and_wait, the_shim
from tests.sdk import drive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.host import User

pytestmark = pytest.mark.root

TALKS = "trap 'echo hup' HUP; trap 'echo term; exit 5' TERM; echo up; while :; do sleep 600 & wait $!; kill $!; done"
STUBBORN = "trap 'echo term' TERM; echo up; while :; do sleep 600 & wait; done"
PLAIN = "echo up; exec sleep 600"
SERVER = Path(trees.__file__).with_name("fuse.py")
# Executes the words that follow where these cgroup filesystems are not there.
WITHOUT = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
V1_ALONE = (*WITHOUT, 'umount /sys/fs/cgroup/unified && exec "$@"', "sh")
NO_FREEZER = (*WITHOUT, 'umount /sys/fs/cgroup/unified /sys/fs/cgroup/freezer && exec "$@"', "sh")


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    sweep(daemon)


@pytest.fixture
def v1(prefix: Path) -> Iterator[Caller]:
    """Root, at a daemon that sees no v2 tree."""
    with_wrapper = Daemon.create(prefix)
    with_wrapper.wrapper = V1_ALONE
    try:
        with_wrapper.start()
        yield Caller(with_wrapper, None)
        sweep(with_wrapper)
    finally:
        with_wrapper.close()


def dkrctl(caller: Caller, *words: str) -> subprocess.CompletedProcess[str]:
    return caller.daemon.dkrctl(*words, user=caller.user)


def started(caller: Caller, name: str, line: str, *options: str) -> None:
    """One that runs a line, and has said `up`."""
    for words in (("create", "--name", name, *options, *sh(line)), ("start", name)):
        assert dkrctl(caller, *words).returncode == 0
    logged(caller.daemon, name, "up\n")


def paused(caller: Caller, name: str, line: str, *options: str) -> None:
    """One that runs a line, and is paused."""
    started(caller, name, line, *options)
    assert dkrctl(caller, "pause", name).stdout == f"{name}\n"
    assert is_frozen(caller.daemon)


def is_frozen(daemon: Daemon) -> bool:
    """Whether the kernel says so of the only container."""
    told = set()
    for process in inits(daemon):
        for line in process.cgroups.splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0" and path.endswith("/c"):
                told.add("frozen 1" in Path(f"/sys/fs/cgroup/unified{path}/cgroup.events").read_text())
            elif controllers == "freezer" and daemon.cgroup in path:
                told.add(Path(f"/sys/fs/cgroup/freezer{path}/freezer.state").read_text() == "FROZEN\n")
    [frozen] = told
    return frozen


def act(caller: Caller, name: str, verb: str) -> tuple[int, Any]:
    """POST …/pause or …/unpause as the caller: status, and the rule of a problem."""
    status, answer = asked(caller, "POST", f"/v1/containers/{name}/{verb}")
    return status, answer and answer.get("rule")


def said(caller: Caller, name: str) -> list[str]:
    return [line["log"] for line in lines(caller.daemon, name)]


def ended(caller: Caller, name: str) -> dict[str, Any]:
    assert dkrctl(caller, "wait", name).returncode == 0
    found = shown(caller.daemon, name)["exit"]
    assert isinstance(found, dict)
    return found


# what stands still, and is seen


def test_it_stands_still_and_goes_on(caller: Caller) -> None:
    paused(caller, "it", TALKS)
    assert shown(caller.daemon, "it")["status"] == "paused"
    assert dkrctl(caller, "inspect", "-f", "{{.status}}", "it").stdout == "paused\n"
    assert dkrctl(caller, "ps", "--format", "{{.Status}}").stdout.strip().endswith(" (Paused)")
    assert dkrctl(caller, "ps", "--filter", "status=paused", "--format", "{{.Names}}").stdout == "it\n"
    assert dkrctl(caller, "ps", "-q", "--filter", "status=running").stdout == ""
    assert dkrctl(caller, "unpause", "it").stdout == "it\n"
    assert not is_frozen(caller.daemon)
    assert shown(caller.daemon, "it")["status"] == "running"
    for verb, expected in (("pause", (204, None)), ("unpause", (204, None))):
        assert act(caller, "it", verb) == expected
    assert dkrctl(caller, "stop", "it").returncode == 0
    assert ended(caller, "it") == {"code": 5, "signal": None, "cause": "stopped"}


def test_only_what_fits(caller: Caller) -> None:
    paused(caller, "it", PLAIN)
    assert act(caller, "it", "pause") == (409, "paused")
    assert dkrctl(caller, "unpause", "it").returncode == 0
    assert act(caller, "it", "unpause") == (409, "not-paused")
    assert dkrctl(caller, "stop", "it").returncode == 0
    for verb in ("pause", "unpause"):
        assert act(caller, "it", verb) == (409, "ended")
        assert dkrctl(caller, "create", "--name", verb, "/bin/true").returncode == 0
        assert act(caller, verb, verb) == (409, "not-started")
        done = dkrctl(caller, verb, "nosuch", "it")
        assert (done.returncode, done.stdout) == (1, "")
        assert 'cannot find container "nosuch"' in done.stderr
        assert f"cannot {verb} it: it has ended" in done.stderr


def test_others_containers_are_not_there(daemon: Daemon, root: Caller, tenant: User) -> None:
    paused(root, "theirs", PLAIN)
    whole = shown(daemon, "theirs")["id"]
    for verb in ("pause", "unpause"):
        assert act(Caller(daemon, tenant), whole, verb)[0] == 404
    assert shown(daemon, "theirs")["status"] == "paused"


# what works on it


def test_signals_wait_until_it_goes_on(caller: Caller) -> None:
    paused(caller, "it", TALKS)
    for number in ("HUP", "HUP", "WINCH"):
        assert dkrctl(caller, "kill", "-s", number, "it").returncode == 0
    assert is_frozen(caller.daemon)
    assert dkrctl(caller, "unpause", "it").returncode == 0
    logged(caller.daemon, "it", "hup\n")
    assert dkrctl(caller, "stop", "it").returncode == 0
    assert said(caller, "it") == ["up\n", "hup\n", "term\n"]


def test_what_a_signal_does_by_default_waits_too(caller: Caller) -> None:
    paused(caller, "it", PLAIN)
    assert dkrctl(caller, "kill", "-s", "TERM", "it").returncode == 0
    assert shown(caller.daemon, "it")["status"] == "paused"
    assert is_frozen(caller.daemon)
    assert dkrctl(caller, "unpause", "it").returncode == 0
    assert ended(caller, "it") == {"code": None, "signal": 15, "cause": "signalled"}


def test_sigkill_does_not_wait(caller: Caller) -> None:
    paused(caller, "it", TALKS)
    assert dkrctl(caller, "kill", "it").returncode == 0
    assert ended(caller, "it") == {"code": None, "signal": 9, "cause": "signalled"}


@pytest.mark.parametrize(
    ("line", "words", "how"),
    [
        (TALKS, (), {"code": 5, "signal": None}),
        (PLAIN, (), {"code": None, "signal": 15}),
        (TALKS, ("-t", "0"), {"code": None, "signal": 9}),
        (STUBBORN, ("-t", "0.05"), {"code": None, "signal": 9}),
        (PLAIN, ("-t", "-1", "-s", "INT"), {"code": None, "signal": 2}),
    ],
)
def test_a_stop_lets_it_act_on_its_signal(
    root: Caller, line: str, words: tuple[str, ...], how: dict[str, Any]
) -> None:
    paused(root, "it", line)
    assert dkrctl(root, "stop", *words, "it").returncode == 0
    assert ended(root, "it") == {**how, "cause": "stopped"}


def test_one_that_was_paused_while_it_was_being_stopped(root: Caller) -> None:
    started(root, "it", STUBBORN)
    pipe = subprocess.PIPE
    with root.daemon.popen("stop", "-t", "-1", "it", stdout=pipe, stderr=pipe) as client:
        logged(root.daemon, "it", "term\n")
        assert dkrctl(root, "pause", "it").returncode == 0
        assert dkrctl(root, "stop", "-t", "0.05", "it").returncode == 0
        assert client.wait(SHELL_SECONDS) == 0
    assert ended(root, "it")["signal"] == 9


def test_removal_by_force_and_what_waits(caller: Caller) -> None:
    paused(caller, "it", TALKS)
    assert "it is running" in dkrctl(caller, "rm", "it").stderr
    with caller.daemon.popen("wait", "it", user=caller.user, stdout=subprocess.PIPE, text=True) as waiting:
        assert dkrctl(caller, "rm", "-f", "it").stdout == "it\n"
        assert waiting.communicate()[0] in ("137\n", "")  # or it came too late
    assert caller.containers() == []


def test_a_runs_time_limit_and_its_end(caller: Caller) -> None:
    with caller.start("--name", "it", "--timeout", "1", *sh(TALKS), text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        assert dkrctl(caller, "pause", "it").returncode == 0
        assert client.wait(SHELL_SECONDS) == 5
        assert client.stdout.read() == "term\n"


def test_with_the_hosts_processes(root: Caller) -> None:
    """Without a namespace of its own the end of process 1 is not that of its children."""
    words = ("run", "-d", "--name", "it", "--pid", "host", *sh("sleep 600 & echo up; wait"))
    for end in (("stop", "-t", "0", "it"), ("kill", "it")):
        assert dkrctl(root, *words).returncode == 0
        logged(root.daemon, "it", "up\n")
        assert dkrctl(root, "pause", "it").returncode == 0
        assert dkrctl(root, *end).returncode == 0
        assert dkrctl(root, "rm", "-f", "it").returncode == 0
        eventually(lambda: not inits(root.daemon), "nothing of it is left")


def test_it_can_be_looked_at_and_attached_to(root: Caller) -> None:
    paused(root, "it", TALKS, "-i")
    assert said(root, "it") == ["up\n"]
    assert dkrctl(root, "explain", "it").returncode == 0
    with Stream(root.daemon, "it/attach") as stream:
        assert stream.until("attached")["type"] == "attached"
        stream.say(type="signal", signal=int(signal.SIGHUP))
        stream.say(type="detach")
        assert stream.ended()
    assert dkrctl(root, "start", "it").returncode == 0  # it runs already, in its way
    assert shown(root.daemon, "it")["status"] == "paused"
    assert dkrctl(root, "unpause", "it").returncode == 0
    logged(root.daemon, "it", "hup\n")


def test_nothing_is_executed_in_it(caller: Caller) -> None:
    paused(caller, "it", PLAIN)
    done = dkrctl(caller, "exec", "it", "/bin/echo", "hi")
    assert (done.returncode, done.stdout) == (125, "")
    assert "cannot execute in it: it is paused" in done.stderr
    assert dkrctl(caller, "unpause", "it").returncode == 0
    assert dkrctl(caller, "exec", "it", "/bin/echo", "hi").stdout == "hi\n"
    remove(caller.daemon, "it")


def test_by_python(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        await dkr.pause("it")
        assert (await dkr.inspect("it")).status == "paused"
        with pytest.raises(Conflict) as caught:
            await dkr.pause("it")
        assert caught.value.rule == "paused"
        await dkr.unpause("it")
        assert (await dkr.inspect("it")).status == "running"

    started(caller, "it", PLAIN)
    drive(caller, scenario)


# whoever is killed, and other hosts


def test_a_daemon_that_is_killed_meanwhile(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(), None)
    paused(root, "it", TALKS)
    root.daemon.kill()
    root.daemon.start()
    assert shown(root.daemon, "it")["status"] == "paused"
    assert act(root, "it", "pause") == (409, "paused")
    assert act(root, "it", "unpause") == (204, None)
    assert dkrctl(root, "stop", "it").returncode == 0
    assert ended(root, "it")["code"] == 5
    remove(root.daemon, "it")


def test_without_a_guardian(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(), None)
    paused(root, "it", PLAIN)
    kill_and_wait(the_shim(root.daemon))
    for restart in (False, True):
        if restart:
            root.daemon.kill()
            root.daemon.start()
        assert shown(root.daemon, "it")["status"] == "paused"
        assert is_frozen(root.daemon)
        for verb in ("pause", "unpause", "stop"):
            status, problem = ask(root.daemon, "POST", f"/v1/containers/it/{verb}")
            assert (status, problem["rule"]) == (409, "unguarded")
        status, problem = ask(root.daemon, "POST", "/v1/containers/it/kill", {"signal": "TERM"})
        assert (status, problem["rule"]) == (409, "unguarded")
    assert ask(root.daemon, "POST", "/v1/containers/it/kill", {}) == (204, None)
    eventually(lambda: shown(root.daemon, "it")["status"] == "stopped", "its end is found out")
    assert ended(root, "it") == {"code": None, "signal": 9, "cause": "signalled"}
    remove(root.daemon, "it")


def test_on_cgroup_v1(v1: Caller) -> None:
    for end, how in (
        (("stop", "it"), {"code": 5, "signal": None, "cause": "stopped"}),
        (("stop", "-t", "0", "it"), {"code": None, "signal": 9, "cause": "stopped"}),
        (("kill", "it"), {"code": None, "signal": 9, "cause": "signalled"}),
    ):
        paused(v1, "it", TALKS)
        assert dkrctl(v1, "kill", "-s", "HUP", "it").returncode == 0
        assert dkrctl(v1, "unpause", "it").returncode == 0
        logged(v1.daemon, "it", "hup\n")
        assert dkrctl(v1, "pause", "it").returncode == 0
        assert dkrctl(v1, *end).returncode == 0
        assert ended(v1, "it") == how
        assert dkrctl(v1, "rm", "it").returncode == 0
    paused(v1, "it", TALKS)
    assert dkrctl(v1, "rm", "-f", "it").returncode == 0


def test_where_nothing_freezes(prefix: Path) -> None:
    daemon = Daemon.create(prefix)
    daemon.wrapper = NO_FREEZER
    try:
        daemon.start()
        create(daemon, *sh(PLAIN), name="it")
        start(daemon, "it")
        status, problem = ask(daemon, "POST", "/v1/containers/it/pause")
        assert (status, problem["code"]) == (501, "host-unfit")
        assert "it has no cgroup that freezes" in problem["detail"]
        assert shown(daemon, "it")["status"] == "running"
        remove(daemon, "it")
    finally:
        daemon.close()


def test_a_process_that_cannot_be_frozen(root: Caller, open_tmp: Path) -> None:
    """One waits in the kernel for a filesystem that does not answer: all go on, and that is told."""
    started(root, "it", TALKS)
    [init] = inits(root.daemon)
    [leaf] = [line[3:] for line in init.cgroups.splitlines() if line.startswith("0::")]
    place, ready = open_tmp / "place", open_tmp / "ready"
    place.mkdir()
    lines = (
        f"/usr/bin/python3 -IS {SERVER} {place} silent {ready} & while [ ! -s {ready} ]; do sleep 0.01; done; "
        f"echo $$ >/sys/fs/cgroup/unified{leaf}/cgroup.procs; exec stat {place}/file"
    )
    with subprocess.Popen([*WITHOUT, lines], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as stuck:
        try:
            comm = Path(f"/proc/{stuck.pid}/comm")
            eventually(lambda: ready.exists() and comm.read_text() == "stat\n", "it waits")
            done = dkrctl(root, "pause", "it")
            assert done.returncode == 1
            assert "not all of its processes were frozen" in done.stderr
            assert shown(root.daemon, "it")["status"] == "running"
            assert dkrctl(root, "kill", "-s", "HUP", "it").returncode == 0
            logged(root.daemon, "it", "hup\n")
            # A stop does not wait for that either.
            with root.daemon.popen("pause", "it", stderr=subprocess.PIPE, text=True) as client:
                eventually(lambda: frozen_wanted(leaf), "it is being paused")
                assert act(root, "it", "pause") == (409, "paused")
                assert dkrctl(root, "stop", "it").returncode == 0
                assert "cannot pause it" in client.communicate()[1]
        finally:
            os.kill(int(ready.read_text()), signal.SIGKILL)
    assert ended(root, "it")["code"] == 5


def frozen_wanted(leaf: str) -> bool:
    return Path(f"/sys/fs/cgroup/unified{leaf}/cgroup.freeze").read_text() == "1\n"
