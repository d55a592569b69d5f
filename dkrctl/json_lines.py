"""Answers that are lines of JSON (application/x-ndjson), as they come: logs and events, of `dkrctl` and of the Python client."""

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from common.errors import ProtocolError

T = TypeVar("T")
MAX_LINE = 1024 * 1024  # bytes of JSON; 16 KiB of output have at most six times as many


class Splitter(Generic[T]):
    """Cuts a stream of bytes into lines, each of which `parse` reads. `what` they are of, in errors: "the log".

    parse_all  reads many at once
    """

    def __init__(
        self,
        what: str,
        parse: Callable[[bytes], T],
        parse_all: Callable[[list[bytes]], list[T]] | None = None,
    ) -> None:
        self._what = what
        self._parse_all = parse_all or (lambda lines: [parse(line) for line in lines])
        self._rest = b""

    def feed(self, data: bytes) -> list[T]:
        """The lines that are complete now. Raises ProtocolError, and what `parse` raises."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise ProtocolError(f"cannot understand the daemon: a line of {self._what} does not end")
        return self._parse_all([line for line in whole if line.strip()])

    def end(self) -> None:
        """No more comes. Raises ProtocolError where that is in the middle of a line."""
        if self._rest.strip():
            raise ProtocolError(f"cannot understand the daemon: {self._what} ends in the middle of a line")

    def batches(self, pieces: Iterable[bytes]) -> Iterator[list[T]]:
        """The lines in `pieces` of the answer, those that came together in one list. Raises ProtocolError."""
        for piece in pieces:
            if found := self.feed(piece):
                yield found
        self.end()
