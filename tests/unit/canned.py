"""Whoever may listen on a socket that is taken for dkrd's: says what a test wrote down, byte for byte."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE = 20.0


def http(body: object, status: str = "200 OK", server: str = "dkr") -> bytes:
    """A whole answer with `body` as JSON."""
    data = json.dumps(body).encode()
    kind = "application/json" if status.startswith("2") else "application/problem+json"
    head = f"HTTP/1.1 {status}\r\nServer: {server}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def fault(code: str, status: str, detail: str, **more: object) -> bytes:
    """A problem as dkrd tells it."""
    return http({"code": code, "title": "x", "detail": detail, **more}, status)


class Canned:
    """The listener at `path`. Each connection is answered by what `answers` has for the target of its request, or by
    `default`; then it is closed, unless `hold`.
    """

    def __init__(self, path: Path, answers: dict[str, bytes], default: bytes, hold: bool) -> None:
        self.answers = answers
        self.default = default
        self.hold = hold
        self.requests: list[str] = []
        self._held: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.settimeout(DEADLINE)
            head = b""
            while b"\r\n\r\n" not in head and (data := client.recv(65536)):
                head += data
            self._held.append(client)
            first = head.decode().partition("\r\n")[0]
            if first:
                self.requests.append(first)
                with suppress(BrokenPipeError):  # it has seen enough
                    client.sendall(self.answers.get(first.split()[1], self.default))
            if not self.hold:
                client.close()

    def close(self) -> None:
        """Stop listening, and let go of what is held."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        self._listener.close()
        for client in self._held:
            client.close()


@contextmanager
def canned(
    path: Path, answers: dict[str, bytes] | None = None, default: bytes = b"", *, hold: bool = False
) -> Iterator[Canned]:
    """A listener for the block."""
    peer = Canned(path, answers or {}, default, hold)
    try:
        yield peer
    finally:
        peer.close()
