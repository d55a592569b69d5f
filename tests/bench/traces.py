"""What the record of a start costs: starts that write one beside starts that write none.

The runtime alone, without daemon, policy and client: there is no switch by which a daemon would leave the record out. As a script it
builds one kind after the other in a process of its own (a guardian has one thread) and prints nanoseconds as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common import oci
from dkrd.runtime import build, capabilities, cgroups, mounts, spec, steps
from tests.bench.report import Result, Target, median

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = 0x5FFE0000  # just below the ids of the tests' daemons
ALLOW_ALL = b"\x06\0\0\0\0\0\xff\x7f"  # one instruction: SECCOMP_RET_ALLOW
PRIVATE = ["pid", "ipc", "uts", "cgroup", "network", "user", "mount"]
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
WARM_UP = 5
SHARE_BOUND = 2.0  # % of a start
SECONDS = 900


class Inert(steps.Recorder):
    """Records nothing; the name of the step under way is what an error needs anyway."""

    def begin(self, name: str, what: steps.What = "") -> None:
        self.current = name

    def note(self, text: str) -> None:
        return

    def child(self, process: str, tell: steps.Tell, size: int = 0) -> steps.Log:
        return InertLog()


class InertLog(steps.Log):
    """The same in a child."""

    def __init__(self) -> None:
        self.current = ""

    def begin(self, name: str, what: steps.What = "") -> None:
        self.current = name

    def note(self, text: str) -> None:
        return

    def close(self) -> None:
        return


class Site:
    """Where the containers are built: a layer with the host's /usr, a cgroup above them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.layout = cgroups.read_layout()
        self.spec = spec.parse(oci.default_spec(["/bin/true"], ["PATH=/usr/bin"], "bench", PRIVATE))
        layer = directory / "layers/skeleton"
        for name in ("usr", "proc", "sys", "dev", "tmp", "etc"):
            (layer / name).mkdir(parents=True)
        for name, target in LINKS.items():
            (layer / name).symlink_to(target)

    def start(self, recorder: steps.Recorder) -> int:
        """Nanoseconds from the plan to the command; everything is taken away again."""
        own = self.directory / "container"
        for name in ("upper", "work"):
            (own / name).mkdir(parents=True)
        os.chown(own / "upper", BASE, BASE)
        cgroup = cgroups.create(self.layout, self.directory.name, "one")
        try:
            begun = time.perf_counter_ns()
            recorder.begin("plan", "plan()")
            root = mounts.Root(f"{self.directory}/layers", ("skeleton",), True, (("/usr", "/usr"),))
            plan = mounts.plan(self.spec, root, BASE)
            recorder.note(str(len(plan)))
            built = build.build(self._task(plan, own, cgroup), recorder)
            taken = time.perf_counter_ns() - begun
            os.waitpid(built.pid, 0)
            os.close(built.pidfd)
            if built.mounts >= 0:
                os.close(built.mounts)
        finally:
            os.chdir("/")
            cgroup.close()
            cgroups.remove(cgroup.paths)
            shutil.rmtree(own)
        return taken

    def _task(self, plan: tuple[Any, ...], own: Path, cgroup: cgroups.Cgroup) -> build.Task:
        return build.Task(
            spec=self.spec,
            plan=plan,
            directory=str(own),
            base=BASE,
            cgroup=cgroup,
            deadline=time.monotonic() + 30,
            user=None,
            reaper=False,
            stdio={0: 0, 1: 1, 2: 2},
            tty=(),
            preserved=(),
            program=ALLOW_ALL,
            last_cap=capabilities.last_cap(),
        )

    def close(self) -> None:
        """Remove the cgroup above."""
        cgroups.remove_parent(self.layout, self.directory.name)


def replay(taken: list[steps.Step]) -> int:
    """Nanoseconds that recording these steps takes, and nothing else."""
    begun = time.perf_counter_ns()
    recorder = steps.Recorder("shim")
    log = recorder.child("init", lambda place, name, note: "")
    for step in taken:
        recorded: steps.Steps = log if step.process == "init" else recorder
        recorded.begin(step.name, step.what)
        if step.note:
            recorded.note(step.note)
    recorder.finish()
    return time.perf_counter_ns() - begun


def rounds(count: int) -> Iterator[dict[str, int]]:
    """A start of each kind in each round, in changing order; nanoseconds by kind."""
    directory = Path(tempfile.mkdtemp(prefix="dkr-bench-", dir="/var/lib"))
    site = Site(directory)
    try:
        for turn in range(WARM_UP + count):
            full, inert = steps.Recorder("shim"), Inert("shim")
            order = (("with", full), ("without", inert))
            taken = {name: site.start(recorder) for name, recorder in (order if turn % 2 else order[::-1])}
            taken["replayed"] = min(replay(full.steps()) for _ in range(3))
            taken["steps"] = len(full.steps())
            if turn >= WARM_UP:
                yield taken
    finally:
        site.close()
        shutil.rmtree(directory)


def trace(count: int) -> Result:
    """Measure `count` rounds."""
    command = [sys.executable, __file__, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    if done.returncode:
        raise RuntimeError(f"the builds have failed: {done.stderr[-2000:]}")
    samples: list[dict[str, int]] = json.loads(done.stdout)
    with_, without = (median([s[name] / 1e6 for s in samples]) for name in ("with", "without"))
    replayed = median([s["replayed"] / 1e6 for s in samples])
    # Each round's own difference: the machine's speed drifts from round to round.
    difference = median([(s["with"] - s["without"]) / 1e6 for s in samples])
    rows = [
        ("without a record", f"{without:.3f}", "-"),
        ("with it", f"{with_:.3f}", f"{difference / without:+.2%}"),
        (f"recording {samples[0]['steps']} steps, alone", f"{replayed:.3f}", f"{replayed / without:+.2%}"),
    ]
    return Result(
        "trace",
        f"a start by the runtime alone, from the plan to the command, ms, {count} rounds in turn",
        ("", "median", "of a start"),
        rows,
        {"nanoseconds": samples},
        [
            Target("the record, % of a start's time", 100 * difference / without, SHARE_BOUND),
            Target("the same, recording alone", 100 * replayed / without, SHARE_BOUND),
        ],
    )


if __name__ == "__main__":
    null = os.open("/dev/null", os.O_RDWR)
    out = os.dup(1)
    for number in (0, 1):
        os.dup2(null, number)
    os.write(out, json.dumps(list(rounds(int(sys.argv[1])))).encode())
