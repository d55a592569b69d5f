"""The measurements. Contenders take turns within a round, so that whatever else the machine does hits all alike."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests import host
from tests.bench.contenders import BUSYBOX, Contender, bare
from tests.bench.report import Result, Target, median, percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.daemon import Daemon

TRUE = (BUSYBOX, "true")
WARM_UP = 3
IN_FLIGHT = (1, 2, 4, 8, 16)
RATE_SECONDS = 2.0
BLOCK = 65536
SLEEPERS = (1, 10, 100)
SETTLE_SECONDS = 20.0

COMMAND_LINE_BOUND = 0.7  # of runc's
PIPE_BOUND = 0.98  # of a bare pipe's
CONTAINER_BOUND = 3.0  # MB
DAEMON_BOUND = 70.0  # MB


def _notes(contenders: Iterable[Contender]) -> list[str]:
    return [f"{contender.name}: {contender.note}" for contender in contenders if contender.note]


def start(contenders: Sequence[Contender], rounds: int) -> Result:
    """`true` in a fresh container, from the spawn of the command line to its end."""
    samples: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for turn in range(WARM_UP + rounds):
        for contender in contenders:
            taken = contender.ask("once", TRUE)["ns"] / 1e6
            if turn >= WARM_UP:
                samples[contender.name].append(taken)
    base = median(samples["runc"]) if "runc" in samples else None
    rows = [
        (
            name,
            f"{median(values):.1f}",
            f"{percentile(values, 90):.1f}",
            f"{min(values):.1f}",
            f"{median(values) / base:.2f}" if base else "-",
        )
        for name, values in samples.items()
    ]
    targets = []
    if base and "dkr" in samples:
        ratio = median(samples["dkr"]) / base
        targets.append(Target("command line, share of runc's time", ratio, COMMAND_LINE_BOUND))
    return Result(
        "start",
        f"`busybox true` in a fresh container, command line, ms, {rounds} rounds in turn",
        ("", "median", "p90", "least", "of runc"),
        rows,
        {"milliseconds": samples},
        targets,
        _notes(contenders),
    )


def rate(contenders: Sequence[Contender]) -> Result:
    """Starts a second with several in flight."""
    samples: dict[str, dict[str, float]] = {contender.name: {} for contender in contenders}
    for inflight in IN_FLIGHT:
        for contender in contenders:
            got = contender.ask("rate", TRUE, seconds=RATE_SECONDS, inflight=inflight)
            samples[contender.name][str(inflight)] = got["count"] / (got["ns"] / 1e9)
    rows = [(name, *(f"{value:.0f}" for value in values.values())) for name, values in samples.items()]
    return Result(
        "rate",
        f"starts a second, by how many are in flight, {RATE_SECONDS:g} s each",
        ("in flight", *(str(n) for n in IN_FLIGHT)),
        rows,
        {"per_second": samples},
        [],
        _notes(contenders),
    )


def pipe(contenders: Sequence[Contender], rounds: int, size: int) -> Result:
    """What passes through a command's standard output, writer and reader on one processor.

    On one processor, because a pipe has two speeds, according to whether both ends share one; and that is the scheduler's whim.
    """
    cpu = min(os.sched_getaffinity(0))
    blocks = str(size // BLOCK)
    command = (
        BUSYBOX,
        "taskset",
        f"{1 << cpu:x}",
        BUSYBOX,
        "dd",
        "if=/dev/zero",
        f"bs={BLOCK}",
        f"count={blocks}",
    )
    everyone = [bare(contenders[0].runner), *contenders]
    samples: dict[str, list[float]] = {contender.name: [] for contender in everyone}
    for turn in range(rounds + 1):
        for contender in everyone:
            got = contender.ask("pipe", command, cpu=cpu)
            if got["bytes"] != int(blocks) * BLOCK:
                raise RuntimeError(
                    f"{contender.name}: {got['bytes']} bytes have come, not {int(blocks) * BLOCK}"
                )
            if turn:
                samples[contender.name].append(got["bytes"] / 2**20 / (got["ns"] / 1e9))
    base = median(samples["bare"])
    rows = [
        (
            name,
            f"{median(values):.0f}",
            f"{min(values):.0f}",
            f"{max(values):.0f}",
            f"{median(values) / base:.3f}",
        )
        for name, values in samples.items()
    ]
    targets = []
    if "dkr" in samples:
        # Each round's own ratio: the machine's speed drifts from round to round.
        ratios = [mine / other for mine, other in zip(samples["dkr"], samples["bare"], strict=True)]
        targets.append(Target("stdout, share of a bare pipe", median(ratios), PIPE_BOUND, at_most=False))
    return Result(
        "pipe",
        f"stdout of {size / 2**20:.0f} MiB, MiB/s, all on processor {cpu}, {rounds} rounds in turn",
        ("", "median", "least", "most", "of bare"),
        rows,
        {"mebibytes_per_second": samples},
        targets,
        _notes(contenders),
    )


def _pss(pid: int) -> float:
    """Proportional set size in MB; proc_pid_smaps(5)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no memory")


def _daemon_memory(daemon: Daemon) -> dict[str, float]:
    """MB of launcher, api and all shims; what a container runs is not counted."""
    shims = [process for process in daemon.processes() if process.comm == "dkr-shim"]
    return {
        "launcher": _pss(daemon.pid),
        "api": _pss(daemon.child("dkr-api").pid),
        "shims": sum(_pss(process.pid) for process in shims),
        "containers": float(len(shims)),
    }


def memory(daemon: Daemon) -> Result:
    """PSS of the daemon alone and beside 1, 10 and 100 sleeping containers."""
    samples = [_daemon_memory(daemon)]
    sleepers: list[subprocess.Popen[bytes]] = []
    try:
        for count in SLEEPERS:
            while len(sleepers) < count:
                sleepers.append(_sleeper(daemon))
            samples.append(_daemon_memory(daemon))
    finally:
        for sleeper in sleepers:
            sleeper.send_signal(signal.SIGKILL)  # the client: with --on-disconnect kill the container ends
        for sleeper in sleepers:
            sleeper.communicate()
        _wait_for_shims(daemon)
    for sample in samples:
        sample["all"] = sample["launcher"] + sample["api"] + sample["shims"]
    names = ("containers", "launcher", "api", "shims", "all")
    rows = [
        (f"{sample['containers']:.0f}", *(f"{sample[name]:.1f}" for name in names[1:])) for sample in samples
    ]
    first, last = samples[1], samples[-1]
    further = (last["all"] - first["all"]) / (last["containers"] - first["containers"])
    return Result(
        "memory",
        "memory of the daemon's processes, PSS, MB",
        names,
        rows,
        {"megabytes": samples},
        [
            Target("MB for each further container", further, CONTAINER_BOUND),
            Target("MB for the daemon without containers", samples[0]["all"], DAEMON_BOUND),
        ],
    )


def _sleeper(daemon: Daemon) -> subprocess.Popen[bytes]:
    """A container that has begun to sleep: it has said so on its standard output."""
    script = f"echo; exec {BUSYBOX} sleep 86400"
    command = ("run", "--rm", "--on-disconnect", "kill", BUSYBOX, "sh", "-c", script)
    sleeper = daemon.popen(*command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert sleeper.stdout is not None
    if sleeper.stdout.read(1) != b"\n":
        raise RuntimeError(f"a container has not started; the daemon's log:\n{daemon.log[-4000:]}")
    return sleeper


def _wait_for_shims(daemon: Daemon) -> None:
    """Until the shims of containers that were killed have cleaned up."""
    for process in daemon.processes():
        if process.comm == "dkr-shim":
            host.wait_gone(process.pid, SETTLE_SECONDS)
