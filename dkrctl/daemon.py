"""The daemon as the verbs ask it: one request a connection, within a time, its answer as JSON or as a stream.

Not on the lean path of `run`, and lean nevertheless; what goes over the wire is http.py's. The whole of an answer that is no stream must be
there within the limit: a daemon that hangs is told, not waited for.
"""

import _socket
import posix
import select
import time
from _struct import Struct

from common.errors import BadRequest, DkrError, NotFound, ProtocolError
from common.frames import dumps, loads
from dkrctl.http import Answer, Connection, ask_session, problem
from dkrctl.report import note
from dkrctl.signals import SIGPIPE, Terminated

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from dkrctl.awaited import Awaited

SECONDS = 10.0
_WONDERS = 2.0  # seconds that an answer may take before who sits at a terminal is told what is waited for
START_SECONDS = 70.0  # a build has its own deadline (the setting start_seconds), which is told better than that none answers
REMOVE_SECONDS = 70.0  # the api itself gives up after 60
FOREVER = 86400.0 * 365  # seconds: the daemon keeps the time
MAX_AT_ONCE = 64  # requests under way
VARIABLE = "DKR_TIMEOUT"
MAX_ANSWER = (
    256 * 1024 * 1024
)  # bytes; a container has some 1 KB, one with a long command a hundred times that
_MAX_LINE = 1024  # bytes of a chunk's size and extensions
# Answers that another release of dkrd may give to what this one knows, and the same as errors.
_SKEWED = frozenset((400, 404, 405, 415, 426))
_SKEWED_CODES = frozenset(("bad-request", "not-found"))

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_TIMEVAL = Struct("@ll")
_NO_LIMIT = _TIMEVAL.pack(0, 0)


def patience() -> float | None:
    """Seconds to wait for an answer, by the variable DKR_TIMEOUT; None where it is not set. Raises BadRequest."""
    text = posix.environ.get(VARIABLE.encode(), b"").decode("utf-8", "surrogateescape")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= 1e6:
        raise BadRequest(
            f"cannot take {VARIABLE}={text}: it is no number of seconds above 0", hint="as in DKR_TIMEOUT=30"
        )
    return seconds


def target(container: str, tail: str = "") -> str:
    """The path of the API for a container by its name or id. Raises NotFound for what can be neither."""
    # Names and ids have these characters; anything else would name another path, or none.
    if not container or container[0] in "._-" or not set(container) <= _NAME or len(container) > 128:
        raise NotFound(
            f'cannot find container "{container}": that is neither a name nor an id',
            hint="`dkrctl ps -a` lists them",
        )
    return f"/v1/containers/{container}{tail}"


def _timeval(seconds: float) -> bytes:
    """The struct timeval for `seconds`; never zero, which would mean no limit."""
    whole = int(max(seconds, 0.001) * 1_000_000)
    return _TIMEVAL.pack(*divmod(whole, 1_000_000))


def _cut_off() -> DkrError:
    # Late, here and below: only who meets a failure pays for what tells of it.
    from dkrctl.diagnosis import cut_off

    return cut_off()


class _Exchange(Connection):
    """One request and its answer. With `seconds` the whole must come within them."""

    __slots__ = ("_ends", "_reader", "_seconds")

    def __init__(self, path: str, seconds: float | None) -> None:
        self._seconds = seconds
        self._reader = -1
        self._ends = None if seconds is None else time.monotonic() + seconds
        super().__init__(path, b"" if seconds is None else _timeval(seconds))

    def send(
        self, method: str, target: str, body: bytes = b"", *, upgrade: bool = False, accept: str = ""
    ) -> None:
        try:
            super().send(method, target, body, upgrade=upgrade, accept=accept)
        except BlockingIOError as err:  # SO_SNDTIMEO, socket(7)
            raise self._late() from err

    def forever(self, reader: int = -1) -> None:
        """No limit from here on: the head is here, what follows comes when it comes.

        reader  a descriptor that it is written to: where nobody reads that any more, the client ends (Terminated, SIGPIPE), though
                nothing comes
        """
        self._ends, self._reader = None, reader
        for option in (_socket.SO_RCVTIMEO, _socket.SO_SNDTIMEO):
            self._socket.setsockopt(_socket.SOL_SOCKET, option, _NO_LIMIT)

    def content(self, answer: Answer) -> "Iterator[bytes]":
        """The body as it comes. Raises Unavailable where it is cut off."""
        if answer.status in (204, 304):
            return
        if answer.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunks()
            return
        length = answer.headers.get("content-length")
        left = int(length) if length and length.isascii() and length.isdigit() and len(length) < 16 else None
        while left is None or left:
            if not self._data and not self._fill():
                if left is None:
                    return
                raise _cut_off()
            piece = bytes(self._data if left is None else self._data[:left])
            del self._data[: len(piece)]
            left = left if left is None else left - len(piece)
            yield piece

    def _chunks(self) -> "Iterator[bytes]":
        """RFC 9112, 7.1: chunks up to the empty one; extensions and trailers are not used."""
        while True:
            digits = self._line().partition(b";")[0].strip()
            if not digits or len(digits) > 12 or not set(digits.lower()) <= set(b"0123456789abcdef"):
                raise ProtocolError("cannot understand the daemon: a chunk of its answer has no size")
            left = int(digits, 16)
            if not left:
                return
            while left:
                if not self._data and not self._fill():
                    raise _cut_off()
                piece = bytes(self._data[:left])
                del self._data[: len(piece)]
                left -= len(piece)
                yield piece
            if self._line():
                raise ProtocolError(
                    "cannot understand the daemon: a chunk of its answer is longer than it says"
                )

    def _line(self) -> bytes:
        while (end := self._data.find(b"\r\n")) < 0:
            if len(self._data) > _MAX_LINE:
                raise ProtocolError("cannot understand the daemon: a chunk of its answer has no size")
            if not self._fill():
                raise _cut_off()
        line = bytes(self._data[:end])
        del self._data[: end + 2]
        return line

    def comes(self, seconds: float) -> bool:
        """Whether something of the answer is there within so much of the time that is left."""
        left = seconds if self._ends is None else min(seconds, self._ends - time.monotonic())
        poller = select.poll()
        poller.register(self._socket.fileno(), select.POLLIN)
        return bool(self._data or poller.poll(max(0.0, left) * 1000))

    def _fill(self) -> bool:
        if self._ends is not None:
            left = self._ends - time.monotonic()
            if left <= 0:
                raise self._late()
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, _timeval(left))
        if self._reader >= 0:
            self._await_reader()
        try:
            return super()._fill()
        except BlockingIOError as err:
            raise self._late() from err

    def _await_reader(self) -> None:
        """Wait for the next bytes, or for the end of who reads."""
        poller = select.poll()
        poller.register(self._socket.fileno(), select.POLLIN)
        poller.register(self._reader, 0)  # POLLERR of a pipe, POLLHUP of a socket or a terminal, poll(2)
        if self._reader in dict(poller.poll()):
            raise Terminated(SIGPIPE)

    def _late(self) -> DkrError:
        from dkrctl import diagnosis

        return diagnosis.hangs(self._path, self._seconds or 0.0)


class Daemon:
    """The daemon behind the socket at `path`.

    awaited  what is waited for where an answer takes long, to be told
    wording  has the last word on an error
    """

    def __init__(self, path: str, seconds: float | None = None) -> None:
        """`seconds` bounds each answer that is no stream; None: what the environment says, or what fits the question."""
        self.path = path
        self._wished = patience() if seconds is None else seconds
        self.awaited: Awaited | None = None
        self.wording: Callable[[DkrError], DkrError] = lambda error: error

    @property
    def patience(self) -> float | None:
        """Seconds for which whoever asks wishes to wait; None where nothing was said."""
        return self._wished

    def _limit(self, usual: float = SECONDS) -> float:
        return usual if self._wished is None else self._wished

    def get(self, target: str, *, seconds: float = SECONDS) -> object:
        """The JSON value that GET `target` answers; `seconds` as of `post`. Raises DkrError."""
        return self._ask("GET", target, b"", self._limit(seconds))

    def post(self, target: str, body: object = None, *, seconds: float = SECONDS) -> object:
        """POST the JSON `body` (None: nothing) and give the answer's value, None for an answer without one.

        seconds  how long is waited where nobody wished otherwise
        """
        return self._ask("POST", target, b"" if body is None else dumps(body), self._limit(seconds))

    def session(self, target: str, body: object = None) -> tuple[str, int]:
        """POST the JSON `body` (None: nothing) for a session: the container's id and the descriptor, as `ask_session`."""
        seconds = self._limit()
        try:
            return ask_session(
                self.path, target, b"" if body is None else dumps(body), limit=_timeval(seconds)
            )
        except BlockingIOError as err:
            from dkrctl import diagnosis

            raise diagnosis.hangs(self.path, seconds) from err
        except DkrError as error:
            raise self.wording(self.aged(error)) from error

    def aged(self, error: DkrError) -> DkrError:
        """`error`, or where its cause may be that the daemon is of another release, that."""
        return self._beside_release(error) if error.code in _SKEWED_CODES else error

    def delete(self, target: str) -> None:
        """DELETE `target`; waits long enough for a removal."""
        self._ask("DELETE", target, b"", self._limit(REMOVE_SECONDS))

    def stream(
        self,
        method: str,
        target: str,
        accept: str = "",
        reader: int = -1,
        on_head: "Callable[[Answer], None] | None" = None,
    ) -> "Generator[bytes]":
        """The body of an answer as it comes, however long that takes; only its head must come in time.

        reader   where it is written to; who has gone there ends the client
        on_head  called with the head of a good answer
        """
        exchange = _Exchange(self.path, self._limit())
        try:
            answer = exchange.ask(method, target, accept=accept)
            if not 200 <= answer.status < 300:
                raise self._error(answer, _whole(exchange.content(answer)))
            if on_head is not None:
                on_head(answer)
            exchange.forever(reader)
            yield from exchange.content(answer)
        finally:
            exchange.close()

    def post_all(
        self, targets: "Sequence[str]", body: object, seconds: float
    ) -> "Generator[tuple[object, DkrError | None]]":
        """As `post` to each of `targets`, at the same time: the answer or the error of each, in their order."""
        data = b"" if body is None else dumps(body)
        for at in range(0, len(targets), MAX_AT_ONCE):
            yield from self._all(targets[at : at + MAX_AT_ONCE], data, self._limit(seconds))

    def _all(
        self, targets: "Sequence[str]", data: bytes, seconds: float
    ) -> "Generator[tuple[object, DkrError | None]]":
        exchanges: list[_Exchange] = []
        try:
            for target in targets:
                exchanges.append(_Exchange(self.path, seconds))
                exchanges[-1].send("POST", target, data)
            for exchange in exchanges:
                try:
                    yield self._answer(exchange), None
                except DkrError as error:
                    yield None, error
        finally:
            for exchange in exchanges:
                exchange.close()

    def _ask(self, method: str, target: str, data: bytes, seconds: float) -> object:
        exchange = _Exchange(self.path, seconds)
        try:
            exchange.send(method, target, data)
            return self._answer(exchange)
        finally:
            exchange.close()

    def _answer(self, exchange: _Exchange) -> object:
        if self.awaited is not None and posix.isatty(2) and not exchange.comes(_WONDERS):
            note(str(self.awaited))
            self.awaited = None  # once: whatever else is waited for was named
        answer = exchange.head()
        body = _whole(exchange.content(answer))
        if not 200 <= answer.status < 300 and answer.status != 304:
            raise self._error(answer, body)
        if not body:
            return None
        try:
            return loads(body)
        except ValueError as err:
            from dkrctl import diagnosis

            raise diagnosis.foreign(self.path, body) from err

    def _error(self, answer: Answer, body: bytes) -> DkrError:
        error = self.wording(problem(answer, body, self.path))
        if answer.status not in _SKEWED or isinstance(error, ProtocolError):
            return error
        return self._beside_release(error)

    def _beside_release(self, error: DkrError) -> DkrError:
        """`error`, unless the daemon is of another release, which may be its cause: then that is told."""
        from common.version import API_VERSION
        from dkrctl import diagnosis

        exchange = _Exchange(self.path, self._limit())
        try:
            answer = exchange.ask("GET", "/v1/version")
            said = loads(_whole(exchange.content(answer))) if answer.status == 200 else {}
        except (DkrError, ValueError):
            return error
        finally:
            exchange.close()
        facts = said if isinstance(said, dict) else {}
        found = diagnosis.skew(facts.get("version"), facts.get("apiVersion"))
        if found is None:
            return error
        what, hint = found
        if facts.get("apiVersion") != API_VERSION:
            return ProtocolError(f"cannot talk to dkrd at {diagnosis.shown(self.path)}: {what}", hint=hint)
        error.hint = "\n".join(line for line in (error.hint, f"{what}: {hint}") if line)
        return error


def _whole(content: "Iterator[bytes]") -> bytes:
    body = bytearray()
    for piece in content:
        body += piece
        if len(body) > MAX_ANSWER:
            raise ProtocolError(
                f"cannot read the answer of the daemon: it has more than {MAX_ANSWER >> 20} MiB"
            )
    return bytes(body)
