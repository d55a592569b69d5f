"""Bytes from a terminal of the caller's to a pipe, or from a pipe to a terminal, without ever waiting."""

from __future__ import annotations

import asyncio
import os
import select

_CHUNK = 65536  # bytes held at most
_BEHIND = 0.5  # seconds until a process in the background looks whether it is in front


class Copy:
    """Copies `source` to `target`, and owns both; typed: `source` is a terminal, read only while this process is in front."""

    def __init__(self, source: int, target: int, *, typed: bool) -> None:
        self.typed = typed
        self.done = asyncio.Event()
        self._source = source
        self._target = target
        self._data = b""
        self._again: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Copy from now on until the source ends, the target takes nothing more, or `stop`."""
        self._again = None
        if not self.done.is_set():
            self._loop.add_reader(self._source, self._read)

    def stop(self) -> None:
        """Copy no more; close both. May be called again."""
        if self.done.is_set():
            return
        self.done.set()
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._target)
        os.close(self._source)
        os.close(self._target)

    def _read(self) -> None:
        if self.typed and self._is_behind():
            # Reading would stop the whole process (SIGTTIN), for what may be another job's.
            self._loop.remove_reader(self._source)
            self._again = self._loop.call_later(_BEHIND, self.start)
            return
        try:
            self._data = os.read(self._source, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._data = b""  # a terminal that hung up
        if not self._data:
            self.stop()
            return
        self._loop.remove_reader(self._source)
        self._write()

    def _write(self) -> None:
        # A descriptor that could not be opened again may block, unless it is given no more than it has room for.
        data = self._data if not os.get_blocking(self._target) else self._data[: select.PIPE_BUF]
        try:
            self._data = self._data[os.write(self._target, data) :]
        except BlockingIOError:
            pass
        except OSError:
            self.stop()  # nobody reads any more
            return
        if self._data:
            self._loop.add_writer(self._target, self._write)
        else:
            self._loop.remove_writer(self._target)
            self.start()

    def _is_behind(self) -> bool:
        try:
            return os.tcgetpgrp(self._source) != os.getpgrp()
        except OSError:
            return False  # not our controlling terminal: no job control on it
