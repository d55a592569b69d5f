"""Errands: what they bring, what they say, and that nobody waits for one that does not end."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import pytest

from common.errors import HostUnfit, Internal, StartFailed
from dkrd.runtime import errands


def soon() -> float:
    return time.monotonic() + 10


def test_a_descriptor_comes_and_is_the_callers() -> None:
    with errands.run(lambda: os.open("/", os.O_PATH), (), soon()) as errand:
        assert errand.descriptor >= 0
        os.kill(errand.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(errand.pid, 0)
    assert stat.S_ISDIR(os.fstat(errand.descriptor).st_mode)
    assert not os.get_inheritable(errand.descriptor)
    os.close(errand.descriptor)


def test_none_comes_where_none_is_wanted() -> None:
    with errands.run(lambda: -1, (), soon()) as errand:
        assert errand.descriptor == -1


def test_it_holds_what_it_needs_and_nothing_else() -> None:
    needed, other = os.open("/", os.O_PATH), os.open("/", os.O_PATH)
    with errands.run(lambda: -1, (needed,), soon()) as errand:
        held = {int(name) for name in os.listdir(f"/proc/{errand.pid}/fd")}
    assert needed in held
    assert other not in held
    assert len(held - {0, 1, 2, needed}) == 1  # its end of the socket
    for fd in (needed, other):
        os.close(fd)


def test_an_error_crosses_by_its_name() -> None:
    def refuse() -> int:
        raise HostUnfit("cannot use it: it is broken", hint="repair it")

    with pytest.raises(HostUnfit, match="it is broken") as caught, errands.run(refuse, (), soon()):
        pass
    assert caught.value.hint == "repair it"


def test_an_error_of_a_system_call_tells_its_number() -> None:
    with pytest.raises(StartFailed) as caught, errands.run(lambda: os.open("/no/such", 0), (), soon()):
        pass
    assert caught.value.errno == 2


def test_one_that_dies_is_no_success() -> None:
    def die() -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return -1

    with pytest.raises(Internal, match="an errand died"), errands.run(die, (), soon()):
        pass


def own_children() -> list[str]:
    """The pids of this process's children, zombies too."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_one_that_is_late_is_killed() -> None:
    before = own_children()
    begun = time.monotonic()
    children: list[int] = []

    def wait() -> int:
        signal.pause()
        return -1

    with pytest.raises(StartFailed) as caught, errands.run(wait, (), begun + 0.1) as errand:
        children.append(errand.pid)
    assert caught.value.step == "deadline"
    assert children == []
    assert own_children() == before


def test_what_fails_in_the_block_ends_it_too() -> None:
    before = own_children()
    with pytest.raises(ZeroDivisionError), errands.run(lambda: -1, (), soon()):
        raise ZeroDivisionError
    assert own_children() == before


def test_a_child_that_has_ended_is_reaped() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    pidfd = os.pidfd_open(pid)
    assert os.waitstatus_to_exitcode(errands.end(pid, pidfd, kill=False) or 0) == 3
    os.close(pidfd)


def test_a_child_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "PATIENCE", 0.05)
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    pidfd = os.pidfd_open(pid)
    status = errands.end(pid, pidfd, kill=False)
    assert status is not None
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    os.close(pidfd)
