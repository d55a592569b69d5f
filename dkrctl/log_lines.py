"""The lines of a container's log as they come over HTTP (docs/protocol.md, section 6): of `dkrctl logs` and of the Python client."""

import base64
import binascii

from common.errors import ProtocolError
from common.frames import loads_lines, loads_object
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
        return _line(loads_object(text))
    except ValueError as err:
        raise ProtocolError(f"cannot understand the daemon: a line of the log is {err}") from err


def parse_all(texts: list[bytes]) -> list[Line]:
    """The same for many. Raises ProtocolError."""
    return [
        _line(said) if isinstance(said, dict) else parse(text)
        for said, text in zip(loads_lines(texts), texts, strict=True)
    ]


def _line(said: dict[str, object]) -> Line:
    text, stream, time = said.get("log"), said.get("stream"), said.get("time")
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else _decoded(said.get("logBase64"))
    if (
        data is None
        or not (stream == "stdout" or stream == "stderr")
        or not isinstance(time, str)
        or not time.isprintable()
    ):
        raise ProtocolError("cannot understand the daemon: a line of the log has another form")
    return Line(stream, time, data)


def _decoded(encoded: object) -> bytes | None:
    try:
        return base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else None
    except binascii.Error:
        return None


def splitter() -> Splitter[Line]:
    """Cuts an answer into the lines of a log."""
    return Splitter("the log", parse, parse_all)
