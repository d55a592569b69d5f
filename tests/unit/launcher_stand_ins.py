"""Stand-ins around the real launcher: an api and a shim, each small enough to be made to do what a test needs.

    python launcher_stand_ins.py launcher FILE     the real Launcher with the settings of FILE
    python launcher_stand_ins.py api               the stand-in api: descriptors 3 and 4, standard library only

The api stand-in takes one JSON command a connection and answers with JSON; see `_Api`.
"""

import array
import contextlib
import json
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dkrd.shim.matter import Matter

# --- the api: runs as another user with the system's Python, so nothing of the project is imported in it


class _Api:
    def __init__(self) -> None:
        self.listener = socket.socket(fileno=3)
        self.channel = socket.socket(fileno=4)
        self.seq = 0
        self.messages: list[dict[str, object]] = []
        self.deaf = False

    def serve(self) -> None:
        first = self.receive()
        self.send({"type": "ready"})
        self.messages.append(first)
        while True:
            # One at a time: a command may take from the channel what made it readable.
            if select.select([self.channel, self.listener], [], [])[0][0] is self.channel:
                self.messages.append(self.receive())
            else:
                self.command(self.listener.accept()[0])

    def receive(self) -> dict[str, object]:
        while True:
            data = self.channel.recv(1 << 22)
            if not data:
                sys.exit(0)
            message: dict[str, object] = json.loads(data)
            if message["type"] != "ping":
                return message
            if not self.deaf:
                self.send({"type": "pong"})

    def send(self, message: dict[str, object], rest: bytes = b"", *descriptors: int) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        self.channel.sendmsg([json.dumps(message).encode() + rest], [rights] if descriptors else [])

    def ask(self, message: dict[str, object], rest: bytes, *descriptors: int) -> dict[str, object]:
        self.seq += 1
        self.send({**message, "seq": self.seq}, rest, *descriptors)
        while True:
            answer = self.receive()
            if answer.get("seq") == self.seq:
                return answer
            self.messages.append(answer)

    def command(self, connection: socket.socket) -> None:
        with connection:
            command = json.loads(connection.recv(65536))
            answer = getattr(self, "do_" + command.pop("do"))(connection, **command)
            if answer is not None:
                connection.sendall(json.dumps(answer).encode())

    def do_who(self, connection: socket.socket) -> dict[str, object]:
        with open("/proc/self/status") as stream:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in stream)
        # The connection asking and the directory being listed are beyond what the launcher gave.
        extra = {str(connection.fileno()), str(connection.fileno() + 1)}
        descriptors = sorted(int(fd) for fd in set(os.listdir("/proc/self/fd")) - extra)
        return {
            "pid": os.getpid(),
            "uids": status["Uid"].split(),
            "groups": status["Groups"].split(),
            "caps": [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
            "nnp": status["NoNewPrivs"],
            "fds": descriptors,
            "environ": dict(os.environ),
            "cwd": os.getcwd(),
            "parentSession": os.getsid(0) == os.getsid(os.getppid()),
        }

    def do_start(self, connection: socket.socket, bundle: dict[str, object], pad: int = 0) -> None:
        """Hand the connection over; what the client reads next is the launcher's or the shim's. The bundle is made longer by `pad`."""
        data = b"\n" + json.dumps(bundle).encode() + b" " * pad
        self.ask({"type": "start"}, data, connection.fileno())

    def do_launch(self, connection: socket.socket, id: str, times: int) -> None:
        """So often at once; what the launcher answers is told as messages, what the shims answer the client reads."""
        for _ in range(times):
            self.seq += 1
            self.send({"type": "launch", "seq": self.seq, "id": id}, b"", connection.fileno())

    def do_remove(self, connection: socket.socket, id: str) -> dict[str, object]:
        return self.ask({"type": "remove", "id": id}, b"", connection.fileno())

    def do_ask(self, connection: socket.socket, id: str, ask: object) -> dict[str, object]:
        return self.ask({"type": "ask", "id": id, "ask": ask}, b"", connection.fileno())

    def do_ask_all(self, connection: socket.socket, asks: list[list[object]]) -> list[dict[str, object]]:
        """All at once; the answers in the order in which they come."""
        for container, ask in asks:
            self.seq += 1
            message = {"type": "ask", "seq": self.seq, "id": container, "ask": ask}
            self.send(message, b"", connection.fileno())
        answers: list[dict[str, object]] = []
        while len(answers) < len(asks):
            message = self.receive()
            (answers if "seq" in message else self.messages).append(message)
        return answers

    def do_forge(self, connection: socket.socket, what: str, id: str | None = None) -> dict[str, object]:
        left, right = socket.socketpair()
        own = socket.socket(socket.AF_UNIX)
        own.connect(self.listener.getsockname())
        accepted = self.listener.accept()[0]
        made: dict[str, socket.socket] = {
            "listener": self.listener,
            "channel": self.channel,
            "pair": left,
            "connecting": own,
            "self": accepted,
        }
        # Descriptor 0 is /dev/null, no socket at all.
        forged = made[what].fileno() if what in made else 0
        if id is None:
            answer = self.ask({"type": "start"}, b"\n{}", forged)
        else:
            look = {"type": "look", "do": "answer"}
            answer = self.ask({"type": "ask", "id": id, "ask": look}, b"", forged)
        for sock in (left, right, own, accepted):
            sock.close()
        return answer

    def do_raw(self, connection: socket.socket, data: str, descriptors: int = 0) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * descriptors))
        self.channel.sendmsg([data.encode()], [rights] if descriptors else [])

    def do_told(self, connection: socket.socket, type: str, id: str | None = None) -> object:
        """All messages of a type, waiting for the first."""
        while True:
            found = [m for m in self.messages if m["type"] == type and (id is None or id in json.dumps(m))]
            if found:
                return found
            self.messages.append(self.receive())

    def do_seen(self, connection: socket.socket, type: str) -> object:
        """All messages of a type that came without being asked for, and are here now."""
        self.ask({"type": "remove", "id": "00" * 32}, b"", connection.fileno())
        return [m for m in self.messages if m["type"] == type]

    def do_deaf(self, connection: socket.socket) -> dict[str, object]:
        self.deaf = True
        return {}

    def do_pid(self, connection: socket.socket) -> dict[str, object]:
        return {"pid": os.getpid()}


# --- the shim


def _shim(task: object) -> None:
    from common import frames
    from dkrd.shim.task import ShimTask

    assert isinstance(task, ShimTask)
    bundle = json.loads(task.bundle or b"{}")
    with socket.socket(fileno=task.connection) as connection:
        facts: dict[str, object] = {
            "id": task.id,
            "fds": sorted(map(int, os.listdir("/proc/self/fd"))),
            "pid": os.getpid(),
        }
        facts["session"] = os.getsid(0) == os.getpid()
        with open("/proc/self/comm") as stream:
            facts["name"] = stream.read().strip()
        facts["seccomp"] = task.seccomp
        facts["layers"] = {root: str(layer) for root, layer in task.layers.items()}
        connection.sendall(frames.record({"type": "session", **facts}))
    gate = f"{task.settings.state_dir}/gate"
    if task.bundle is None and os.path.exists(gate):
        with open(gate) as opened:
            opened.read()
    if bundle.get("do") == "run":
        _guard(task)


def _guard(task: object) -> None:
    """A container without walls: a directory, a socket, a process that ends by SIGUSR1 with status 7."""
    from dkrd.shim import state
    from dkrd.shim.task import ShimTask

    assert isinstance(task, ShimTask)
    run = f"{task.settings.run_dir}/containers/{task.id}"
    keep = f"{task.settings.state_dir}/containers/{task.id}"
    os.mkdir(keep)
    os.mkdir(run)
    place = os.open(run, os.O_PATH)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"/proc/self/fd/{place}/shim.sock")
    listener.listen()
    # Blocked before the fork: a signal that comes before the child waits for it is not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    init = os.fork()
    if init == 0:
        listener.close()
        os.close(task.reports)
        signal.sigwait({signal.SIGUSR1})
        os._exit(7)
    told = state.State(run, socket.socket(fileno=task.reports))
    pidfd = os.pidfd_open(init)
    told.update(
        pidfd,
        version=1,
        id=task.id,
        uid=os.getuid(),
        status="running",
        pid=init,
        pidStartTime=state.start_time(init),
        shimPid=os.getpid(),
        shimStartTime=state.start_time(os.getpid()),
    )
    while True:
        watched: list[int | socket.socket] = [pidfd, listener, *told.followers]
        ready = select.select(watched, [], [])[0]
        if pidfd in ready:
            break
        if listener in ready:
            follower = listener.accept()[0]
            message = json.dumps({"type": "state", "state": told.values}).encode()
            state.send(follower, message, pidfd)
            told.followers.append(follower)
        for follower in [sock for sock in told.followers if sock in ready]:
            if not _asked(follower, run):
                told.followers.remove(follower)
                follower.close()
    code = os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])
    told.update(status="stopped", exit={"code": code, "signal": None, "cause": "exited"})
    _remove(run, keep)
    told.report({"type": "gone", "id": task.id})


def _asked(follower: socket.socket, run: str) -> bool:
    """One ask, answered as its `do` says; False at the follower's end."""
    data, descriptors, _, _ = socket.recv_fds(follower, 65536, 4)
    if not data:
        return False
    message = json.loads(data)
    ask = message["ask"]
    with socket.socket(fileno=descriptors[0]) as connection:
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        fds = len(descriptors)
    value = {"message": message, "uid": int.from_bytes(peer[4:8], "little"), "descriptors": fds}
    answers: dict[str, list[object]] = {
        "answer": [{"type": "answer", "value": value}],
        "refuse": [{"type": "answer", "error": {"code": "conflict", "message": "no", "rule": "busy"}}],
        "babble": [[], {"type": "other"}, {"type": "answer", "value": value}],
        "late": [{"type": "answer", "value": value}],
        "silence": [],
        "hang up": [],
    }
    if ask["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if ask["do"] == "late":
        # Until the test takes the file away.
        asked = f"{run}/asked"
        open(asked, "w").close()
        while os.path.exists(asked):
            os.sched_yield()
    for answer in answers[ask["do"]]:
        follower.send(json.dumps(answer).encode())
    return bool(ask["do"] != "hang up")


def _unguarded(matter: "Matter", *rest: object) -> object:
    from common.errors import Conflict, NotFound

    if matter.id == "00" * 32:
        return {"last": "words"}
    if matter.id == "11" * 32:
        raise NotFound("cannot find it")
    raise Conflict("cannot look: it has ended")


def _remove(run: str, keep: str) -> None:
    for directory in (run, keep):
        if os.path.isdir(directory):
            for name in os.listdir(directory):
                os.unlink(f"{directory}/{name}")
            os.rmdir(directory)


def _collect(settings: object, pool: object, container: str, how: dict[str, object]) -> object:
    from dkrd.settings import Settings

    assert isinstance(settings, Settings)
    run, keep = (f"{place}/containers/{container}" for place in (settings.run_dir, settings.state_dir))
    with open(f"{settings.state_dir}/collected", "a") as stream:
        stream.write(json.dumps({"id": container, "exit": how}) + "\n")
    _remove(run, keep)
    return None


def _removal(matter: "Matter") -> None:
    from common.errors import NotFound

    if matter.id != "00" * 32:
        raise NotFound(f"cannot remove {matter.short}: there is no such container")


def _layer(here: str, root: str) -> str:
    """`ROOT-layer`, or what the test has put into the file `no-ROOT`."""
    from common.errors import HostUnfit

    with contextlib.suppress(FileNotFoundError), open(f"{here}/no-{root}") as stream:
        raise HostUnfit(stream.read(), hint="install it")
    return f"{root}-layer"


def _rehearse(here: str) -> None:
    if os.path.exists(f"{here}/no-rehearsal"):
        raise OSError("it went wrong")


def _directory(settings: object) -> None:
    from common.errors import HostUnfit

    raise HostUnfit("cannot use this directory as the root: a stand-in", hint="a real one")


# --- the launcher, as dkrd.launcher.main puts it together


def _launcher(file: str) -> int:
    from common.errors import DkrError
    from dkrd import settings
    from dkrd.launcher import listener
    from dkrd.launcher.notify import Notifier
    from dkrd.launcher.opening import Opening
    from dkrd.launcher.requests import Work
    from dkrd.launcher.server import Launcher
    from dkrd.log import Log

    given = settings.load(file)
    here = os.path.dirname(file)
    work = Work(
        shim=_shim,
        rehearse=lambda task: _rehearse(here),
        remove=_removal,
        measure=lambda *_asked: {"containers": {}, "layers": {}},
        diff=lambda *_asked: {},
        collect=_collect,
        asks={"look": _unguarded},
        seccomp=lambda settings: f"{settings.state_dir}/seccomp/x.bpf",
        layers={
            "host": lambda settings: _layer(here, "host"),
            "busybox": lambda settings: _layer(here, "busybox"),
        },
        directory=_directory,
        prime=lambda: None,
    )
    with open(f"{here}/argv.json") as stream:
        argv = tuple(json.load(stream))
    passed = listener.inherited(os.environ)
    try:
        log = Log(given.log_level, given.log_format)
        opening = Opening(given, argv, log, passed)
        return Launcher(given, opening, work, log, Notifier(os.environ), lambda: settings.load(file)).run()
    except DkrError as err:
        sys.stderr.write(f"dkrd: {err.message}\n  hint: {err.hint}\n")
        return 1


if __name__ == "__main__":
    if sys.argv[1] == "api":
        _Api().serve()
    sys.exit(_launcher(sys.argv[2]))
