"""The lines of a container's log as they come over HTTP (docs/protocol.md, section 6): of `dkrctl logs` and of the Python client."""

import base64
import binascii

from common.errors import ProtocolError
from common.frames import loads_object
from dkrctl.json_lines import Splitter


class Line:
    """A line of output, or 16 KiB of one without its newline: on which `stream` (stdout, stderr), when, and its bytes."""

    __slots__ = ("data", "stream", "time")

    def __init__(self, stream: str, time: str, data: bytes) -> None:
        self.stream = stream
        self.time = time
        self.data = data


def parse(text: bytes) -> Line:
    """The line that `text`, JSON, tells. Raises ProtocolError."""
    try:
        said = loads_object(text)
    except ValueError as err:
        raise ProtocolError(f"cannot understand the daemon: a line of the log is {err}") from err
    stream, time = said.get("stream"), said.get("time")
    data = _bytes_of(said)
    if (
        stream not in ("stdout", "stderr")
        or not isinstance(time, str)
        or not time.isprintable()
        or data is None
    ):
        raise ProtocolError("cannot understand the daemon: a line of the log has another form")
    return Line(str(stream), time, data)


def _bytes_of(said: dict[str, object]) -> bytes | None:
    text, encoded = said.get("log"), said.get("logBase64")
    if isinstance(text, str):
        return text.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else None
    except binascii.Error:
        return None


def splitter() -> Splitter[Line]:
    """Cuts an answer into the lines of a log."""
    return Splitter("the log", parse)
