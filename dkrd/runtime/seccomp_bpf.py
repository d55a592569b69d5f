"""Turns "this system call number gets that verdict" into a seccomp program, and reads one back from its file.

Written for what libseccomp's rules cannot say (seccomp_rule_add(3)): "these values of the low 32 bits, and a
given errno for all the others". The kernel takes int arguments from the low half of a 64-bit register, so a
rule that compares all 64 bits is passed by setting one of the upper ones (CVE-2019-10063 was such a rule).
And on 32-bit x86 libseccomp turns a rule on socket's domain into one on socketcall's call number, where the
domain is not.

The shape of a program, classic BPF over struct seccomp_data (seccomp(2)):

    load arch; jump to its section, or kill
    a section: load nr; binary search over ranges of numbers; at each leaf a return, or a check of one
    argument

A section looks at arch and nr alone until a leaf, so that the kernel (5.11 and later) finds out beforehand
which calls are always allowed and does not run the program for them (seccomp_cache_prepare in
kernel/seccomp.c).
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from common.errors import HostUnfit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Raised whenever the same verdicts come out as other instructions: cached programs are named by it.
GENERATION = 1

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS, <linux/bpf_common.h>
INSTRUCTION_SIZE = 8  # struct sock_filter: u16 code, u8 jt, u8 jf, u32 k

# <linux/seccomp.h>
SECCOMP_RET_KILL_PROCESS = 0x80000000
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_ALLOW = 0x7FFF0000

# <linux/bpf_common.h>
BPF_LD_W_ABS = 0x20
BPF_JMP_JA = 0x05
BPF_JMP_JEQ_K = 0x15
BPF_JMP_JGE_K = 0x35
BPF_JMP_JSET_K = 0x45
BPF_RET_K = 0x06

# Offsets in struct seccomp_data; a little-endian machine has the low half of an argument first.
_NR, _ARCH, _ARGS = 0, 4, 16

_Code = list[tuple[int, int, int, int]]


class Comparison(StrEnum):
    """How an argument's low 32 bits are compared with a check's values."""

    ONE_OF = "one of"
    NONE_OF = "none of"
    NO_BIT_OF = "no bit of"


@dataclass(frozen=True, slots=True)
class Check:
    """A call is allowed if argument number `argument` (from 0) compares so with `values`; else it gives
    `errno`.
    """

    argument: int
    comparison: Comparison
    values: tuple[int, ...]
    errno: int


Verdict = int | Check  # an int is a SECCOMP_RET value


@dataclass(frozen=True, slots=True)
class Section:
    """arch: AUDIT_ARCH value of <linux/audit.h>; verdicts: system call number to verdict; all others get
    `default`.
    """

    arch: int
    verdicts: Mapping[int, Verdict]
    default: int


def refuse(errno: int) -> int:
    """The verdict that a call fails with `errno` (1 to 4095)."""
    return SECCOMP_RET_ERRNO | errno


def program(sections: Sequence[Section]) -> bytes:
    """The program for `sections`; a system call of any other architecture kills the process.

    Raises ValueError if it would have more than 4096 instructions.
    """
    code: _Code = [(BPF_LD_W_ABS, 0, 0, _ARCH)]
    for section in sections:
        body = _section(section)
        # Not this architecture: over the long jump's target. A section is longer than the 255 of a
        # conditional jump.
        code += [(BPF_JMP_JEQ_K, 1, 0, section.arch), (BPF_JMP_JA, 0, 0, len(body)), *body]
    code.append((BPF_RET_K, 0, 0, SECCOMP_RET_KILL_PROCESS))
    if len(code) > MAX_INSTRUCTIONS:
        raise ValueError(f"{len(code)} instructions, {MAX_INSTRUCTIONS} are the kernel's limit")
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _section(section: Section) -> _Code:
    ranges: list[tuple[int, Verdict]] = [(0, section.default)]
    following = 0
    for number in sorted(section.verdicts):
        if number > following:
            _begin(ranges, following, section.default)
        _begin(ranges, number, section.verdicts[number])
        following = number + 1
    _begin(ranges, following, section.default)
    return [(BPF_LD_W_ABS, 0, 0, _NR), *_search(ranges)]


def _begin(ranges: list[tuple[int, Verdict]], number: int, verdict: Verdict) -> None:
    """From `number` on the verdict is `verdict`."""
    if ranges[-1][0] == number:
        ranges.pop()
    if not ranges or ranges[-1][1] != verdict:
        ranges.append((number, verdict))


def _search(ranges: Sequence[tuple[int, Verdict]]) -> _Code:
    if len(ranges) == 1:
        verdict = ranges[0][1]
        return _check(verdict) if isinstance(verdict, Check) else [(BPF_RET_K, 0, 0, verdict)]
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    if len(below) <= 255:
        return [(BPF_JMP_JGE_K, len(below), 0, ranges[middle][0]), *below, *above]
    return [(BPF_JMP_JGE_K, 0, 1, ranges[middle][0]), (BPF_JMP_JA, 0, 0, len(below)), *below, *above]


def _check(check: Check) -> _Code:
    """Load the argument, compare with each value: a hit jumps to the last instruction, a miss ends in the one
    before.
    """
    jump = BPF_JMP_JSET_K if check.comparison is Comparison.NO_BIT_OF else BPF_JMP_JEQ_K
    hit, miss = refuse(check.errno), SECCOMP_RET_ALLOW
    if check.comparison is Comparison.ONE_OF:
        hit, miss = miss, hit
    count = len(check.values)
    return [
        (BPF_LD_W_ABS, 0, 0, _ARGS + 8 * check.argument),
        *((jump, count - i, 0, value) for i, value in enumerate(check.values)),
        (BPF_RET_K, 0, 0, miss),
        (BPF_RET_K, 0, 0, hit),
    ]


def read_program(path: str, dir_fd: int | None = None) -> bytes:
    """The seccomp program in the file `path`, for seccomp(2).

    Whoever can write that file decides what containers may call, so it is believed only if it is a regular
    file that belongs to root, that nobody else can write, and that has the size of a program. Raises
    HostUnfit otherwise, and where it cannot be read.
    """
    try:
        # O_NONBLOCK: a fifo in its place must not hold us up.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, dir_fd=dir_fd)
    except OSError as err:
        raise _unusable(path, err.strerror or str(err)) from err
    try:
        status = os.fstat(descriptor)
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise _unusable(path, "it is no regular file")
        if status.st_uid != 0 or status.st_mode & 0o022:
            raise _unusable(path, "others than root can write it")
        if size == 0 or size % INSTRUCTION_SIZE or size > MAX_INSTRUCTIONS * INSTRUCTION_SIZE:
            raise _unusable(path, f"{size} bytes are no seccomp program")
        data = os.read(descriptor, size + 1)
    finally:
        os.close(descriptor)
    if len(data) != size:
        raise _unusable(path, "it changed while it was read")
    return data


def _unusable(path: str, cause: str) -> HostUnfit:
    return HostUnfit(
        f"cannot use the seccomp program {path}: {cause}", hint="restart dkrd: it is compiled anew"
    )
