"""`dkrctl cp`: files and directories from a running container, or to one."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from common.copies import told
from common.errors import BadRequest, HostUnfit
from dkrctl.copying import Copy
from dkrctl.daemon import target
from dkrctl.report import note
from dkrctl.signals import Terminated

if TYPE_CHECKING:
    from types import FrameType

    from dkrctl.verbs import Call

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(call: Call) -> int:
    """`dkrctl cp SRC DEST`, one of which is CONTAINER:PATH; the exit status. Raises DkrError."""
    words = call.some_words()
    if len(words) != 2:
        raise BadRequest(
            f"cannot copy: {len(words)} words are given, two are wanted: from where, and where to",
            hint=call.command.usage,
        )
    source, destination = (_split(word) for word in words)
    if (source is None) == (destination is None):
        raise BadRequest(
            "cannot copy: one of the two, and one only, is CONTAINER:PATH",
            hint="a path of this side that has a colon begins with / or ./",
        )
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)  # so that no half of a file is left
    container, path = source or destination or ("", "")
    _, descriptor = call.daemon().session(target(container, "/archive"))
    with contextlib.closing(Copy(descriptor, container)) as copy:
        outward = source is not None
        notes = _out(call, copy, path, words[1]) if outward else _in(call, copy, words[0], path)
    if not call.parsed.flag("quiet"):
        for line in told(notes):
            note(line)
    return 0


def _split(word: str) -> tuple[str, str] | None:
    """Container and path of CONTAINER:PATH; None for a path of this side, or for -. Raises BadRequest."""
    container, colon, path = word.partition(":")
    if not colon or not container or container[0] in "./" or "/" in container:
        return None
    if not path:
        raise BadRequest(f"cannot copy {word}: the path is empty", hint=f"{container}:/ is all of it")
    return container, path if path.startswith("/") else f"/{path}"


def _end(number: int, _frame: FrameType | None) -> None:
    raise Terminated(number)


def _out(call: Call, copy: Copy, path: str, where: str) -> dict[str, object]:
    follow, keep = bool(call.parsed.flag("follow-link")), bool(call.parsed.flag("archive"))
    if where == "-":
        if keep:
            raise BadRequest("cannot copy to - with --archive: an archive has all uids and gids as it is")
        if os.isatty(1):
            raise BadRequest(
                "cannot copy to -: standard output is a terminal", hint="dkrctl cp CONTAINER:SRC - | tar t"
            )
        return copy.to_sink(path, _write, follow=follow)
    return copy.to_path(path, where, follow=follow, keep_ids=keep)


def _in(call: Call, copy: Copy, where: str, path: str) -> dict[str, object]:
    follow, keep = bool(call.parsed.flag("follow-link")), bool(call.parsed.flag("archive"))
    if where == "-":
        if follow:
            raise BadRequest("cannot copy from - with --follow-link: an archive has what it has")
        if os.isatty(0):
            raise BadRequest(
                "cannot copy from -: standard input is a terminal",
                hint="tar c SRC | dkrctl cp - CONTAINER:DEST",
            )
        return copy.from_descriptor(0, path, keep_ids=keep)
    return copy.from_path(where, path, follow=follow, keep_ids=keep)


def _write(data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(1, left) :]
        except BrokenPipeError:
            raise Terminated(signal.SIGPIPE) from None
        except OSError as err:
            cause = (err.strerror or str(err)).lower()
            raise HostUnfit(f"cannot write the archive: {cause}", errno=err.errno) from err
