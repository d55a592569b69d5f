"""A peer as client_peer.py is one, for containers whose stdio their guardian holds: create, start, and attach by two streams.

What it does is chosen by the container's name, in a `create` by the label `peer`.
"""

import json
import os
import signal
import socket
import sys

from tests.unit.client_peer import ID, SO_SNDBUFFORCE, Shim, answer, log, main, read_request, record

TALK = 'echo up; echo err >&2; while read word; do echo "got $word"; echo "heard $word" >&2; done; echo end; exit 7'
COMMANDS = {
    "talk": TALK,
    "mute": "exec sleep 60",
    "closed": TALK,  # its input is not open
    "trapped": 'trap "echo int" INT; trap "echo term; exit 4" TERM; echo up; while :; do sleep 60 & wait; done',
    "much": "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 3",
    "hasty": "exec </dev/null; echo hi; echo err >&2",
    "silent": "exec >&-; exec sleep 60",
}
PROBLEMS = {
    "nosuch": ("404 Not Found", "not-found", "", 'cannot find container "nosuch": there is none'),
    "running": ("409 Conflict", "conflict", "running", "cannot start running: it runs already"),
    "attached": ("409 Conflict", "conflict", "no-terminal", "cannot attach: its output is its caller's"),
}


def api(client: socket.socket) -> None:
    """One connection."""
    head, body = read_request(client)
    if head.startswith(b"GET /v1/version "):
        answer(client, "200 OK", {"version": "9.9.9", "apiVersion": "1"})
        return
    request = json.loads(body) if body else {}
    log({"head": head.decode(), "request": request})
    path = head.split()[1].decode().split("/")
    name = path[3] if len(path) > 3 else request.get("labels", {}).get("peer", "")
    if name in PROBLEMS:
        status, code, rule, detail = PROBLEMS[name]
        answer(client, status, {"code": code, "title": "x", "detail": detail, "rule": rule or None})
        return
    if head.startswith(b"GET "):
        tell_container(client)
        return
    if b"Upgrade: dkr-session/1" not in head:
        client.sendall(b"HTTP/1.1 204 No Content\r\nServer: dkr\r\n\r\n")
        return
    client.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: dkr-session/1\r\n\r\n"
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 4 << 20)
    socket.send_fds(client, [record({"type": "session", "id": ID})], [theirs.fileno()])
    theirs.close()
    client.close()
    held = Held(ours, name)
    if len(path) == 3:
        held.create()
    else:
        held.join(starts=path[4] == "start")


def tell_container(client: socket.socket) -> None:
    known = {"id": ID, "name": "made", "uid": 0, "image": "host", "args": ["/x"], "labels": {}, "rm": False}
    answer(client, "200 OK", {**known, "status": "created", "created": "2026-01-31T12:00:00.000000000Z"})


class Held(Shim):
    """One session with such a container, which is made in this moment."""

    def create(self) -> None:
        log({"create": json.loads(self.session.recv(1 << 20))})
        if self.what == "refused":
            error = {"code": "not-permitted", "message": "cannot give pid:host", "rule": "namespaces"}
            self.send({"type": "error", "error": error})
        elif self.what == "garbage":
            self.send({"type": "started", "id": ID})
        elif self.what != "lost":
            self.send({"type": "created", "id": ID, "name": "made"})

    def join(self, *, starts: bool) -> None:
        log({"attach": json.loads(self.session.recv(1 << 20))})
        first, out = socket.socketpair()
        second, err = socket.socketpair()
        name = "other" if self.what == "elsewhere" else self.what
        descriptors = [out.fileno(), err.fileno()][: 1 if self.what == "one" else 2]
        attached = {"type": "attached", "id": ID, "name": name, "terminal": False, "input": name != "closed"}
        self.send(attached, descriptors)
        out.close()
        err.close()
        if self.what == "not-found":
            error = {"code": "command-not-found", "message": 'cannot run "x": no such file', "step": "execve"}
            self.send({"type": "error", "error": error})
            return
        stdin = os.open("/dev/null", os.O_RDONLY) if name == "closed" else first.fileno()
        request = {"args": ["/bin/sh", "-c", COMMANDS.get(self.what, TALK)]}
        self.start({"request": request, "stdio": [0, 1, 2]}, [stdin, first.detach(), second.detach()])
        if starts:
            self.send({"type": "started", "id": ID, "pid": self.child})
        if self.what == "lost":
            os.kill(self.child, signal.SIGKILL)
            return
        self.attend()


if __name__ == "__main__":
    main(sys.argv[1], api)
