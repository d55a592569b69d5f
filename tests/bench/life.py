"""A container's life after its start: a further command beside crun's, what a log takes, how soon many are listed or measured."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.bench.api import TRUE, WARM_UP, Connection, milliseconds
from tests.bench.contenders import BUSYBOX, bundle
from tests.bench.report import Result, Target, median, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.contenders import Contender
    from tests.daemon import Daemon

SLEEP = (BUSYBOX, "sleep", "100000")
EXEC_BOUND = 1.0  # of crun's
LOG_BOUND = 300.0  # MB/s
LISTED, LIST_BOUND = 1000, 50.0  # containers, ms
MEASURED, MEASURE_BOUND = 100, 200.0
LINE = 128  # bytes, of what is logged


def exec_(daemon: Daemon, dkr: Contender, peers: Sequence[Contender], rounds: int) -> Result:
    """`true` in a container that runs: command lines from spawn to reaping, and one request on a kept connection."""
    name = f"dkr-bench-{os.getpid()}"
    daemon.dkrctl("run", "--detach", "--name", name, *SLEEP, check=True)
    everyone = [replace(dkr, prefix=(dkr.prefix[0], "exec", name))]
    for peer in peers:
        assert peer.bundles is not None
        head = peer.prefix[:3]  # crun --root DIR
        begin = (
            *head,
            "run",
            "--detach",
            "--bundle",
            str(bundle(peer.bundles, SLEEP)),
            f"{name}-{peer.name}",
        )
        peer.runner.ask("once", begin)
        everyone.append(replace(peer, prefix=(*head, "exec", f"{name}-{peer.name}"), bundles=None))
    connection = Connection(daemon)
    body = json.dumps({"args": TRUE}).encode()
    samples: dict[str, list[float]] = {"dkr, one request": [], **{each.name: [] for each in everyone}}
    try:
        for turn in range(WARM_UP + rounds):
            taken = {each.name: each.ask("once", TRUE)["ns"] / 1e6 for each in everyone}
            taken["dkr, one request"] = milliseconds(
                lambda: connection.ask("POST", f"/v1/containers/{name}/exec", body)
            )
            if turn >= WARM_UP:
                for who, value in taken.items():
                    samples[who].append(value)
    finally:
        connection.close()
        daemon.dkrctl("rm", "--force", name, check=True)
        for peer in peers:
            peer.runner.ask("once", (*peer.prefix[:3], "delete", "--force", f"{name}-{peer.name}"))
    targets = []
    if "crun" in samples:
        for who in ("dkr", "dkr, one request"):
            ratio = median(samples[who]) / median(samples["crun"])
            targets.append(Target(f"exec, {who}, share of crun's time", ratio, EXEC_BOUND))
    rows = [
        (who, f"{median(values):.1f}", f"{percentile(values, 90):.1f}", f"{min(values):.1f}")
        for who, values in samples.items()
    ]
    title = f"`busybox true` by exec in a running container, ms, {rounds} rounds in turn"
    return Result("exec", title, ("", "median", "p90", "least"), rows, {"milliseconds": samples}, targets)


def log(daemon: Daemon, rounds: int, mebibytes: int) -> Result:
    """What a detached command writes, until it has ended and the log is whole: lines, kept and rotated by its guardian.

    Beside it the same command with its output in a pipe that somebody reads and drops. It writes a file again and again, which takes
    it next to nothing: one that makes each line (`yes | head`) is busier than its guardian.
    """
    mebibyte = f"{BUSYBOX} yes {'x' * (LINE - 1)} | {BUSYBOX} head -n {(1 << 20) // LINE} >$f"
    again = f"n={mebibytes}; while [ $n -gt 0 ]; do {BUSYBOX} cat $f; n=$((n - 1)); done; rm $f"
    command = (BUSYBOX, "sh", "-ec", f"f=/tmp/dkr-bench-$$; {mebibyte}; {again}")
    samples: dict[str, list[float]] = {"logged": [], "a bare pipe": []}
    for _ in range(rounds):
        begun = time.perf_counter()
        name = daemon.dkrctl("run", "--detach", *command, check=True).stdout.strip()
        daemon.dkrctl("wait", name, check=True)
        samples["logged"].append(mebibytes * 1.048576 / (time.perf_counter() - begun))
        daemon.dkrctl("rm", name, check=True)
        begun = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as bare:
            assert bare.stdout is not None
            while bare.stdout.read(1 << 16):
                pass
        samples["a bare pipe"].append(mebibytes * 1.048576 / (time.perf_counter() - begun))
    rows = [(who, f"{median(values):.0f}") for who, values in samples.items()]
    return Result(
        "log",
        f"{mebibytes} MiB of lines of {LINE} bytes from a detached command, MB a second, {rounds} rounds",
        ("", "median"),
        rows,
        {"megabytes_per_second": samples},
        [Target("detached log, MB/s", median(samples["logged"]), LOG_BOUND, at_most=False)],
    )


def lists(daemon: Daemon, rounds: int) -> Result:
    """`ps` with many containers, which are made and not started, and `stats --no-stream` of many that sleep."""
    connection = Connection(daemon)
    samples: dict[str, list[float]] = {}
    made = [_made(connection) for _ in range(LISTED)]
    try:
        samples[f"GET /v1/containers?all=true, of {LISTED}"] = _times(
            rounds, connection, "/v1/containers?all=true"
        )
        samples["dkrctl ps --all"] = _command(rounds, daemon, "ps", "--all")
    finally:
        _remove(connection, made)
    sleeping = [daemon.dkrctl("run", "--detach", *SLEEP, check=True).stdout.strip() for _ in range(MEASURED)]
    try:
        samples[f"GET /v1/stats, of {MEASURED}"] = _times(rounds, connection, "/v1/stats")
        samples["dkrctl stats --no-stream"] = _command(rounds, daemon, "stats", "--no-stream")
    finally:
        _remove(connection, sleeping)
        connection.close()
    rows = [
        (what, f"{median(values):.1f}", f"{percentile(values, 90):.1f}", f"{min(values):.1f}")
        for what, values in samples.items()
    ]
    bounds = (LIST_BOUND, LIST_BOUND, MEASURE_BOUND, MEASURE_BOUND)
    targets = [
        Target(f"{what}, ms", median(values), bound)
        for (what, values), bound in zip(samples.items(), bounds, strict=True)
    ]
    title = f"how soon many containers are listed, and measured, ms, {rounds} rounds"
    return Result("lists", title, ("", "median", "p90", "least"), rows, {"milliseconds": samples}, targets)


def _made(connection: Connection) -> str:
    """A container that is made and not started: its id."""
    body = json.dumps({"args": TRUE}).encode()
    connection.request("POST", "/v1/containers", body, {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    return str(answer["id"])


def _times(rounds: int, connection: Connection, target: str) -> list[float]:
    connection.ask("GET", target)
    return [milliseconds(lambda: connection.ask("GET", target)) for _ in range(rounds)]


def _command(rounds: int, daemon: Daemon, *words: str) -> list[float]:
    return [milliseconds(lambda: daemon.dkrctl(*words, check=True)) for _ in range(rounds)]


def _remove(connection: Connection, containers: Sequence[str]) -> None:
    for name in containers:
        connection.request("DELETE", f"/v1/containers/{name}?force=true")
        connection.getresponse().read()
