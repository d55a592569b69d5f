"""The last step: find the command in the container's PATH and become it; and say well why that cannot be
done.

Runs after the root has changed: nothing may be imported any more.
"""

from __future__ import annotations

import errno
import os
from typing import NoReturn

from common.errors import CommandNotExecutable, CommandNotFound, DkrError, StartFailed

# e_machine of elf(5), for a message that helps
_MACHINES = {
    3: "i386",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390",
    40: "arm",
    62: "x86-64",
    183: "arm64",
    243: "riscv",
}


def change_directory(path: str) -> None:
    """chdir(2) to process.cwd, as the container's user."""
    try:
        os.chdir(path)
    except OSError as err:
        raise CommandNotExecutable(
            f"cannot change to the working directory {path}: {os.strerror(err.errno or 0).lower()}",
            step="chdir",
            errno=err.errno,
            hint="--workdir names a directory that exists in the container",
        ) from None
    # CVE-2024-21626: a working directory outside the root would show as unreachable or as a path above.
    if not os.getcwd().startswith("/"):
        raise StartFailed(
            f"cannot use the working directory {path}: it is outside the container's root", step="chdir"
        )


def execute(args: tuple[str, ...], env: dict[str, str]) -> NoReturn:
    """execve(2) of `args` with `env`, searching the env's PATH where args[0] has no slash. Raises DkrError."""
    name = args[0]
    if "/" in name:
        raise _explain(name, _try(name, args, env))
    denied: tuple[str, OSError] | None = None
    path = env.get("PATH", "")
    for directory in path.split(":"):
        candidate = f"{directory or '.'}/{name}"
        error = _try(candidate, args, env)
        if error.errno == errno.EACCES:
            denied = denied or (candidate, error)
        elif (
            error.errno == errno.ENOENT and os.path.lexists(candidate) and os.path.exists(candidate)
        ) or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise _explain(candidate, error)
    if denied is not None:
        raise _explain(*denied)
    raise CommandNotFound(
        f"cannot run {name!r}: it is in no directory of PATH ({path})",
        step="execve",
        errno=errno.ENOENT,
        hint="a first argument that does not begin with / is an image; the command follows it",
    )


def _try(path: str, args: tuple[str, ...], env: dict[str, str]) -> OSError:
    try:
        os.execve(path, args, env)
    except OSError as err:
        return err
    except ValueError as err:
        raise StartFailed(f"cannot run {path!r}: {err}", step="execve") from None


def _explain(path: str, error: OSError) -> DkrError:
    number = error.errno or 0
    cause = os.strerror(number).lower()
    kind: type[DkrError] = CommandNotExecutable
    hint: str | None = None
    if number == errno.ENOENT and os.path.exists(path):
        interpreter = _interpreter(path)
        cause = f"its interpreter {interpreter} is not in the container" if interpreter else cause
        kind = CommandNotFound
    elif number in (errno.ENOENT, errno.ENOTDIR):
        kind = CommandNotFound
    elif number == errno.ENOEXEC:
        cause = _format(path)
    elif number == errno.EACCES:
        hint = "it is a directory" if os.path.isdir(path) else "is it executable for this user? ls -l shows"
    elif number == errno.E2BIG:
        cause, hint = (
            "its arguments and environment are longer than the kernel takes",
            "see execve(2), Limits",
        )
    return kind(f"cannot run {path!r}: {cause}", step="execve", errno=number, hint=hint)


def _head(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _interpreter(path: str) -> str | None:
    """What the kernel looked for and did not find: the #! line's program, or the ELF file's dynamic loader."""
    head = _head(path)
    if head.startswith(b"#!"):
        words = head[2:256].split(b"\n", 1)[0].split()
        return words[0].decode("utf-8", "replace") if words else None
    if head.startswith(b"\x7fELF") and len(head) >= 64 and head[4] == 2:
        offset, size, count = (
            int.from_bytes(head[32:40], "little"),
            int.from_bytes(head[54:56], "little"),
            int.from_bytes(head[56:58], "little"),
        )
        for i in range(count):
            entry = head[offset + i * size : offset + (i + 1) * size]
            if entry[:4] == b"\x03\0\0\0" and len(entry) >= 40:  # PT_INTERP
                start, length = int.from_bytes(entry[8:16], "little"), int.from_bytes(entry[32:40], "little")
                return head[start : start + length].rstrip(b"\0").decode("utf-8", "replace") or None
    return None


def _format(path: str) -> str:
    head = _head(path)
    if head.startswith(b"\x7fELF") and len(head) >= 20:
        machine = int.from_bytes(head[18:20], "big" if head[5] == 2 else "little")
        return f"it is a program for another machine ({_MACHINES.get(machine, f'ELF machine {machine}')}, this is {os.uname().machine})"
    if head.startswith(b"#!"):
        return "its #! line is malformed"
    return "it is neither a program of this machine nor a script with a #! line"
