"""The lines of a container's log as they come over HTTP (docs/protocol.md, section 6): of `dkrctl logs` and of the Python client."""

import base64
import binascii
from collections.abc import Iterable, Iterator

from common.errors import ProtocolError
from common.frames import loads_object

MAX_LINE = 1024 * 1024  # bytes of JSON; 16 KiB of output have at most six times as many


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


class Splitter:
    """Cuts a stream of bytes into lines of JSON."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Line]:
        """The lines that are complete now. Raises ProtocolError."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise ProtocolError("cannot understand the daemon: a line of the log does not end")
        return [parse(line) for line in whole if line.strip()]

    def end(self) -> None:
        """No more comes. Raises ProtocolError where that is in the middle of a line."""
        if self._rest.strip():
            raise ProtocolError("cannot understand the daemon: the log ends in the middle of a line")


def lines(pieces: Iterable[bytes]) -> Iterator[list[Line]]:
    """The lines in `pieces` of the answer, those that came together in one list. Raises ProtocolError."""
    splitter = Splitter()
    for piece in pieces:
        if found := splitter.feed(piece):
            yield found
    splitter.end()
