"""An api that was taken over: it speaks docs/protocol.md, section 4, and lies where the request's label `evil` says so.

`evil_api.py SITE_PACKAGES DROPBOX`: the api of a real launcher, as its unprivileged user. Each request carries the label
`evil`, the name of a function below (or one of WISHES, such a name and an id: then it asks that of that container);
root's side is told the truth about everything else. What the api learns goes to the daemon's log, a line `evil: {...}`. DROPBOX
is a socket at which the tests hand it descriptors that it could not make.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
from common.bundle import bundle_of

if TYPE_CHECKING:
    from collections.abc import Callable

    Json = dict[str, Any]

LISTENER, CHANNEL = 3, 4
ACTS: dict[str, Json] = {
    "kill": {"signal": 9},
    "stop": {"timeout": 0},
    "pause": {},
    "unpause": {},
    "rename": {"name": "evil"},
    "update": {"cpus": 1, "pidsLimit": 1},
    "have-restarted": {"type": "update", "restart": {"policy": "always"}},
    "top": {},
    "stats": {"ids": []},  # and the container's
}
HANG_SECONDS = 10.0
WISHES = ("attach", "copy", "exec", "launch", "logs", "measure", "diff", *ACTS)


def tell(what: Json) -> None:
    """A line of the daemon's log."""
    os.write(2, f"evil: {json.dumps(what)}\n".encode())


def read_request(client: socket.socket) -> tuple[Json, list[int]]:
    """The body of a POST, and the descriptors that came with it."""
    data, descriptors = b"", array.array("i")
    size: int | None = None
    while size is None or len(data.partition(b"\r\n\r\n")[2]) < size:
        got, ancillary, _, _ = client.recvmsg(1 << 20, socket.CMSG_SPACE(16))
        for _, kind, payload in ancillary:
            if kind == socket.SCM_RIGHTS:
                descriptors.frombytes(payload)
        if not got:
            raise EOFError
        data += got
        head, end, _ = data.partition(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n") if end else ():
            if line.startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
    return json.loads(data.partition(b"\r\n\r\n")[2]), list(descriptors)


class Api:
    """The api's two sockets, and what a request in hand needs."""

    def __init__(self, dropbox: str) -> None:
        self.listener = socket.socket(fileno=LISTENER)
        self.channel = socket.socket(fileno=CHANNEL)
        self.dropbox = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if os.path.lexists(dropbox):
            os.unlink(dropbox)
        self.dropbox.bind(dropbox)
        os.chmod(dropbox, 0o600)
        self.dropbox.listen()
        self.seq = 0
        self.about = ""
        self.wish = ""
        self.early: list[socket.socket] = []  # accepted in between, and still to be served
        hello = self.receive()
        self.settings: Json = hello["settings"]
        self.send({"type": "ready"})

    def send(self, message: Json, body: bytes = b"", *descriptors: int) -> None:
        """A message to the launcher."""
        data = json.dumps(message).encode() + (b"\n" + body if body else b"")
        rights = array.array("i", descriptors)
        self.channel.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else [])

    def receive(self) -> Json:
        """A message of the launcher's; the api ends with the channel."""
        data = self.channel.recv(1 << 22)
        if not data:
            sys.exit(0)
        message: Json = json.loads(data)
        if message["type"] == "ping":
            self.send({"type": "pong"})
        return message

    def ask(self, kind: str, descriptor: int, body: bytes = b"", *others: int, **more: Any) -> Json:
        """A question, and the launcher's answer, which is told."""
        self.seq += 1
        self.send({"type": kind, "seq": self.seq, **more}, body, descriptor, *others)
        answer = self.receive()
        while answer.get("seq") != self.seq:
            answer = self.receive()
        tell({"answer": answer})
        return answer

    def start(self, bundle: Json, descriptor: int) -> Json:
        """Ask for a container; or something of the one that all this is about."""
        if self.wish == "launch":
            return self.ask("launch", descriptor, id=self.about)
        if self.wish == "logs":
            return self._ask_for_logs(descriptor)
        if self.wish == "measure":
            return self.ask("measure", descriptor, ids=[self.about])
        if self.wish == "diff":
            return self._ask_for_changes(descriptor)
        if self.wish in ACTS:
            ask = {"type": self.wish, **ACTS[self.wish]}
            if "ids" in ask:
                ask["ids"] = [self.about]
            return self.ask("ask", descriptor, id=self.about, ask=ask)
        if self.about:
            return self.ask("ask", descriptor, id=self.about, ask={"type": self.wish})
        return self.ask("start", descriptor, json.dumps(bundle).encode())

    def _ask_for_logs(self, descriptor: int) -> Json:
        """Ask, and tell how many files came."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            ask = {"type": "logs", "follow": False}
            answer = self.ask("ask", descriptor, b"", theirs.fileno(), id=self.about, ask=ask)
            theirs.close()
            _, files, _, _ = socket.recv_fds(ours, 1 << 16, 16)
        tell({"files": len(files)})
        return answer

    def _ask_for_changes(self, descriptor: int) -> Json:
        """Ask, and tell what came."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours:
            answer = self.ask("diff", descriptor, b"", theirs.fileno(), id=self.about)
            theirs.close()
            tell({"changes": ours.recv(1 << 16).decode()})
        return answer

    def given(self) -> int:
        """The descriptor that the test has put into the dropbox."""
        giver, _ = self.dropbox.accept()
        with giver:
            _, (descriptor, *_), _, _ = socket.recv_fds(giver, 1, 1)
        return descriptor

    def serve(self) -> None:
        """One client after the other, until the launcher ends."""
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        poll.register(self.channel, select.POLLIN)
        silent: dict[int, socket.socket] = {}
        while True:
            for ready, _ in poll.poll():
                if ready == CHANNEL:
                    self.receive()
                elif ready == LISTENER:
                    client, _peer = self.listener.accept()
                    silent[client.fileno()] = client
                    poll.register(client, select.POLLIN)
                else:
                    poll.unregister(ready)
                    with silent.pop(ready) as client:
                        self._attend(client)
                while self.early:
                    client = self.early.pop()
                    silent[client.fileno()] = client
                    poll.register(client, select.POLLIN)

    def _attend(self, client: socket.socket) -> None:
        try:
            request, _ = read_request(client)
        except EOFError:
            return
        client.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: dkr-session/1\r\n\r\n"
        )
        bundle = bundle_of(request, self.settings["defaultRoot"], "made-by-the-api")
        word, _, argument = request["labels"]["evil"].partition(" ")
        self.about, self.wish = "", word if word in WISHES else ""
        if self.wish:
            word, _, self.about = argument.partition(" ")
        if word == "swap":
            SWAPS[argument](bundle)
            self.start(bundle, client.fileno())
        else:
            DEEDS[word](self, client, bundle, argument)


# --- what it does instead


def honest(api: Api, client: socket.socket, bundle: Json, _: str) -> None:
    api.start(bundle, client.fileno())


def nothing(_api: Api, _client: socket.socket, _bundle: Json, _: str) -> None:
    """Who comes in here knows that the one before was served."""


def show_listener(api: Api, _client: socket.socket, bundle: Json, _: str) -> None:
    api.start(bundle, LISTENER)


def show_given(api: Api, _client: socket.socket, bundle: Json, _: str) -> None:
    """Anything that the test has made: pairs of root's, connections to others."""
    descriptor = api.given()
    api.start(bundle, descriptor)
    os.close(descriptor)


def let_go(api: Api, _client: socket.socket, bundle: Json, _: str) -> None:
    """As above, but its own copy is closed while the message is on its way: the launcher closes the last one."""
    descriptor = api.given()
    api.seq += 1
    api.send({"type": "start", "seq": api.seq}, json.dumps(bundle).encode(), descriptor)
    os.close(descriptor)
    while (answer := api.receive()).get("seq") != api.seq:
        continue
    tell({"answer": answer})
    api.send({"type": "ping"})
    while api.receive()["type"] != "pong":
        continue


def show_own(api: Api, _client: socket.socket, bundle: Json, _: str) -> None:
    """A connection to the daemon's socket that the api has made itself, accepted by itself."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as own:
        own.connect(api.settings["socket"])
        while True:
            accepted, _peer = api.listener.accept()
            peer = struct.unpack("iII", accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if peer[0] == os.getpid():
                break
            api.early.append(accepted)  # somebody else was quicker
        with accepted:
            api.start(bundle, accepted.fileno())


def show_gone(api: Api, client: socket.socket, bundle: Json, _: str) -> None:
    """The client's own connection, once it has hung up."""
    poll = select.poll()
    poll.register(client, 0)
    assert poll.poll(HANG_SECONDS * 1000), "the client has not hung up"
    api.start(bundle, client.fileno())


def replay(api: Api, client: socket.socket, bundle: Json, _: str) -> None:
    """Two containers for one request."""
    api.start(bundle, client.fileno())
    api.start(bundle, client.fileno())


def read_connection(api: Api, client: socket.socket, bundle: Json, _: str) -> None:
    """Keep the connection and read whatever passes there, with room for descriptors, until the client closes it."""
    api.start(bundle, client.fileno())
    data, taken = b"", 0
    while True:
        try:
            got, ancillary, _flags, _peer = client.recvmsg(1 << 16, socket.CMSG_SPACE(4 * 253))
        except ConnectionResetError:
            break
        taken += len(ancillary)
        if not got:
            break
        data += got
    tell({"read": data.decode(errors="replace"), "descriptors": taken})


def _session(client: socket.socket, descriptor: int) -> None:
    data = json.dumps({"type": "session", "id": "0" * 64}).encode()
    socket.send_fds(client, [len(data).to_bytes(4, "big") + data], [descriptor])


def own_session(api: Api, client: socket.socket, _bundle: Json, _: str) -> None:
    """A session socket of the api's own making: whatever the client sends, the api would get."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    _session(client, theirs.fileno())
    theirs.close()
    with ours:
        data, ancillary, _flags, _peer = ours.recvmsg(1 << 20, socket.CMSG_SPACE(4 * 253))
    tell({"got": len(data), "descriptors": len(ancillary)})


def channel_as_session(_api: Api, client: socket.socket, _bundle: Json, _: str) -> None:
    """The one SEQPACKET socket made by root that the api has, passed off as the session."""
    _session(client, CHANNEL)
    poll = select.poll()
    poll.register(client, 0)
    poll.poll(HANG_SECONDS * 1000)


def plain_root(api: Api, client: socket.socket, _bundle: Json, _: str) -> None:
    """A plain run, whose session is the api's to make, with a directory that the api has opened."""
    request: Json = {"args": ["x"], "rootfs": "/etc", "rm": True}
    bundle = bundle_of(request, api.settings["defaultRoot"], "made")
    lists: Json = {key: [] for key in ("asks", "stdio", "tty", "want")}
    first = {"type": "start", "version": 2, "request": request, "root": ["rootfs"], **lists}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with ours, theirs:
        socket.send_fds(ours, [json.dumps(first).encode()], [os.open("/etc", os.O_PATH)])
        api.ask("start", client.fileno(), json.dumps(bundle).encode(), theirs.fileno())
        theirs.close()
        tell({"frame": json.loads(ours.recv(1 << 18))})


def plain_create(api: Api, client: socket.socket, _bundle: Json, argument: str) -> None:
    """A container made in the place of a client that speaks plain HTTP, with the host's namespace of a type."""
    request: Json = {"args": ["x"], "namespaces": {argument: "host"}}
    bundle = bundle_of(request, api.settings["defaultRoot"], "made")
    first = {"type": "create", "version": 2, "request": request, "asks": [f"{argument}:host"]}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with ours, theirs:
        ours.send(json.dumps(first).encode())
        api.ask("start", client.fileno(), json.dumps(bundle).encode(), theirs.fileno())
        theirs.close()
        tell({"frame": json.loads(ours.recv(1 << 18))})


def plain_exec(api: Api, client: socket.socket, _bundle: Json, container: str) -> None:
    """A command that no client has asked for, in the place of one that speaks plain HTTP."""
    first = {"type": "exec", "version": 2, "container": container, "request": {"args": ["/bin/true"]}}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with ours, theirs:
        ours.send(json.dumps({**first, "stdio": [], "tty": []}).encode())
        api.ask("ask", client.fileno(), b"", theirs.fileno(), id=container, ask={"type": "exec"})
        theirs.close()
        tell({"frame": json.loads(ours.recv(1 << 18))})


def remove(api: Api, client: socket.socket, _bundle: Json, argument: str) -> None:
    """Removal of a container by its id, on the connection of whoever it is that asks for something else."""
    api.ask("remove", client.fileno(), id=argument)


def remove_by_listener(api: Api, _client: socket.socket, _bundle: Json, argument: str) -> None:
    api.ask("remove", LISTENER, id=argument)


def say_restarting(api: Api, _client: socket.socket, _bundle: Json, argument: str) -> None:
    """What only root's side says, and what nobody says."""
    word, _, container = argument.partition(" ")
    state = {"id": container, "uid": 0, "status": "restarting", "restart": {"policy": "always"}, "due": 0.0}
    messages: dict[str, Json] = {"state": {"state": state}, "launch": {"seq": 1, "id": container}}
    api.send({"type": word, **messages.get(word, {"id": container})})
    while True:
        api.receive()


DEEDS: dict[str, Callable[[Api, socket.socket, Json, str], None]] = {
    "honest": honest,
    "nothing": nothing,
    "listener": show_listener,
    "given": show_given,
    "let-go": let_go,
    "own": show_own,
    "gone": show_gone,
    "replay": replay,
    "read": read_connection,
    "own-session": own_session,
    "plain-root": plain_root,
    "plain-create": plain_create,
    "plain-exec": plain_exec,
    "channel-as-session": channel_as_session,
    "remove": remove,
    "remove-by-listener": remove_by_listener,
    "say": say_restarting,
}


# --- another container than was asked for


def _restarted(bundle: Json) -> None:
    bundle["dkr"].update(rm=False, restart={"policy": "always"})


def _args(bundle: Json) -> None:
    bundle["spec"]["process"]["args"] = ["/bin/sh", "-c", "echo swapped"]


def _entry(bundle: Json) -> None:
    bundle["spec"]["process"]["args"].insert(0, "/usr/bin/env")


def _preload(bundle: Json) -> None:
    bundle["spec"]["process"]["env"].append("LD_PRELOAD=/tmp/evil.so")


def _path(bundle: Json) -> None:
    env = bundle["spec"]["process"]["env"]
    env[:] = [e for e in env if not e.startswith("PATH=")] + ["PATH=/tmp"]


def _without(kind: str) -> Callable[[Json], None]:
    def swap(bundle: Json) -> None:
        linux = bundle["spec"]["linux"]
        linux["namespaces"] = [n for n in linux["namespaces"] if n["type"] != kind]
        if kind == "uts":
            del bundle["spec"]["hostname"]

    return swap


def _capability(name: str) -> Callable[[Json], None]:
    def swap(bundle: Json) -> None:
        bundle["spec"]["process"]["capabilities"][name] = [
            *bundle["spec"]["process"]["capabilities"][name],
            "CAP_SYS_ADMIN",
        ]

    return swap


def _unmask(bundle: Json) -> None:
    bundle["spec"]["linux"]["maskedPaths"] = []


def _unmask_one(bundle: Json) -> None:
    bundle["spec"]["linux"]["maskedPaths"].remove("/proc/kcore")


def _writable(bundle: Json) -> None:
    bundle["spec"]["linux"]["readonlyPaths"].remove("/proc/sys")


def _mount(bundle: Json) -> None:
    bundle["spec"]["mounts"].append(
        {"destination": "/mnt", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"]}
    )


def _sysfs_writable(bundle: Json) -> None:
    sysfs = next(m for m in bundle["spec"]["mounts"] if m["type"] == "sysfs")
    sysfs["options"] = [o for o in sysfs["options"] if o != "ro"]


def _user(bundle: Json) -> None:
    bundle["spec"]["process"]["user"] = {"uid": 1000, "gid": 1000}


def _group(bundle: Json) -> None:
    bundle["spec"]["process"]["user"]["additionalGids"] = [27]


def _named_user(bundle: Json) -> None:
    bundle["dkr"]["user"] = "daemon"


def _cwd(bundle: Json) -> None:
    bundle["spec"]["process"]["cwd"] = "/proc/self/fd/7"


def _terminal(bundle: Json) -> None:
    bundle["spec"]["process"]["terminal"] = True


def _keep(bundle: Json) -> None:
    bundle["dkr"].update(rm=False, onDisconnect="keep")


def _root(bundle: Json) -> None:
    bundle["dkr"]["root"]["name"] = "another"


def _descriptors(bundle: Json) -> None:
    bundle["dkr"]["preserveFds"] = 1


def _logged(bundle: Json) -> None:
    bundle["dkr"]["log"] = {"driver": "none"}


def _bounded(bundle: Json) -> None:
    bundle["spec"]["linux"]["resources"] = {"memory": {"limit": 2**26}}


def _unbounded(bundle: Json) -> None:
    bundle["spec"]["linux"]["resources"] = {"pids": {"limit": -1}}


def _unconfined(bundle: Json) -> None:
    bundle["dkr"]["seccomp"] = "unconfined"


def _unknown_key(bundle: Json) -> None:
    bundle["spec"]["hooks"] = {"prestart": [{"path": "/bin/sh"}]}


def _ids(bundle: Json) -> None:
    bundle["spec"]["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1}]


def _elsewhere(kind: str) -> Callable[[Json], None]:
    def swap(bundle: Json) -> None:
        bundle["dkr"]["root"] = {"kind": kind, "name": "/etc"}

    return swap


SWAPS: dict[str, Callable[[Json], None]] = {
    "args": _args,
    "entrypoint": _entry,
    "LD_PRELOAD": _preload,
    "PATH": _path,
    **{f"{kind}:host": _without(kind) for kind in ("pid", "ipc", "uts", "cgroup", "network", "user")},
    **{f"cap in {name}": _capability(name) for name in ("bounding", "effective", "inheritable", "ambient")},
    "masks dropped": _unmask,
    "mask dropped": _unmask_one,
    "read-only dropped": _writable,
    "mount": _mount,
    "sysfs writable": _sysfs_writable,
    "user": _user,
    "group": _group,
    "named user": _named_user,
    "cwd": _cwd,
    "terminal": _terminal,
    "keep": _keep,
    "root": _root,
    "root is a directory of the client's": _elsewhere("rootfs"),
    "root is a directory of the host's": _elsewhere("directory"),
    "descriptors": _descriptors,
    "a log": _logged,
    "a limit": _bounded,
    "no bound": _unbounded,
    "seccomp": _unconfined,
    "hooks": _unknown_key,
    "id map": _ids,
    "restarted": _restarted,
}


if __name__ == "__main__":
    Api(sys.argv[2]).serve()
