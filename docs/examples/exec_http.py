"""Executes a command in a container by HTTP alone, with its input and output: dkr-stream/1, by the standard library (docs/api.md)."""

import http.client
import json
import os
import socket
from collections.abc import Iterator
from typing import IO

HEAD = """POST /v1/containers/{container}/exec HTTP/1.1
Host: dkr
Connection: Upgrade
Upgrade: dkr-stream/1
Content-Type: application/json
Content-Length: {length}

"""


class Daemon(http.client.HTTPConnection):
    """A connection to it; a proxy of the socket may take the place of this."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ.get("DKR_SOCKET", "/run/dkr/dkr.sock"))


def ask(method: str, path: str, body: object = None) -> None:
    """One plain request."""
    daemon = Daemon("dkr")
    sent = None if body is None else json.dumps(body)
    daemon.request(method, path, sent, {"Content-Type": "application/json"})
    answer = daemon.getresponse()
    assert answer.status < 300, answer.read()
    daemon.close()


def execute(container: str, request: object) -> tuple[socket.socket, IO[bytes]]:
    """The connection behind the 101: to send, and to read. What goes wrong before that is a problem, as of every request."""
    daemon, body = Daemon("dkr"), json.dumps(request).encode()
    daemon.connect()
    head = HEAD.format(container=container, length=len(body)).replace("\n", "\r\n")
    daemon.sock.sendall(head.encode() + body)
    stream = daemon.sock.makefile("rb")  # http.client would close its own behind a 101
    answer = [stream.readline()]
    while answer[-1] != b"\r\n":
        answer.append(stream.readline())
    assert answer[0].startswith(b"HTTP/1.1 101 "), answer
    return daemon.sock, stream


def send(sock: socket.socket, kind: int, data: bytes) -> None:
    """A frame: what it is, three zeros, its length, and so many bytes."""
    sock.sendall(bytes([kind, 0, 0, 0]) + len(data).to_bytes(4, "big") + data)


def frames(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """What the daemon sends, to the end."""
    while head := stream.read(8):
        yield head[0], stream.read(int.from_bytes(head[4:], "big"))


ask("POST", "/v1/containers", {"name": "plain", "args": ["/bin/sleep", "600"], "rm": True})
ask("POST", "/v1/containers/plain/start")
try:
    sock, stream = execute("plain", {"args": ["/bin/sh", "-c", "tr a-z A-Z; echo done >&2; exit 3"]})
    send(sock, 0, b"some words\n")
    send(sock, 0, b"")  # the end of its input
    output = {1: b"", 2: b""}
    for kind, data in frames(stream):
        if kind in output:
            output[kind] += data
            continue
        said = json.loads(data)
        print(*(said[key] for key in ("type", "exit") if key in said))
    print(output)
finally:
    ask("DELETE", "/v1/containers/plain?force=true")

# It prints:
# > attached
# > started
# > exited {'code': 3, 'signal': None, 'cause': 'exited'}
# > {1: b'SOME WORDS\n', 2: b'done\n'}
