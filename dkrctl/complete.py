"""`dkrctl __complete KIND [WORD...]`: what the shells' completion asks for, live from the daemon.

On the lean path (see lean.py): a shell waits for it at each press of the key, so it imports built-in modules, errors
and frames. No part of the command line that people use: KIND and what is printed belong to the scripts that
scripts/completion.py makes, which are installed with it.

Prints a line for each, a name (of what is executed in a container its id), a tab and what it is; nothing where no
daemon answers. Errors are not told: the shell is in the middle of a line.
"""

import posix
import sys

from common.errors import DkrError
from common.frames import loads
from common.options import CONTAINERS, EXECS, PAUSED, RUNNING, STOPPED
from dkrctl.http import Connection, socket_path

SECONDS = 2  # who waits has pressed a key
_LIMIT = SECONDS.to_bytes(8, sys.byteorder) + bytes(8)  # struct timeval of a 64-bit machine
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_HEX = frozenset("0123456789abcdef")
_MAX = 4096  # lines
_STATUSES = {  # of those that a kind means; without, any
    STOPPED: ("stopped", "created"),  # what `rm` can remove
    PAUSED: ("paused",),
}


def complete(words: list[str]) -> int:
    """`words`: the kind, then the command line so far, which may name a socket. The exit status: 0, or 1."""
    if not words or words[0] not in (CONTAINERS, RUNNING, PAUSED, STOPPED, EXECS):
        return 1
    try:
        lines = _execs(words[1:]) if words[0] == EXECS else list(map(_line, _containers(words[1:], words[0])))
    except (DkrError, OSError, ValueError):
        return 1
    lines = [line for line in lines if line]
    data = "".join(lines[:_MAX]).encode()
    while data:
        try:
            data = data[posix.write(1, data) :]
        except OSError:
            return 1
    return 0


def _socket_of(words: list[str]) -> str:
    """The socket that the command line names so far, the environment's, the default."""
    for place, word in enumerate(words):
        if word.startswith("--socket="):
            return word[9:]
        if word == "--socket" and place + 1 < len(words):
            return words[place + 1]
    return socket_path()


def _asked(words: list[str], target: str) -> list[object]:
    connection = Connection(_socket_of(words), _LIMIT)
    try:
        answer = connection.ask("GET", target)
        said = loads(connection.body(answer)) if answer.status == 200 else []
    finally:
        connection.close()
    return said if isinstance(said, list) else []


def _containers(words: list[str], kind: str) -> list[object]:
    found = _asked(words, "/v1/containers" + ("" if kind in (RUNNING, PAUSED) else "?all=true"))
    meant = _STATUSES.get(kind)
    return [one for one in found if isinstance(one, dict) and (meant is None or one.get("status") in meant)]


def _execs(words: list[str]) -> list[str]:
    """A line for each command in the container that the line, `exec kill` and what follows, names first. Raises as `_asked`."""
    # Late: for this alone.
    from common.exec_verbs import EXEC_KILL
    from common.options import GLOBAL
    from dkrctl.parse import parse

    rest = parse(GLOBAL, words, "dkrctl").rest[2:]
    named = parse(EXEC_KILL.options, rest, EXEC_KILL.name, intermixed=True).rest
    if not named or not _is_name(named[0]):
        return []
    return [_exec(one) for one in _asked(words, f"/v1/containers/{named[0]}/execs")]


def _exec(one: object) -> str:
    assert isinstance(one, dict)
    execid, args = one.get("id"), one.get("args")
    if not isinstance(execid, str) or not execid or not set(execid) <= _HEX or not isinstance(args, list):
        return ""
    return f"{execid[:12]}\t{_about(' '.join(map(str, args)))}\n"


def _line(container: object) -> str:
    assert isinstance(container, dict)
    name, image, status = (container.get(key) for key in ("name", "image", "status"))
    # What is no name would be read by the shell: none of it goes there.
    if not isinstance(name, str) or not _is_name(name):
        return ""
    return f"{name}\t{_about(f'{image}, {status}')}\n"


def _is_name(text: str) -> bool:
    return text[:1] not in ("", ".", "_", "-") and set(text) <= _NAME


def _about(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:60])
