"""What happens to containers, as `GET /v1/events`, `dkrctl events` and the Python client tell it, against a real daemon."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from contextlib import aclosing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from common.clock import now
from dkrctl.client import Client, ExitStatus
from tests import host
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import Lines, Stream, asked, create, made, remove, sh, start
from tests.reliability.support import ask_bytes, assert_same, eventually, inits, kill_and_wait, listed
from tests.security.callers import as_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User
    from tests.reliability.support import Counts

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, at_rest: Counts) -> Iterator[None]:
    """What launcher, api and machine hold is the same behind each test."""
    yield
    assert_same(daemon, at_rest)
    assert "Traceback" not in daemon.log


def told(daemon: Daemon, since: str, query: str = "", user: User | None = None) -> list[dict[str, Any]]:
    """What has happened since then, until now."""
    where = f"/v1/events?since={since}&until={now()}{query}"

    def work() -> tuple[int, str]:
        status, data = ask_bytes(daemon, "GET", where)
        return status, data.decode()

    status, data = work() if user is None else as_user(user, work)
    assert status == 200, data
    return [json.loads(line) for line in data.splitlines()]


def steps(events: list[dict[str, Any]]) -> list[str]:
    return [event["action"] for event in events]


@contextmanager
def listening(daemon: Daemon, query: str = "", user: User | None = None) -> Iterator[Lines]:
    """A reader that hears whatever comes from here on."""
    with Lines(daemon, f"/v1/events?{query}", "", user) as reader:
        yield reader


def test_a_life(caller: Caller) -> None:
    since = now()
    wanted = {"args": sh("trap 'exit 3' TERM; echo up; while :; do sleep 600 & wait; done"), "name": "life"}
    _, made = asked(caller, "POST", "/v1/containers", {**wanted, "labels": {"team": "blue"}})
    with listening(caller.daemon, f"filter={quote('container=life')}", caller.user) as reader:
        assert asked(caller, "POST", "/v1/containers/life/start")[0] == 204
        eventually(lambda: b"up" in _log(caller.daemon, "life"), "its traps stand")
        assert asked(caller, "POST", "/v1/containers/life/kill", {"signal": "TERM"})[0] == 204
        assert asked(caller, "POST", "/v1/containers/life/wait")[0] == 200
        assert asked(caller, "DELETE", "/v1/containers/life")[0] == 204
        live = [reader.line() for _ in range(4)]
    found = told(caller.daemon, since, f"&filter={quote('container=life')}", caller.user)
    assert steps(found) == ["create", "start", "kill", "die", "destroy"]
    assert live == found[1:]
    for event in found:
        assert (event["type"], event["id"], event["name"]) == ("container", made["id"], "life")
        assert (event["uid"], event["image"], event["labels"]) == (caller.uid, "host", {"team": "blue"})
    assert found[2]["signal"] == 15
    assert found[3]["exit"] == {"code": 3, "signal": None, "cause": "exited"}
    times = [event["time"] for event in found]
    assert times == sorted(set(times))
    assert since < times[0] == made["created"]


def _log(daemon: Daemon, name: str) -> bytes:
    return ask_bytes(daemon, "GET", f"/v1/containers/{name}/logs")[1]


def test_a_run_with_descriptors(caller: Caller) -> None:
    since = now()
    assert caller.run("--name", "short", "/bin/sh", "-c", "exit 4").returncode == 4
    eventually(lambda: not listed(caller.daemon, every=True), "it is gone")
    found = told(caller.daemon, since, "", caller.user)
    assert steps(found) == ["create", "start", "die", "destroy"]
    assert found[2]["exit"]["code"] == 4


def test_what_was_refused_never_was(caller: Caller) -> None:
    since = now()
    assert caller.run("--dry-run", "/bin/true").returncode == 0
    assert caller.run("/bin/nosuch").returncode == 127
    eventually(lambda: not listed(caller.daemon, every=True), "it is gone")
    # The dry run made nothing; the other was made, and could not be started.
    assert steps(told(caller.daemon, since, "", caller.user)) == ["create", "destroy"]


def test_who_attaches_and_leaves(daemon: Daemon) -> None:
    since = now()
    with made(daemon, "/bin/cat", openStdin=True) as name:
        with Stream(daemon, f"{name}/attach") as client:
            client.until("attached")
            client.say(type="detach")
            assert client.ended()
        eventually(lambda: "detach" in steps(told(daemon, since)), "that it left is told")
        assert steps(told(daemon, since)) == ["create", "start", "attach", "detach"]
    assert steps(told(daemon, since))[4:] == ["kill", "die", "destroy"]


def test_one_that_is_paused_and_goes_on(daemon: Daemon) -> None:
    since = now()
    with made(daemon, "/bin/sleep", "600") as name:
        for verb in ("pause", "unpause", "pause"):
            assert ask_bytes(daemon, "POST", f"/v1/containers/{name}/{verb}")[0] == 204
        assert ask_bytes(daemon, "POST", f"/v1/containers/{name}/stop")[0] == 204
        found = steps(told(daemon, since))
    assert found == ["create", "start", "pause", "unpause", "pause", "kill", "unpause", "die", "stop"]


def test_each_verb_as_docker_tells_it(caller: Caller) -> None:
    since = now()

    def of(*words: str) -> list[str]:
        """What a call of dkrctl brings about."""
        before = steps(told(caller.daemon, since, "", caller.user))
        done = caller.daemon.dkrctl(*words, user=caller.user)
        assert done.returncode == 0, done.stderr
        after = steps(told(caller.daemon, since, "", caller.user))
        assert after[: len(before)] == before
        return after[len(before) :]

    assert of("create", "--name", "one", "/bin/sleep", "600") == ["create"]
    assert of("rename", "one", "two") == ["rename"]
    assert of("update", "--pids-limit", "50", "two") == ["update"]
    assert of("restart", "two") == ["start", "restart"]
    assert of("rename", "two", "three") == ["rename"]
    assert of("update", "--pids-limit", "50", "--restart", "on-failure", "three") == ["update"]
    assert of("restart", "three") == ["kill", "die", "stop", "start", "restart"]
    assert of("stop", "three") == ["kill", "die", "stop"]
    assert of("stop", "three") == []
    assert of("update", "--restart", "no", "three") == ["update"]
    assert of("start", "three") == ["start"]
    assert of("rm", "-f", "three") == ["kill", "die", "destroy"]
    names = [(event["name"], event.get("oldName")) for event in told(caller.daemon, since, "", caller.user)]
    assert names[1:3] == [("two", "one"), ("two", None)]
    assert names[5] == ("three", "two")
    shown = caller.daemon.dkrctl(
        *("events", "--since", since, "--until", "0s", "-f", "event=rename"),
        *("--format", "{{.action}} {{.oldName}} {{.name}}"),
        user=caller.user,
    )
    assert shown.stdout == "rename one two\nrename two three\n"


def test_what_was_done_as_an_api_was_killed_is_told_once(make_daemon: MakeDaemon) -> None:
    """Whoever asked may have no answer; what came of it is told, by the next one and by the one behind."""
    daemon = make_daemon()
    root = Caller(daemon, None)
    since = now()
    runs = str(create(daemon, *sh("exec sleep 600"), name="runs")["id"])
    rests = str(create(daemon, *sh("exec sleep 600"), name="rests")["id"])
    start(daemon, runs)
    name = {runs: "runs", rests: "rests"}
    for number in range(3):
        for container in (runs, rests):
            name[container] += "x"
            for verb, body in (
                ("rename", {"name": name[container]}),
                ("update", {"pidsLimit": 50 + number}),
            ):
                assert asked(root, "POST", f"/v1/containers/{container}/{verb}", body)[0] == 204
        assert asked(root, "POST", f"/v1/containers/{runs}/restart", {"timeout": 0})[0] == 204
        # Before it is noted that any of it was written down.
        if number == 1:
            told(
                daemon, since
            )  # what nobody has written down a launcher that goes too takes along, but for what stands
            daemon.kill()
            daemon.start()
        else:
            api = daemon.child("dkr-api")
            kill_and_wait(api)
            eventually(partial(_is_new, daemon, api.pid), "there is another api")
            assert wait_for_answer(daemon)
    again = ["rename", "update", "kill", "die", "stop", "start", "restart"]
    found = told(daemon, since, f"&filter={quote(f'container={runs}')}")
    assert steps(found) == ["create", "start", *again * 3]
    found = told(daemon, since, f"&filter={quote(f'container={rests}')}")
    assert steps(found) == ["create", *["rename", "update"] * 3]
    assert [event["oldName"] for event in found if "oldName" in event] == ["rests", "restsx", "restsxx"]
    remove(daemon, runs)
    remove(daemon, rests)


def test_others_containers_are_not_seen(
    daemon: Daemon, tenant: User, other_tenant: User, admin: User
) -> None:
    since = now()
    with listening(daemon, "", other_tenant) as other, listening(daemon, "", admin) as all_of_them:
        assert Caller(daemon, tenant).run("--name", "mine", "/bin/true").returncode == 0
        assert Caller(daemon, None).run("--name", "roots", "/bin/true").returncode == 0
        heard = [all_of_them.line() for _ in range(8)]
        assert Caller(daemon, other_tenant).run("--name", "theirs", "/bin/true").returncode == 0
        assert [(event or {})["name"] for event in (other.line() for _ in range(4))] == ["theirs"] * 4
    assert {event["name"] for event in told(daemon, since, "", tenant)} == {"mine"}
    assert {(event or {})["name"] for event in heard} == {"mine", "roots"}
    assert {event["name"] for event in told(daemon, since)} == {"mine", "roots", "theirs"}
    assert told(daemon, since, f"&filter={quote('container=mine')}", other_tenant) == []


def test_what_ends_while_the_api_is_away_is_told_once(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    since = now()
    kept = str(create(daemon, *sh("exec sleep 600"), name="kept")["id"])
    gone = str(create(daemon, *sh("exec sleep 600"), name="gone", rm=True)["id"])
    for name in (kept, gone):
        start(daemon, name)
    for number in range(4):
        api = daemon.child("dkr-api")
        if number == 2:
            for init in inits(daemon):
                host.kill(init)
        kill_and_wait(api)
        eventually(partial(_is_new, daemon, api.pid), "there is another api")
        assert wait_for_answer(daemon)
    ends = ["destroy", "die", "die"]
    eventually(
        lambda: sorted(step for step in steps(told(daemon, since)) if step in ends) == ends, "both have ended"
    )
    for name, wanted in ((kept, ["create", "start", "die"]), (gone, ["create", "start", "die", "destroy"])):
        found = told(daemon, since, f"&filter={quote(f'container={name}')}")
        assert steps(found) == wanted
        assert found[2]["exit"] == {"code": None, "signal": 9, "cause": "signalled"}
    remove(daemon, kept)


def _is_new(daemon: Daemon, before: int) -> bool:
    return any(process.comm == "dkr-api" and process.pid != before for process in daemon.processes())


def wait_for_answer(daemon: Daemon) -> bool:
    status, _ = ask_bytes(daemon, "GET", "/_ping")
    return status == 200


def test_what_ends_while_the_daemon_is_away_is_told_once(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    since = now()
    names = {}
    for name, rm in (("kept", False), ("gone", True), ("lives", False)):
        names[name] = str(create(daemon, *sh("exec sleep 600"), name=name, rm=rm)["id"])
    for name in ("kept", "gone", "lives"):
        start(daemon, name)
    by_pid = {
        json.loads(ask_bytes(daemon, "GET", f"/v1/containers/{name}")[1])["pid"]: name for name in names
    }
    daemon.kill()
    for init in inits(daemon):
        if by_pid[init.pid] != "lives":
            kill_and_wait(init)
    eventually(lambda: len(inits(daemon)) == 1, "two have ended")
    daemon.start()
    # Their guardians may still be at it.
    ends = ["destroy", "die", "die"]
    eventually(
        lambda: sorted(step for step in steps(told(daemon, since)) if step in ends) == ends,
        "both ends are told",
    )
    for _ in range(2):
        assert steps(told(daemon, since, f"&filter={quote('container=kept')}")) == ["create", "start", "die"]
        gone = told(daemon, since, f"&filter={quote('container=gone')}")
        assert steps(gone) == ["create", "start", "die", "destroy"]
        assert steps(told(daemon, since, f"&filter={quote('container=lives')}")) == ["create", "start"]
        daemon.kill()
        daemon.start()
    remove(daemon, "kept")
    remove(daemon, "lives")


def test_the_verb_shows_the_past(caller: Caller) -> None:
    since = now()
    assert caller.run("--name", "shown", "--label", "a=b\x1b[31m", "/bin/sh", "-c", "exit 5").returncode == 5
    eventually(lambda: not listed(caller.daemon, every=True), "it is gone")

    def shown(*words: str) -> str:
        done = caller.daemon.dkrctl("events", "--since", since, "--until", "0s", *words, user=caller.user)
        assert (done.returncode, done.stderr) == (0, "")
        return str(done.stdout)

    lines = shown().splitlines()
    assert [line.split()[1:3] for line in lines] == [
        ["container", action] for action in ("create", "start", "die", "destroy")
    ]
    assert lines[2].endswith("(exitCode=5, cause=exited, image=host, name=shown, a=b\\x1b[31m)")
    assert shown("-f", "event=die", "--format", "{{.Action}} {{.name}} {{.exit.code}}") == "die shown 5\n"
    [event] = [json.loads(line) for line in shown("--filter", "event=start", "--format", "json").splitlines()]
    assert (event["name"], event["uid"]) == ("shown", caller.uid)
    assert shown("--filter", "label=c") == ""
    assert shown("--filter", "image=busybox") == ""
    wanted = ("--filter", "image=host", "--filter", "event=die")
    assert shown(*wanted, "--format", "{{.image}} {{title .action}}") == "host Die\n"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--filter", "volume=x"], "cannot filter by 'volume': there is no such key"),
        (["--since", "soon"], "cannot take --since soon: it is no time"),
        (["--format", "{{.nosuch}}"], "there is no field .nosuch"),
        (["web"], "cannot take 'web': events takes options only"),
    ],
)
def test_what_means_nothing(root: Caller, words: list[str], wanted: str) -> None:
    done = root.daemon.dkrctl("events", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert wanted in done.stderr


def test_ctrl_c_ends_it(caller: Caller) -> None:
    since = now()
    words = ("events", "--since", since)
    pipe = subprocess.PIPE
    reading = caller.daemon.popen(*words, user=caller.user, stdout=pipe, stderr=pipe, text=True)
    with reading:
        assert caller.run("/bin/true").returncode == 0
        assert reading.stdout is not None
        assert " container create " in reading.stdout.readline()
        reading.send_signal(signal.SIGINT)
        _, err = reading.communicate(timeout=SHELL_SECONDS)
        assert (reading.returncode, err) == (-signal.SIGINT, "")


def test_a_reader_that_leaves_ends_it(root: Caller) -> None:
    root.run("/bin/true")
    done = root.shell("dkrctl events --since 1h | head -n 1")
    assert done.returncode == 0
    assert " container create " in done.stdout


async def test_from_python(daemon: Daemon) -> None:
    since = now()
    async with Client(daemon.socket) as dkr, asyncio.timeout(SHELL_SECONDS):
        heard = dkr.events(since=since, filters=["event=die", "event=start"])
        async with aclosing(heard):
            await dkr.run_plain("/bin/sh", "-c", "exit 6", name="py", labels={"a": "b"})
            first, second = await anext(heard), await anext(heard)
        assert (first.action, first.name, first.labels, first.exit) == ("start", "py", {"a": "b"}, None)
        assert second.exit == ExitStatus(code=6, signal=None, cause="exited")
        assert since < first.time < second.time
    eventually(lambda: not listed(daemon, every=True), "it is gone")
