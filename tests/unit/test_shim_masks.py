"""What proc(5) tells of a process's answers to signals, asked of real processes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from dkrd.shim import masks

PREPARE = {
    "nothing": "pass",
    "caught": "signal.signal(signal.SIGUSR1, lambda *_: None)",
    "ignored": "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
    "blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])",
    "awaited": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); wait = lambda: signal.sigwait([signal.SIGUSR1])",
    "another awaited": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); wait = lambda: signal.sigwait([signal.SIGUSR2])",
}


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("name", PREPARE)
def test_the_answers_of_a_process(name: str) -> None:
    code = f"import signal; wait = signal.pause; {PREPARE[name]}; print('ready', flush=True); wait()"
    with subprocess.Popen([sys.executable, "-ISc", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            while state_of(process.pid) != "S":
                pass  # on its way into the wait: that is where the masks are hard to tell
            answers = name not in ("nothing", "another awaited")
            assert masks.answers(process.pid, signal.SIGUSR1) is answers
            assert masks.answers(process.pid, signal.SIGTERM) is False
        finally:
            process.kill()


def test_one_that_has_ended_needs_nothing_done_for_it() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
        assert masks.answers(process.pid, signal.SIGTERM) is True
