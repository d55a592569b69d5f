"""`make bench`: dkr beside other ways to start a container. As root; minutes; nothing is left on the machine.

What each figure means, and what it does not: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, from anywhere

from tests.bench import api, contenders, life, measures, report, terminals, traces
from tests.daemon import Daemon, test_prefix

NAMES = ("start", "api", "exec", "lists", "log", "rate", "pipe", "pty", "trace", "memory")
# More than any measurement starts; the limit is not what is measured.
LIMITS = {"containers_per_user": 1000}
IDS = {"first": 0x50000000, "last": 0x5FFFFFFF}  # 4096 ranges; neither the tests' nor an installed dkrd's


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures dkr beside other runtimes.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none is given"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=40,
        help="of `start`, `api`, `exec`; `trace` does five times as many, `lists`, `log`, `pipe` and `pty` an eighth",
    )
    parser.add_argument("--mebibytes", type=int, default=2048, help="of `pipe`")
    parser.add_argument("--peers-only", action="store_true", help="without dkr: how the others do here")
    parsed = parser.parse_args()
    if unknown := set(parsed.names) - set(NAMES):
        parser.error(f"no measurement is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return parsed


def _run_directory(directory: Path, stack: ExitStack) -> Path:
    """A tmpfs, as /run is one on every host that was booted: for all that keep the state of live containers there."""
    run = directory / "run"
    run.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "dkr-bench", run], check=True)
    stack.callback(lambda: subprocess.run(["umount", run], check=True))
    return run


def measure(options: argparse.Namespace, stack: ExitStack) -> list[report.Result]:
    """Run the measurements asked for, each shown when it is done."""
    directory = Path(tempfile.mkdtemp(prefix="dkr-bench-", dir="/var/lib"))
    stack.callback(shutil.rmtree, directory)
    run = _run_directory(directory, stack)
    everyone, runners = contenders.peers(directory, run)
    for runner in runners:
        stack.callback(runner.close)
    daemon = None
    if not options.peers_only:
        places = {"run_dir": f"{run}/dkr", "socket": f"{run}/dkr/dkr.sock"}
        daemon = Daemon.create(test_prefix(), limits=LIMITS, ids=IDS, **places)
        stack.callback(daemon.close)
        daemon.start()
        everyone.insert(0, contenders.dkr(daemon.prefix, daemon.environment(), runners[0]))
    results = []
    for name in options.names or NAMES:
        if name == "start":
            result = measures.start(everyone, options.rounds)
        elif name == "rate":
            result = measures.rate(everyone)
        elif name == "pipe":
            result = measures.pipe(everyone, max(1, options.rounds // 8), options.mebibytes << 20)
        elif daemon is None:
            continue
        elif name == "api":
            peers = [peer for peer in everyone if peer.name in ("crun", "runc")]
            result = api.api(daemon, peers, options.rounds)
        elif name == "exec":
            peers = [peer for peer in everyone if peer.name in ("crun", "runc")]
            result = life.exec_(daemon, everyone[0], peers, options.rounds)
        elif name == "lists":
            result = life.lists(daemon, max(3, options.rounds // 8))
        elif name == "log":
            result = life.log(daemon, max(1, options.rounds // 8), options.mebibytes)
        elif name == "trace":
            result = traces.trace(options.rounds * 5)
        elif name == "pty":
            result = terminals.pty_(daemon, max(1, options.rounds // 8))
        else:
            result = measures.memory(daemon)
        report.show(result)
        results.append(result)
    return results


def main() -> int:
    """Measure, show, and say which targets were met; a missed one is no failure, an error is."""
    options = arguments()
    if os.geteuid() != 0:
        print("make bench: root is needed, the others start containers as root", file=sys.stderr)
        return 1
    with ExitStack() as stack:
        results = measure(options, stack)
    targets = [target for result in results for target in result.targets]
    if targets:
        print("\ntargets")
        for target in targets:
            print(f"  {target}")
    print(f"\nraw samples: {report.OUTPUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
