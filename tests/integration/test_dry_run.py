"""`run --dry-run`: the whole way up to where something would be done, and not one step further."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.integration.conftest import Caller
from tests.integration.terminals import Terminal
from tests.reliability.support import settle

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root


def plan_of(caller: Caller, *args: str, **options: Any) -> dict[str, Any]:
    done = caller.run("--dry-run", "--format", "json", *args, check=True, **options)
    assert done.stderr == ""
    plan = json.loads(done.stdout)
    assert isinstance(plan, dict)
    return plan


def snapshot(daemon: Daemon) -> dict[str, Any]:
    """All that a start would leave a trace in. A directory's time tells of what was made in it and removed again."""
    places = [daemon.state_dir, daemon.run_dir, daemon.directory / "ids", *host.cgroups(daemon.cgroup)]
    times = {}
    for place in places:
        for path in (place, *place.rglob("*")):
            if daemon.state_dir / "api" not in (path, *path.parents):
                status = path.lstat()
                times[str(path)] = (status.st_ino, status.st_mtime_ns, status.st_size)
    with sqlite3.connect(f"file:{daemon.state_dir}/api/dkr.db?mode=ro", uri=True) as index:
        rows = index.execute("SELECT * FROM containers ORDER BY id").fetchall()
    return {"files": times, "rows": rows, "mounts": host.mounts(str(daemon.directory))}


WORDS = ("--name", "planned", "--tmpfs", "/scratch:size=1m", "-e", "SECRET=x", "/bin/sh", "-c", "exit 3")


def test_nothing_is_changed(make_daemon: MakeDaemon, tenant: User) -> None:
    daemon = make_daemon()
    for caller in (Caller(daemon, None), Caller(daemon, tenant)):
        caller.output("/bin/true")  # whatever the first start makes for all is there
        settle(caller.daemon)
        before = snapshot(daemon)
        for _ in range(3):
            done = caller.run("--dry-run", *WORDS, check=True)
            assert done.stdout.startswith("What this run would do. Nothing of it was done.\n")
        settle(caller.daemon)
        assert snapshot(daemon) == before
        assert caller.run(*WORDS).returncode == 3  # the name was never taken
        settle(caller.daemon)
        assert snapshot(daemon) != before  # such a snapshot would have told


def test_it_does_not_count(make_daemon: MakeDaemon, tenant: User) -> None:
    caller = Caller(make_daemon(limits={"containers_per_user": 1}), tenant)
    for _ in range(5):
        plan_of(caller, "/bin/true")
        settle(caller.daemon)
    with caller.popen("/bin/sleep", "600") as client:
        caller.command("sleep")
        done = caller.run("--dry-run", "/bin/true")  # and is refused where a run would be
        assert (done.returncode, done.stdout) == (125, "")
        assert "has 1 already" in done.stderr
        client.terminate()
        client.wait()


def test_the_plan_is_what_a_start_then_does(caller: Caller) -> None:
    """Mounts with all their options; only ids differ, and what the start finds in the root."""
    words = ("--tmpfs", "/scratch:size=1m", "--read-only", "/bin/true")
    plan = plan_of(caller, *words)
    done = caller.run("--explain", "--format", "json", *words)
    steps = [step for step in json.loads(done.stderr)["steps"] if step["process"] in ("shim", "helper")]
    begin = [step["name"] for step in steps].index("layers")
    mounted = [step for step in steps[begin:] if step["name"] not in ("await init", "join")]
    planned = plan["mounts"]
    assert [step["name"] for step in mounted[: len(planned)]] == [entry["step"] for entry in planned]
    first = plan["idMaps"][0]["hostID"]
    real = int(next(step for step in steps if step["name"] == "id range")["call"].rpartition(" = ")[2])
    for entry, step in zip(planned, mounted, strict=False):
        if entry["step"] in ("mask", "readonly"):
            assert step["call"].startswith(entry["call"].partition("; ")[0])
        elif "pidns" not in step["call"]:
            call = re.sub(r"\d{8,}", lambda m: str(int(m.group()) - first + real), entry["call"])
            assert step["call"] == call


def test_the_plan_of_a_tenant(daemon: Daemon, tenant: User) -> None:
    plan = plan_of(Caller(daemon, tenant), "--name", "planned", "-e", "A=b", "-w", "/usr", "/bin/echo", "hi")
    assert (plan["name"], plan["uid"], plan["rights"], plan["asks"]) == ("planned", tenant.uid, "tenant", [])
    assert {name for name, scope in plan["namespaces"].items() if scope == "host"} == {"time"}
    [ids] = plan["idMaps"]
    assert (ids["containerID"], ids["size"]) == (0, 65536)
    assert daemon.settings["ids"]["first"] <= ids["hostID"] <= daemon.settings["ids"]["last"]
    process = plan["process"]
    assert (process["cwd"], process["user"], process["env"]) == ("/usr", "0:0", ["A", "HOSTNAME", "PATH"])
    assert process["exec"] == 'execve("/bin/echo", ["/bin/echo", "hi"], envp /* 4 vars */)'
    assert len(plan["capabilities"]["bounding"]) == 14
    assert plan["seccomp"]["default"] == "ENOSYS"
    assert plan["seccomp"]["allowed"] > 300
    assert all(f"{daemon.cgroup}/" in call or call.startswith("clone3(") for call in plan["cgroup"])


def test_the_plan_of_an_admin(daemon: Daemon, admin: User) -> None:
    plan = plan_of(
        Caller(daemon, admin), "--userns", "host", "--pid", "host", "-u", "nobody", "--init", "/bin/true"
    )
    assert (plan["rights"], plan["asks"]) == ("admin", ["pid:host", "user:host"])
    assert {name for name, scope in plan["namespaces"].items() if scope == "host"} == {"user", "pid", "time"}
    assert plan["idMaps"] == []
    assert "MOUNT_ATTR_IDMAP" not in plan["mounts"][0]["call"]
    assert (plan["process"]["user"], plan["process"]["init"]) == ("nobody", True)


def test_the_plan_of_what_is_detached(make_daemon: MakeDaemon, tenant: User) -> None:
    """Its log, its health and its restart policy; and nothing is made either."""
    daemon = make_daemon(limits={"log_max_size": 8192, "log_max_files": 3})
    for caller in (Caller(daemon, None), Caller(daemon, tenant)):
        caller.output("/bin/true")
        settle(caller.daemon)
        before = snapshot(daemon)
        health = ("--health-tcp", "80", "--health-on-failure", "restart", "--health-interval", "5")
        words = (
            "-d",
            "-t",
            "--name",
            "planned",
            "--restart",
            "on-failure:3",
            *health,
            "--log-opt",
            "max-size=4k",
        )
        done = daemon.dkrctl("run", "--dry-run", "--format", "json", *words, "/bin/true", user=caller.user)
        assert (done.returncode, done.stderr) == (0, "")
        plan = json.loads(done.stdout)
        assert (plan["name"], plan["uid"]) == ("planned", 0 if caller.user is None else tenant.uid)
        assert plan["log"] == {
            "driver": "json-file",
            "mode": "non-blocking",
            "maxBufferSize": 1 << 20,
            "maxSize": 4096,
            "maxFiles": 3,
        }
        assert (plan["health"]["tcp"], plan["health"]["interval"], plan["health"]["retries"]) == (80, 5, 3)
        assert plan["health"]["onFailure"] == "restart"
        assert plan["end"]["restart"] == {"policy": "on-failure", "retries": 3}
        assert (plan["end"]["onDisconnect"], plan["process"]["terminal"]) == ("keep", [1, 2])
        done = daemon.dkrctl("run", "--dry-run", *words, "/bin/true", user=caller.user)
        text = " ".join(done.stdout.split())
        for said in (
            "kept by the log driver json-file; 3 files of 4096 bytes",
            "tcp 80, every 5",
            "then: restart",
        ):
            assert said in text
        assert "started again by its policy on-failure, at most 3 times" in text
        settle(caller.daemon)
        assert snapshot(daemon) == before


def test_the_plan_tells_where_the_output_goes(daemon: Daemon) -> None:
    caller = Caller(daemon, None)
    for words, log in (
        ((), {"driver": "passthrough"}),
        (("--log-driver", "none"), {"driver": "none"}),
        (("-d", "--log-driver", "none"), {"driver": "none"}),
        (("-d", "--log-driver", "passthrough"), {"driver": "passthrough"}),
    ):
        plan = plan_of(caller, *words, "/bin/true", stdin=subprocess.DEVNULL)
        assert plan["log"] == log
        assert ("health" in plan, "restart" in plan["end"]) == (False, False)
    kept = plan_of(caller, "--log-driver", "json-file", "--log-opt", "mode=blocking", "--rm", "/bin/true")
    assert (kept["log"]["driver"], kept["log"]["mode"], kept["end"]["rm"]) == ("json-file", "blocking", True)
    long = plan_of(caller, "--health-cmd", "x" * 100_000, "/bin/true")["health"]
    assert (long["args"], long["timeout"]) == (["/bin/sh", "-c", "x" * 100], 30)


REFUSED = {
    "a policy beside rm": ("-d", "--rm", "--restart", "always", "/bin/true"),
    "a policy of what is not detached": ("--restart", "always", "/bin/true"),
    "a driver of what is detached": (
        "-d",
        "--log-driver",
        "journald",
        "--log-opt",
        "max-size=1m",
        "/bin/true",
    ),
    "a namespace, detached": ("-d", "--pid", "host", "/bin/true"),
    "policy": ("--pid", "host", "/bin/true"),
    "no such root": ("nosuch", "x"),
    "the request": ("-w", "here", "/bin/true"),
    "the name": ("--name", "-x", "/bin/true"),
    "a mount option": ("--tmpfs", "/x:nosuch=1", "/bin/true"),
    "the command line": ("--nosuch", "/bin/true"),
    "descriptors": ("--preserve-fds", "2", "/bin/true"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_told_as_for_a_real_run(daemon: Daemon, tenant: User, name: str) -> None:
    caller = Caller(daemon, tenant)
    real, dry = caller.run(*REFUSED[name]), caller.run("--dry-run", *REFUSED[name])
    assert (dry.returncode, dry.stderr, dry.stdout) == (real.returncode, real.stderr, "")
    assert real.returncode == 125


def test_a_name_that_is_taken_is_refused(caller: Caller) -> None:
    with caller.popen("--name", "taken", "/bin/sleep", "600") as client:
        caller.command("sleep")
        real, dry = (caller.run(*dry, "--name", "taken", "/bin/true") for dry in ((), ("--dry-run",)))
        assert (dry.returncode, dry.stderr) == (real.returncode, real.stderr)
        assert "taken" in real.stderr
        client.terminate()
        client.wait()


def test_the_text_fits_a_page(caller: Caller) -> None:
    done = caller.run("--dry-run", *WORDS, check=True)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "  id map            a free range, e.g. 0 " in done.stdout
    assert "SECRET" in done.stdout
    assert "SECRET=" not in done.stdout  # names, not values
    assert "\x1b" not in done.stdout


def test_at_a_terminal(caller: Caller) -> None:
    with Terminal(caller, columns=60) as terminal:
        before = terminal.mode()
        terminal.run("--dry-run", "/bin/true", env={"TERM": "xterm"})
        assert terminal.status() == 0
        assert terminal.mode() == before
        shown = terminal.shown.decode()
    assert "\x1b[1mContainer\x1b[0m" in shown
    lines = re.sub(r"\x1b\[\d+m", "", shown).split("\r\n")
    assert max(map(len, lines)) <= 60
    assert (
        "  terminal          one of its own, as 0 1" in lines
    )  # what the run would have made of this terminal


def test_the_callers_descriptors_stay_as_they_are(root: Caller) -> None:
    """A real run lets the pipe be opened again inside."""
    reader, writer = os.pipe()
    try:
        modes = []
        for words in (("--dry-run",), ()):
            done = root.run(*words, "/bin/true", stdout=writer)
            assert done.returncode == 0
            modes.append(os.fstat(writer).st_mode & 0o777)
        assert modes == [0o600, 0o602]
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--dry-run", "--explain"),
            "cannot explain a start that does not take place: --dry-run and --explain",
        ),
        (("--dry-run", "--format", "trace"), "cannot show a plan as a trace: nothing has been timed"),
    ],
)
def test_what_does_not_go_together(root: Caller, words: tuple[str, ...], said: str) -> None:
    done = root.run(*words, "/bin/true")
    assert (done.returncode, done.stderr.splitlines()[0]) == (125, f"dkrctl: {said}")


def test_a_file_for_the_id_is_not_made(root: Caller, open_tmp: Path) -> None:
    plan_of(root, "--cidfile", f"{open_tmp}/id", "/bin/true")
    assert list(open_tmp.iterdir()) == []
    (open_tmp / "id").write_text("")
    done = root.run("--dry-run", "--cidfile", f"{open_tmp}/id", "/bin/true")
    assert (done.returncode, done.stderr) == (
        125,
        root.run("--cidfile", f"{open_tmp}/id", "/bin/true").stderr,
    )


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_plan_that_cannot_be_written_is_an_error(root: Caller, form: str) -> None:
    with open("/dev/full", "wb") as full:
        done = root.run("--dry-run", "--format", form, "/bin/true", stdout=full)
    assert done.returncode == 125
    assert done.stderr == "dkrctl: cannot write the output: no space left on device\n"
