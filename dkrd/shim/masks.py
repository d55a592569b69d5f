"""Whether a process has an answer of its own to a signal: what proc(5) tells of its masks."""

from __future__ import annotations

import os
import sys

_TRIES = 16
# The number of rt_sigtimedwait(2), of which sigwait(3) and sigwaitinfo(2) are made
_SIGTIMEDWAIT = {"x86_64": 128, "aarch64": 137}.get(os.uname().machine, -2)
_MASKS = (b"SigBlk:", b"SigIgn:", b"SigCgt:")
_PENDING = (b"SigPnd:", b"ShdPnd:")
_SWITCHES = b"voluntary_ctxt_switches:"


def answers(pid: int, number: int) -> bool:
    """Whether process `pid` catches, ignores or blocks the signal `number`, or waits for it; True where it is
    ending.

    While it waits in sigwait(3) the kernel shows what it waits for as not blocked. So what it waits for is
    read as well, and both once more where the process has slept or woken in between: one of the two reads
    may have missed it.
    """
    bit = 1 << (number - 1)
    try:
        masks, switches = _status(pid)
        for _ in range(_TRIES):
            if (masks | _awaited(pid)) & bit:
                return True
            before = switches
            masks, switches = _status(pid)
            if switches == before:
                break
    except (OSError, ValueError):
        return True
    return bool(masks & bit)


def blocks(pid: int, number: int) -> bool:
    """Whether process `pid` blocks the signal `number`, and would neither catch nor ignore it if it came through."""
    masks = _masks(pid)
    others = masks.get(b"SigIgn:", 0) | masks.get(b"SigCgt:", 0)
    return bool(masks.get(b"SigBlk:", 0) & ~others & 1 << (number - 1))


def holds(pid: int, number: int) -> bool:
    """Whether the signal `number` was sent to process `pid` and still waits, because it is blocked there."""
    masks = _masks(pid)
    return bool((masks.get(b"SigPnd:", 0) | masks.get(b"ShdPnd:", 0)) & 1 << (number - 1))


def sleeps(pid: int) -> bool:
    """Whether process `pid` waits for something: then its masks are what they are to be."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in b"SD"
    except OSError:
        return False


def _masks(pid: int) -> dict[bytes, int]:
    """The masks of proc(5) status by their names; none where there is no such process."""
    found = {}
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                name, _, value = line.partition(b"\t")
                if name in _MASKS or name in _PENDING:
                    found[name] = int(value, 16)
    except (OSError, ValueError):
        return {}
    return found


def _status(pid: int) -> tuple[int, int]:
    """The three masks in one, and how often the process has gone to sleep."""
    masks = switches = 0
    with open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            name, _, value = line.partition(b"\t")
            if name in _MASKS:
                masks |= int(value, 16)
            elif name == _SWITCHES:
                switches = int(value)
    return masks, switches


def _awaited(pid: int) -> int:
    """The signals that the process waits for now. The address is the container's word: a bad one, or a
    kernel that does not tell, gives none.
    """
    try:
        with open(f"/proc/{pid}/syscall", "rb") as file:
            words = file.read().split()
        if len(words) < 2 or int(words[0]) != _SIGTIMEDWAIT:
            return 0
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            return int.from_bytes(os.pread(memory.fileno(), 8, int(words[1], 16)), sys.byteorder)
    except (OSError, ValueError, OverflowError):
        return 0
