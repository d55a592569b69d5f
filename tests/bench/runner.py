"""Starts commands and times them: one request a line on stdin, one answer a line on stdout, both JSON.

A process of its own, so that contenders that need a mount namespace get one, once, and so that what is timed is a spawn from a
small process (posix_spawn: the size of the parent does not count) up to the reaping of the child. "{id}" in an
argument becomes a name that was not used before.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from typing import Any

_COUNTER = itertools.count()
_PIPE_SIZE = 1 << 20
F_SETPIPE_SZ = 1031


def _spawn(argv: list[str], env: dict[str, str], stdout: int, stderr: int) -> int:
    unique = f"dkr-bench-{os.getpid()}-{next(_COUNTER)}"
    argv = [argument.replace("{id}", unique) for argument in argv]
    actions = [(os.POSIX_SPAWN_DUP2, stdout, 1), (os.POSIX_SPAWN_DUP2, stderr, 2)]
    return os.posix_spawn(argv[0], argv, env, file_actions=actions)


def once(request: dict[str, Any], null: int, errors: int) -> dict[str, Any]:
    """Nanoseconds from spawn to exit, and the status."""
    start = time.perf_counter_ns()
    pid = _spawn(request["argv"], request["env"], null, errors)
    _, status = os.waitpid(pid, 0)
    return {"ns": time.perf_counter_ns() - start, "status": os.waitstatus_to_exitcode(status)}


def rate(request: dict[str, Any], null: int, errors: int) -> dict[str, Any]:
    """As many as come to their end in a time, with so many in flight."""
    start = time.perf_counter_ns()
    end = start + int(request["seconds"] * 1e9)
    running = count = failed = 0
    while True:
        while running < request["inflight"] and time.perf_counter_ns() < end:
            _spawn(request["argv"], request["env"], null, errors)
            running += 1
        if not running:
            return {"count": count, "failed": failed, "ns": time.perf_counter_ns() - start}
        _, status = os.waitpid(-1, 0)
        running -= 1
        count += 1
        failed += status != 0


def pipe(request: dict[str, Any], null: int, errors: int) -> dict[str, Any]:
    """Bytes that arrive on the command's standard output, and nanoseconds from the first to the last of them."""
    os.sched_setaffinity(0, {request["cpu"]})
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = _spawn(request["argv"], request["env"], writing, null)
    os.close(writing)
    buffer = bytearray(_PIPE_SIZE)
    total = os.readv(reading, [buffer])
    start = time.perf_counter_ns()
    while got := os.readv(reading, [buffer]):
        total += got
    taken = time.perf_counter_ns() - start
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return {"bytes": total, "ns": taken, "status": os.waitstatus_to_exitcode(status)}


def main() -> None:
    """Serve requests until the end of input."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    answers = os.fdopen(os.dup(1), "w", buffering=1)  # not 1 itself, which children inherit
    requests = os.fdopen(os.dup(0), "r")
    os.dup2(null, 0)
    for line in requests:
        request = json.loads(line)
        operation = {"once": once, "rate": rate, "pipe": pipe}[request["operation"]]
        print(json.dumps(operation(request, null, sys.stderr.fileno())), file=answers)


if __name__ == "__main__":
    main()
