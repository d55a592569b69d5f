"""`run --explain` and `explain`: what is told of a start is what was done, all of it, to whom it belongs."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from dkrctl.whys import WHYS
from tests import host
from tests.integration.conftest import SHELL_SECONDS, Caller, request
from tests.integration.terminals import Terminal

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root

F_SETPIPE_SZ = 1031
FIRST = ["fork", "bundle", "evidence", "session", "request", "judge"]
HOSTS = ("--network", "--pid", "--ipc", "--uts", "--cgroupns", "--userns")
EVERYBODY = {
    "plain": ("/bin/true",),
    "another root": ("busybox", "true"),
    "process 1 of ours": ("--init", "/bin/true"),
    "clocks of its own": ("--timens", "private", "/bin/true"),
    "a user by name": ("-u", "nobody", "/bin/true"),
    "looked for in PATH": ("--entrypoint", "true", "/x"),
    "a directory": ("--rootfs", "/usr", "/bin/true"),
    "bounded": ("-m", "64m", "--cpus", "1.5", "--pids-limit", "50", "/bin/true"),
    "read-only": ("--read-only", "--tmpfs", "/scratch:size=1m", "/bin/true"),
}
ADMINS = {
    **{option: (option, "host", "/bin/true") for option in HOSTS},
    "all the host's": (*(word for option in HOSTS for word in (option, "host")), "/bin/true"),
}


def trace_of(caller: Caller, *args: str, **options: Any) -> dict[str, Any]:
    """The record of `dkrctl run --rm ARGS...`, whatever comes of it."""
    done = caller.run("--explain", "--format", "json", *args, **options)
    found, _, rest = done.stderr.partition("\n}\n")
    trace = json.loads(found + "}")
    assert isinstance(trace, dict)
    assert (done.returncode == 0) == (trace["outcome"] == "started")
    assert (rest == "") == (trace["outcome"] == "started")  # the error comes behind
    return trace


def until_running(caller: Caller, name: str) -> None:
    """Its command may run before its guardian has said so."""
    while not any((c["name"], c["status"]) == (name, "running") for c in caller.containers()):
        select.select([], [], [], 0.01)


def check(trace: dict[str, Any], first: list[str] | None = None) -> None:
    """What holds for every record."""
    steps, first = trace["steps"], first or FIRST
    assert [step["name"] for step in steps[: len(first)]] == first
    assert [step["start"] for step in steps] == sorted(step["start"] for step in steps)
    assert steps[0]["start"] == 0
    for process in {step["process"] for step in steps}:
        own = [step for step in steps if step["process"] == process]
        for one, next_one in pairwise(own):  # no time is lost between two steps
            assert one["start"] + one["duration"] == next_one["start"]
        assert own[-1]["duration"] >= 0
    assert [step["name"] for step in steps if step["name"] not in WHYS] == []
    assert [step["name"] for step in steps if not re.match(r"[a-z]\w*\(|nothing to join", step["call"])] == []


@pytest.mark.parametrize("name", EVERYBODY)
def test_every_step_is_told(caller: Caller, name: str) -> None:
    trace = trace_of(caller, *EVERYBODY[name])
    check(trace)
    assert trace["outcome"] == "started"
    last = [step for step in trace["steps"] if step["process"] == "init"][-1]
    assert last["name"] == "execve"
    wait = next(step for step in trace["steps"] if step["name"] == "await execve")
    assert wait["start"] + wait["duration"] == last["start"] + last["duration"]  # both see the pipe close


@pytest.mark.parametrize("name", ADMINS)
def test_every_step_is_told_of_what_only_admins_may(root: Caller, name: str) -> None:
    check(trace_of(root, *ADMINS[name]))


def test_every_step_of_a_terminal_is_told(caller: Caller) -> None:
    with Terminal(caller) as terminal:
        terminal.run("--explain", "--format", "json", "/bin/true")
        assert terminal.status() == 0
        trace = json.loads(terminal.shown.decode())
    check(trace)
    names = {step["name"] for step in trace["steps"]}
    assert names >= {"terminal", "controlling terminal", "master"}


def test_the_whole_table_is_needed(root: Caller) -> None:
    """What no start does is not explained. One step belongs to a setting, one to hosts with cgroup v1, three to terminals
    (above), two to containers that are made before they are started (below), one to the journal (test_log_drivers.py),
    two to a service manager (test_sdnotify.py).
    """
    seen = {
        step["name"]
        for args in EVERYBODY.values()
        for step in trace_of(root, *args)["steps"]
        if step["name"] in WHYS
    }
    assert set(WHYS) - seen <= {
        "open root",
        "enter cgroup",
        "terminal",
        "controlling terminal",
        "master",
        "log",
        "pipes",
        "journal",
        "notify",
        "notify socket",
    }


def test_every_step_of_a_container_that_stands_is_told(root: Caller) -> None:
    root.daemon.dkrctl("create", "--name", "stands", "/bin/echo", "hello", user=root.user)
    try:
        root.daemon.dkrctl("start", "stands", user=root.user)
        root.daemon.dkrctl("wait", "stands", user=root.user)
        trace = request(root.daemon, "GET", "/v1/containers/stands/explain")
    finally:
        root.daemon.dkrctl("rm", "stands", user=root.user)
    check(trace, ["fork", "evidence", "session", "request", "judge"])
    assert {step["name"] for step in trace["steps"]} >= {"log", "pipes", "judge", "execve"}


def test_what_is_told_is_true(root: Caller) -> None:
    script = "cat /proc/self/uid_map; exec sleep 600"
    with root.popen(
        "--explain", "--name", "told", "--hostname", "box", "/bin/sh", "-c", script, text=True
    ) as client:
        assert client.stdout is not None
        inside, first, count = client.stdout.readline().split()
        root.command("sleep")
        until_running(root, "told")
        state = next(c for c in root.containers() if c["name"] == "told")
        trace = request(root.daemon, "GET", "/v1/containers/told/explain")
        client.send_signal(signal.SIGTERM)
        _, story = client.communicate()
    calls = {step["name"]: step["call"] for step in trace["steps"]}
    assert (inside, count) == ("0", "65536")
    assert calls["id range"].endswith(f" = {first}")
    assert f'write("/proc/{state["pid"]}/uid_map", "0 {first} 65536")' in calls["id maps"]
    assert calls["clone"].endswith(f" = {state['pid']}")
    assert calls["hostname"] == 'sethostname("box", 3)'
    assert calls["execve"].startswith('execve("/bin/sh", ["/bin/sh", "-c", "')
    assert f"pid={client.pid}, uid=0" in calls["evidence"]
    assert f'mkdir("{root.daemon.state_dir}/containers/{state["id"]}", 0700)' == calls["directory"]
    assert story.startswith("How /bin/sh -c ")


FAILURES = {
    "mount": (("--tmpfs", "/etc/passwd", "/bin/true"), 125),
    "user": (("-u", "nosuch", "/bin/true"), 125),
    "chdir": (("-w", "/nosuch", "/bin/true"), 126),
    "execve": (("/bin/nosuch",), 127),
}


@pytest.mark.parametrize("step", FAILURES)
def test_a_failed_start_is_told_up_to_where_it_failed(caller: Caller, step: str) -> None:
    args, status = FAILURES[step]
    trace = trace_of(caller, *args)
    check(trace)
    failed = [number for number, entry in enumerate(trace["steps"]) if entry.get("failed")]
    assert [trace["steps"][number]["name"] for number in failed] == [step]
    later = trace["steps"][failed[0] + 1 :]
    assert {entry["process"] for entry in later} <= {"shim", "init"} - {trace["steps"][failed[0]]["process"]}
    assert trace["error"]["step"] == step
    plain, told = caller.run(*args), caller.run("--explain", *args)
    assert (told.returncode, told.stdout) == (status, plain.stdout)
    assert told.stderr.endswith(plain.stderr)  # the error stands last, as without
    assert re.search(rf"^ +\d+  {step} +failed +\d+\.\d\d ms", told.stderr, re.MULTILINE)


def test_a_refusal_is_told_as_well(daemon: Daemon, tenant: User) -> None:
    trace = trace_of(Caller(daemon, tenant), "--pid", "host", "/bin/true")
    assert [step["name"] for step in trace["steps"]] == FIRST
    assert trace["steps"][-1]["failed"] is True
    assert trace["error"]["rule"] == "pid-host"
    assert "needs={pid:host}, asks={pid:host}" in trace["steps"][-1]["call"]


def test_what_never_reached_a_guardian_is_only_refused(root: Caller) -> None:
    done = root.run("--explain", "-w", "here", "/bin/true")
    assert done.returncode == 125
    assert done.stderr.startswith("dkrctl: cannot take --workdir here: it is not absolute")


# The three forms, and where they go


def test_the_story_comes_after_the_end_and_changes_nothing(caller: Caller) -> None:
    done = caller.run("--explain", "/bin/sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout) == (3, "out\n")
    assert done.stderr.startswith(
        "err\nHow /bin/sh -c echo out; echo err >&2; exit 3 was started, step by step\n"
    )
    assert max(map(len, done.stderr.splitlines())) <= 80
    assert "\x1b" not in done.stderr


def test_events_for_perfetto(caller: Caller) -> None:
    done = caller.run("--explain", "--format", "trace", "/bin/true")
    events = json.loads(done.stderr)["traceEvents"]
    assert {"launcher", "shim", "init"} == {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert [e["name"] for e in events if e["ph"] == "X"][:6] == FIRST


def test_a_form_without_a_use_is_refused(root: Caller) -> None:
    done = root.run("--format", "json", "/bin/true")
    assert (done.returncode, done.stderr) == (
        125,
        "dkrctl: cannot take --format: it is for --explain and --dry-run\n",
    )


def test_at_a_terminal_it_has_its_width_and_weight(caller: Caller) -> None:
    with Terminal(caller, columns=101) as terminal:
        before = terminal.mode()
        terminal.run("--explain", "/bin/echo", "hi", env={"TERM": "xterm"})
        assert terminal.status() == 0
        assert terminal.mode() == before
        shown = terminal.shown.decode()
    assert shown.startswith("hi\r\nHow /bin/echo hi was started")
    assert "\x1b[1mThe guardian is asked\x1b[0m" in shown
    lines = re.sub(r"\x1b\[\d+m", "", shown).split("\r\n")
    assert max(map(len, lines)) == 101


@pytest.mark.parametrize("env", [{"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colour_can_be_declined(root: Caller, env: dict[str, str]) -> None:
    with Terminal(root) as terminal:
        terminal.run("--explain", "/bin/true", env=env)
        assert terminal.status() == 0
        assert b"\x1b" not in terminal.shown


def test_nobody_has_to_read_it(root: Caller) -> None:
    done = root.shell("dkrctl run --rm --explain /bin/sh -c 'exit 3' 2>&-; echo $?")
    assert done.stdout == "3\n"


def test_a_signal_ends_the_telling(root: Caller) -> None:
    """The command has ended; nobody is left to whom the signal could be forwarded."""
    read, write = os.pipe()
    fcntl.fcntl(write, F_SETPIPE_SZ, 4096)  # before anybody writes: the story does not go in
    with os.fdopen(read, "rb") as story, root.popen("--explain", "/bin/true", stderr=write) as client:
        os.close(write)
        assert select.select([story], [], [], SHELL_SECONDS)[0]
        client.send_signal(signal.SIGINT)
        assert client.wait(SHELL_SECONDS) == -signal.SIGINT


# Of a container


def kept(caller: Caller, name: str, *args: str) -> dict[str, Any]:
    """A container that has run with these words, and is kept: its record as its client was told."""
    done = caller.daemon.dkrctl(
        "run", "--name", name, "--explain", "--format", "json", *args, user=caller.user
    )
    caller.ended(name)
    trace = json.loads(done.stderr)
    assert isinstance(trace, dict)
    return trace


def explained(caller: Caller, *args: str) -> dict[str, Any]:
    done = caller.daemon.dkrctl("explain", "--format", "json", *args, user=caller.user, check=True)
    trace = json.loads(done.stdout)
    assert isinstance(trace, dict)
    return trace


def test_a_container_that_has_ended_is_still_explained(caller: Caller) -> None:
    trace = kept(caller, "ended", "/bin/true")
    try:
        assert explained(caller, "ended") == trace
        assert explained(caller, trace["id"][:12]) == trace
        told = caller.daemon.dkrctl("explain", "ended", user=caller.user, check=True)
        assert told.stdout.startswith("How /bin/true was started, step by step\n")
        assert told.stderr == ""
    finally:
        request(caller.daemon, "DELETE", "/v1/containers/ended")


def test_a_running_container_is_explained_and_tells_the_same_later(caller: Caller) -> None:
    client = caller.daemon.popen("run", "--name", "running", "/bin/sleep", "600", user=caller.user)
    try:
        caller.command("sleep")
        until_running(caller, "running")
        trace = explained(caller, "running")
        check(trace)
        assert explained(caller, "running") == trace
        client.terminate()
        client.wait()
        caller.ended("running")
        assert explained(caller, "running") == trace
    finally:
        client.kill()
        client.wait()
        request(caller.daemon, "DELETE", "/v1/containers/running")


def test_everybody_sees_their_own_and_admins_see_all(
    daemon: Daemon, tenant: User, other_tenant: User, admin: User
) -> None:
    trace = kept(Caller(daemon, tenant), "mine", "/bin/true")
    try:
        for reference in ("mine", trace["id"]):
            done = daemon.dkrctl("explain", reference, user=other_tenant)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith(f'dkrctl: cannot find container "{reference}"')
        for user in (admin, None):
            assert explained(Caller(daemon, user), trace["id"]) == trace
    finally:
        request(daemon, "DELETE", f"/v1/containers/{trace['id']}")


@pytest.mark.parametrize("words", [(), ("a", "b"), ("nosuch",), ("../x",), ("a b",), ("",)])
def test_nothing_else_is_explained(root: Caller, words: tuple[str, ...]) -> None:
    done = root.daemon.dkrctl("explain", *words)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("dkrctl: cannot ")


def test_a_record_is_lost_with_its_guardian_and_that_is_said(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    client = daemon.popen("run", "--name", "orphan", "/bin/sleep", "600")
    caller = Caller(daemon, None)
    caller.command("sleep")
    until_running(caller, "orphan")
    [shim] = [process for process in daemon.processes() if process.comm == "dkr-shim"]
    os.kill(shim.pid, signal.SIGKILL)
    host.wait_gone(shim.pid, 10.0)
    client.wait()
    for _ in range(2):
        done = daemon.dkrctl("explain", "orphan")
        assert done.returncode != 0
        assert "the record of its start was lost with its guardian, which was killed" in done.stderr
        for process in daemon.processes():
            if process.comm == "sleep":
                host.kill(process)
        caller.ended("orphan")  # and so it is when it has ended, too
    request(daemon, "DELETE", "/v1/containers/orphan")
