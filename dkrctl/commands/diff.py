"""`dkrctl diff`: what a container has changed of its root."""

import base64
import binascii

from common.errors import BadRequest, ProtocolError
from dkrctl import output
from dkrctl.cells import plain
from dkrctl.daemon import target
from dkrctl.verbs import Call

SECONDS = 70.0  # others may be looked at before


def run(call: Call) -> int:
    """`dkrctl diff CONTAINER`: a line for each path, `A /new`, `C /changed`, `D /gone`; the exit status. Raises DkrError."""
    names = call.some_words()
    if len(names) > 1:
        raise BadRequest(f"cannot take {names[1]!r}: diff takes one container")
    answer = call.daemon().get(target(names[0], "/diff"), seconds=SECONDS)
    if not isinstance(answer, list):
        raise ProtocolError("cannot understand the daemon: its list of changes is none")
    lines = [_line(entry) for entry in answer]
    if output.is_terminal():
        output.emit("".join(f"{plain(line.decode(errors='backslashreplace'))}\n" for line in lines))
    else:
        output.write(1, b"".join(line + b"\n" for line in lines))
    return 0


def _line(entry: object) -> bytes:
    said = entry if isinstance(entry, dict) else {}
    kind, path, encoded = said.get("kind"), said.get("path"), said.get("pathBase64")
    try:
        raw = path.encode() if isinstance(path, str) else base64.b64decode(str(encoded), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raw = b""
    if kind not in ("A", "C", "D") or not raw:
        raise ProtocolError("cannot understand the daemon: a change has another form")
    return f"{kind} ".encode() + raw
