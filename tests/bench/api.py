"""The HTTP API: a run on a kept connection beside crun's command line, requests a second, how soon it is ready, whether it rests."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dkrctl.http import ask_run
from dkrctl.session import Session
from tests.bench.contenders import BUSYBOX
from tests.bench.report import Result, Target, median, percentile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.contenders import Contender
    from tests.daemon import Daemon

TRUE = (BUSYBOX, "true")
WARM_UP = 3
API_BOUND = 1.0  # of crun's command line
READY_BOUND = 400.0  # ms
REQUESTS = 1000
REST_SECONDS = 10.0
START_SECONDS = 30  # limits.start_seconds


class Connection(http.client.HTTPConnection):
    """A connection that is kept."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__("dkr")
        self._path = str(daemon.socket)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)

    def ask(self, method: str, target: str, body: bytes = b"") -> bytes:
        """One request; RuntimeError unless it is answered with 200."""
        self.request(method, target, body, {"Content-Type": "application/json"} if body else {})
        answer = self.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {target}: {answer.status} {data[:500]!r}")
        return data


def _plain(connection: Connection) -> None:
    answer = json.loads(connection.ask("POST", "/v1/run", json.dumps({"args": TRUE}).encode()))
    if answer["exit"]["code"] != 0:
        raise RuntimeError(str(answer))


def _with_descriptors(daemon: Daemon, null: int) -> None:
    """As the SDK does it: a connection a run, because a session takes it over."""
    request: dict[str, object] = {"args": list(TRUE), "rm": True}
    _, descriptor = ask_run(str(daemon.socket), request)
    session = Session(descriptor)
    head: dict[str, object] = {
        "type": "start",
        "request": request,
        "asks": [],
        "stdio": [0, 1, 2],
        "tty": [],
        "root": [],
        "want": [],
    }
    session.first(head, [null] * 3)
    while (got := session.receive()) is not None and got[0]["type"] != "exited":
        pass
    session.close()


def milliseconds(call: Callable[[], object]) -> float:
    """How long `call` takes."""
    begun = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - begun) / 1e6


def _runs(
    daemon: Daemon, connection: Connection, peers: Sequence[Contender], rounds: int
) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {
        "one request": [],
        "with descriptors": [],
        **{p.name: [] for p in peers},
    }
    null = os.open("/dev/null", os.O_RDWR)
    try:
        for turn in range(WARM_UP + rounds):
            taken = {
                "one request": milliseconds(lambda: _plain(connection)),
                "with descriptors": milliseconds(lambda: _with_descriptors(daemon, null)),
                **{peer.name: peer.ask("once", TRUE)["ns"] / 1e6 for peer in peers},
            }
            if turn >= WARM_UP:
                for name, value in taken.items():
                    samples[name].append(value)
    finally:
        os.close(null)
    return samples


def _per_second(connection: Connection, target: str) -> float:
    begun = time.perf_counter()
    for _ in range(REQUESTS):
        connection.ask("GET", target)
    return REQUESTS / (time.perf_counter() - begun)


def _wake_ups(daemon: Daemon) -> int:
    """How often launcher and api have been put on a processor in a while in which nobody asks anything.

    Not in the while in which the launcher looks, once, for what its predecessor left: when every build of before must be over.
    """

    def switches() -> int:
        found = 0
        for pid in (daemon.pid, daemon.child("dkr-api").pid):
            for task in Path(f"/proc/{pid}/task").iterdir():
                lines = (task / "status").read_text().splitlines()
                found += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
        return found

    started = int(Path(f"/proc/{daemon.pid}/stat").read_text().rsplit(")", 1)[1].split()[19]) / os.sysconf(
        "SC_CLK_TCK"
    )
    time.sleep(max(1.0, started + START_SECONDS + 2 - time.clock_gettime(time.CLOCK_BOOTTIME)))
    before = switches()
    time.sleep(REST_SECONDS)
    return switches() - before


def _ready(daemon: Daemon, rounds: int) -> list[float]:
    """From the exec of dkrd to its READY=1."""
    samples = []
    for _ in range(rounds):
        daemon.stop()
        samples.append(milliseconds(daemon.start))
    return samples


def api(daemon: Daemon, peers: Sequence[Contender], rounds: int) -> Result:
    """All of it."""
    connection = Connection(daemon)
    samples = _runs(daemon, connection, peers, rounds)
    rows = [
        (name, f"{median(values):.1f}", f"{percentile(values, 90):.1f}", f"{min(values):.1f}")
        for name, values in samples.items()
    ]
    name = f"dkr-bench-{os.getpid()}"
    daemon.dkrctl("run", "--name", name, *TRUE, check=True)
    pings, looks = _per_second(connection, "/_ping"), _per_second(connection, f"/v1/containers/{name}")
    connection.request("DELETE", f"/v1/containers/{name}")
    connection.getresponse().read()
    connection.close()
    wake_ups = _wake_ups(daemon)
    ready = _ready(daemon, max(3, rounds // 10))
    targets = [
        Target("ready, ms from exec", median(ready), READY_BOUND),
        Target("wake-ups in 10 s of rest", wake_ups, 0),
    ]
    if "crun" in samples:
        for way in ("one request", "with descriptors"):
            ratio = median(samples[way]) / median(samples["crun"])
            targets.append(Target(f"run by API, {way}, share of crun's command line", ratio, API_BOUND))
    return Result(
        "api",
        f"`busybox true` in a fresh container by the API, ms, {rounds} rounds in turn",
        ("", "median", "p90", "least"),
        rows,
        {"milliseconds": samples, "ready": ready, "pings": pings, "inspects": looks, "wake_ups": wake_ups},
        targets,
        [f"GET /_ping: {pings:.0f} a second; GET /v1/containers/NAME: {looks:.0f} a second; one connection"],
    )
