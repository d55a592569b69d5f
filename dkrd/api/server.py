"""The life of the api process: hello, index, serving, the end.

Started by the launcher as user dkr-api without a capability; descriptor 3 is the listening socket, 4 the
channel to the launcher. It ends when the channel does: the launcher starts another one, and no container
notices. Nothing here needs an orderly end, so there is none: what must survive is on disk or with the
shims.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import gc
import logging
import os
import resource
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from aiohttp import web

from common.errors import DkrError, Internal, ProtocolError, Unavailable
from dkrd.api import log as api_log
from dkrd.api import reports
from dkrd.api.app import make_app
from dkrd.api.channel import Channel, receive
from dkrd.api.connections import Connection
from dkrd.api.context import Context
from dkrd.api.endings import Endings
from dkrd.api.facts import Facts
from dkrd.api.feed import Feed
from dkrd.api.metrics import Metrics
from dkrd.api.peers import Peers
from dkrd.settings import Settings
from dkrd.state.index import Index, Lock, open_index
from dkrd.state.names import Names
from dkrd.state.worker import Worker

if TYPE_CHECKING:
    from common.models import ContainerState

log = logging.getLogger("dkr.api")

LISTENER, CHANNEL = 3, 4
BACKLOG = 4096  # as the launcher has it: listen(2) again would lower it
HELLO_SECONDS = (
    300.0  # the launcher looks at the machine and makes layers before it; if it ends, the channel does
)
COMPLETE_BELOW = 1000  # containers; many more than this do not fit into one message
FLUSH_SECONDS = 1.0  # for the index's last writes


@dataclass(frozen=True, slots=True)
class Hello:
    """What the launcher says first: the settings, the host, and what stands."""

    settings: Settings
    facts: Facts
    containers: tuple[ContainerState, ...]
    complete: bool  # these are all: the rest of a very long list follows as `state` messages
    epoch: str  # of the launcher's reports
    unheard: tuple[dict[str, object], ...]  # reports that no api has said to have written down


def main() -> NoReturn:
    """Serve until the channel ends. Exit status 0 then and on SIGTERM, 1 for an error, which is logged."""
    status = 1
    api_log.configure("info", "text")
    try:
        status = _serve()
    except DkrError as err:
        log.error("%s%s", err, f" ({err.hint})" if err.hint else "")
    except Exception:
        log.exception("the api failed")
    # No interpreter teardown: connections, threads and pools have nothing to say any more.
    os._exit(status)


def _serve() -> int:
    os.umask(0o077)
    _name_process("dkr-api")
    _raise_descriptor_limit()
    listener, channel = _inherited()
    hello = read_hello(channel)
    api_log.configure(hello.settings.log_level, hello.settings.log_format)
    directory = os.path.join(hello.settings.state_dir, "api")
    lock = Lock(directory)  # held by the descriptor until the process ends
    index = open_index(directory)
    names = _reconcile(index, hello)
    status = asyncio.run(_Server(hello, names).run(listener, channel, index))
    del lock
    return status


def _name_process(name: str) -> None:
    # proc(5): not writable for a process that is not dumpable. A name is not worth an end.
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write(name)


def _raise_descriptor_limit() -> None:
    """A connection is a descriptor: take what the launcher allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _inherited() -> tuple[socket.socket, socket.socket]:
    """The two sockets that the launcher passes. Raises Unavailable where they are not there."""
    try:
        listener, channel = socket.socket(fileno=LISTENER), socket.socket(fileno=CHANNEL)
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as err:
        raise Unavailable(
            f"cannot use the inherited sockets: {err.strerror}",
            hint="this process is started by dkrd, not by hand",
        ) from err
    if not listening or channel.type != socket.SOCK_SEQPACKET:
        raise Unavailable("cannot use the inherited sockets: they are of another kind")
    for fd in (LISTENER, CHANNEL):
        fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    listener.setblocking(False)
    return listener, channel


def read_hello(channel: socket.socket) -> Hello:
    """The launcher's first message. Raises ProtocolError where it is another, Unavailable where none comes."""
    channel.settimeout(HELLO_SECONDS)
    try:
        message = receive(channel)
    except TimeoutError:
        raise Unavailable(f"cannot start: the launcher said nothing for {HELLO_SECONDS:g} s") from None
    if message is None:
        raise Unavailable("cannot start: the launcher has ended")
    if message.get("type") != "hello" or message.get("version") != 2:
        got = f"{message.get('type')!r} version {message.get('version')!r}"
        raise ProtocolError(f"cannot start: hello version 2 is expected first, not {got}")
    settings, containers = message.get("settings"), message.get("containers")
    if not isinstance(settings, dict) or not isinstance(containers, list):
        raise ProtocolError("cannot start: hello has no settings or no containers")
    unheard = message.get("unheard", [])
    if not isinstance(unheard, list) or not all(isinstance(report, dict) for report in unheard):
        raise ProtocolError("cannot start: what hello says of unheard reports is no list of them")
    states = (reports.parse_state(entry) for entry in containers)
    standing = tuple(state for state in states if state is not None)
    complete = len(standing) == len(containers) < COMPLETE_BELOW
    host, epoch = Facts.from_wire(message.get("host")), str(message.get("epoch", ""))
    return Hello(Settings.from_wire(settings), host, standing, complete, epoch, tuple(unheard))


def _reconcile(index: Index, hello: Hello) -> Names:
    index.begin()
    reports.replay(index, hello.epoch, hello.unheard)
    stopped, removed = index.reconcile(hello.containers, hello.complete)
    index.commit()
    if stopped or removed:
        log.info("containers that ended unseen: %d marked stopped, %d removed", stopped, removed)
    names = Names()
    for container, uid, name in index.names():
        names.bind(uid, name, container)
    return names


def _change(context: Context, message: dict[str, object]) -> None:
    """The settings were read again, or the host has changed."""
    settings = message.get("settings")
    if not isinstance(settings, dict):
        raise ProtocolError("cannot read from the launcher: changed has no settings")
    context.settings = Settings.from_wire(settings)
    context.facts = Facts.from_wire(message.get("host"))
    api_log.configure(context.settings.log_level, context.settings.log_format)


def _settle() -> None:
    """What was made until now lives as long as the process: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.enable()


class _LoopErrors:
    """What fails on the event loop outside of any task goes to the log.

    Without a descriptor for one more connection, asyncio says so as often as the backlog is long, and again each
    second (_accept_connection() of asyncio/selector_events.py): 4096 tracebacks. One line a second is enough.
    """

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() >= self._next:
            self._next = loop.time() + 1.0
            log.error("cannot accept a connection: %s (see LimitNOFILE= of dkrd.service)", error.strerror)


class _Server:
    """The serving part, on the event loop."""

    def __init__(self, hello: Hello, names: Names) -> None:
        self._hello = hello
        self._names = names
        self._context: Context | None = None
        self._ended: asyncio.Future[int]

    async def run(self, listener: socket.socket, channel: socket.socket, index: Index) -> int:
        """Serve; the exit status."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_LoopErrors())
        self._ended = loop.create_future()
        worker = Worker(index, self._damaged, lambda events, heard: noting(events, heard))
        link = Channel(loop, channel, self._report, self._channel_ended)
        self._context = context = Context(
            settings=self._hello.settings,
            facts=self._hello.facts,
            channel=link,
            names=self._names,
            index=worker,
            endings=Endings(),
            feed=Feed(worker),
            metrics=Metrics(),
        )
        noting = reports.Noting(context)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, 0)
        runner = web.AppRunner(make_app(context), access_log=None)
        await runner.setup()
        web_server = runner.server
        if web_server is None:
            raise Internal("cannot serve: aiohttp made no server")
        peers = Peers(self._hello.settings)
        await loop.create_server(
            lambda: Connection(web_server, peers, loop), sock=listener, backlog=BACKLOG, start_serving=True
        )
        link.post({"type": "ready"})
        noting([], index.heard)
        log.info("serving")
        loop.call_soon(_settle)
        status = await self._ended
        link.end(None)
        worker.stop(FLUSH_SECONDS)
        os._exit(status)

    def _end(self, status: int) -> None:
        if not self._ended.done():
            self._ended.set_result(status)

    def _channel_ended(self, error: DkrError | None) -> None:
        if error is not None:
            log.error("%s", error)
        self._end(0 if error is None else 1)

    def _damaged(self, error: Exception) -> None:
        """The database broke under us. The next api moves it aside, makes a new one and fills it from
        `hello`.
        """
        log.error("the index is damaged, the api ends to have it made anew: %s", error)
        self._end(1)

    def _report(self, message: dict[str, object]) -> None:
        """`state`, `gone`, `event` or `changed` from the launcher."""
        context = self._context
        if context is None:
            return
        if message.get("type") == "changed":
            _change(context, message)
            return
        reports.take(context, message)
