"""Plain HTTP requests to the daemon, and what is tried again.

Each request has a connection of its own: on a Unix socket it costs less than the answer, and a kept one that the daemon has closed
meanwhile would make a request fail of which nobody could tell whether it was carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING

import aiohttp

from common.errors import DkrError, ProtocolError, Unavailable, from_wire
from common.frames import dumps, loads_object
from dkrctl import diagnosis

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    Query = Mapping[str, str] | Sequence[tuple[str, str]]

MAX_ANSWER = 256 * 1024 * 1024  # bytes
FIRST_PAUSE = 0.02  # seconds before the second attempt; each further pause is twice as long, up to LAST_PAUSE
LAST_PAUSE = 0.5
# What connect(2) says of a daemon that is just being started anew.
_ABSENT = frozenset((errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOENT, errno.EAGAIN, errno.ENOTCONN))


class _NoAnswer(Exception):
    """Not a byte of an answer came; `error` says why."""

    def __init__(self, error: DkrError) -> None:
        super().__init__(error)
        self.error = error


class Transport:
    """HTTP over the Unix socket at `path`; `retry`: seconds for which a GET without an answer is tried again."""

    def __init__(self, path: str, retry: float) -> None:
        self.path = path
        self.retry = retry
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Begin; nothing is sent yet."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=self.path, limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def close(self) -> None:
        """Let go of every connection; a request that is under way fails."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def check(self) -> None:
        """Raises RuntimeError outside of `async with`."""
        if self._session is None:
            raise RuntimeError("the client is not open: use `async with Client() as dkr:`")

    async def ask(self, method: str, target: str, body: object = None, query: Query | None = None) -> bytes:
        """The body of the answer to one request, with `body` as JSON. Raises DkrError.

        A GET of which not a byte of an answer came is sent again, with growing pauses, until `retry` seconds have passed. Nothing
        else is ever sent twice: it may have been carried out.
        """
        async with self._answer(method, target, body, query) as answer:
            return await _content(answer)

    async def stream(
        self, target: str, query: Query, on_head: Callable[[Mapping[str, str]], None] | None = None
    ) -> AsyncGenerator[bytes]:
        """The body of the answer to GET `target`, as it comes; asked again as `ask` does, until it begins. Raises DkrError.

        on_head  called with the headers of a good answer
        """
        async with self._answer("GET", target, None, query) as answer:
            if on_head is not None:
                on_head(answer.headers)
            async for piece in answer.content.iter_any():
                yield piece

    @contextlib.asynccontextmanager
    async def _answer(
        self, method: str, target: str, body: object, query: Query | None
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """The answer, a good one, for the block that reads it."""
        answer = await self._asked(method, target, body, query)
        try:
            if not 200 <= answer.status < 300:
                raise self._problem(answer, await _content(answer))
            yield answer
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as err:
            raise diagnosis.cut_off() from err
        finally:
            answer.close()

    async def _asked(
        self, method: str, target: str, body: object, query: Query | None
    ) -> aiohttp.ClientResponse:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.retry
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._ask(method, target, body, query)
            except _NoAnswer as err:
                if method != "GET" or loop.time() + pause > until:
                    raise err.error from err
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    async def _ask(
        self, method: str, target: str, body: object, query: Query | None
    ) -> aiohttp.ClientResponse:
        self.check()
        assert self._session is not None
        data = None if body is None else dumps(body)
        headers = {} if data is None else {"Content-Type": "application/json"}
        try:
            return await self._session.request(
                method,
                f"http://dkr{target}",
                data=data,
                params=query,
                headers=headers,
                allow_redirects=False,
            )
        except aiohttp.ClientConnectorError as err:
            error = diagnosis.unreachable(self.path, err.os_error)
            raise (_NoAnswer(error) if err.os_error.errno in _ABSENT else error) from err
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as err:
            closed = "cannot get an answer: the daemon closed the connection"
            raise _NoAnswer(Unavailable(closed, hint=diagnosis.LOG)) from err
        except aiohttp.ClientError as err:
            raise ProtocolError(f"cannot understand the daemon: {type(err).__name__}") from err

    def _problem(self, answer: aiohttp.ClientResponse, content: bytes) -> DkrError:
        """The error that an answer tells: RFC 9457, or something that is not dkrd's."""
        try:
            said = loads_object(content)
        except ValueError:
            said = {}
        if not isinstance(said.get("code"), str):
            return diagnosis.unexplained(self.path, answer.status, answer.headers.get("Server", ""))
        return from_wire({**said, "message": said.get("detail") or said.get("title")})


async def _content(answer: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for piece in answer.content.iter_any():
        content += piece
        if len(content) > MAX_ANSWER:
            raise ProtocolError(
                f"cannot read the answer of the daemon: it has more than {MAX_ANSWER >> 20} MiB"
            )
    return bytes(content)
