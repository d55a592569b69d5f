"""What is executed in a container that runs: it has the rights of that, nothing of the host comes along, nobody else has it done.

The known ways out that lead through an exec: CVE-2016-9962 and CVE-2019-5736 (the process that joins is seen by those inside before
it is the command), CVE-2024-21626 (a working directory by a descriptor of the host's), CVE-2019-14271 (names looked up by code of
the container's), CVE-2026-47262 (a file of gigabytes in the place of /etc/passwd).
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.patience import guard
from tests.reliability.support import eventually
from tests.security.inside import PRELUDE, PYTHON, status_fields
from tests.security.test_attach import HONEST, sent_to, verdict
from tests.security.test_evidence import FORGERIES
from tests.sessions import ECHO, Client, Refused, gone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.security.taken_over import TakenOver

pytestmark = pytest.mark.root

END = guard(20.0)  # seconds, for what must not hang


@contextmanager
def standing(daemon: Daemon, *options: str, user: host.User | None = None) -> Iterator[str]:
    """The id of a container `web` that does nothing."""
    done = daemon.dkrctl("run", "-d", "--name", "web", *options, "/bin/sleep", "600", user=user, check=True)
    container = done.stdout.strip()
    try:
        yield container
    finally:
        daemon.dkrctl("rm", "-f", container, user=user, check=True)


def execute(daemon: Daemon, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`dkrctl exec WORDS...`."""
    return daemon.dkrctl("exec", *words, timeout=END, **options)


# --- the same rights

# What of proc(5) status is one process's own, and differs between any two.
OWN = frozenset(
    "Name State Tgid Ngid Pid PPid TracerPid FDSize NStgid NSpid NSpgid NSsid Threads SigQ Speculation_Store_Bypass".split()
) | {"voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"}


def rights(pid: int) -> dict[str, object]:
    """Whatever bounds the process, as the host sees it."""
    place = Path("/proc", str(pid))
    status = status_fields((place / "status").read_text())
    kept = {
        key: value for key, value in status.items() if key not in OWN and not key.startswith(("Vm", "Rss"))
    }
    names = "cgroup ipc mnt net pid time user uts"
    return {
        **kept,
        "namespaces": {name: os.readlink(place / "ns" / name) for name in names.split()},
        **{
            name: (place / name).read_text()
            for name in ("uid_map", "gid_map", "cgroup", "mountinfo", "limits")
        },
        "oom": (place / "oom_score_adj").read_text(),
        "root": os.stat(place / "root").st_ino,
        "cwd": os.readlink(place / "cwd"),
    }


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-u", "1000:1000"),
        ("--userns", "host"),
        ("--pid", "host"),
        ("--read-only",),
        ("--timens", "private"),
    ],
)
def test_its_rights_are_those_of_the_container(daemon: Daemon, options: tuple[str, ...]) -> None:
    with standing(daemon, *options):
        client = daemon.popen("exec", "web", "/bin/cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(b"word\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"word\n"
            found = {p.comm: p.pid for p in daemon.processes() if p.comm in ("sleep", "cat")}
            mine, first = rights(found["cat"]), rights(found["sleep"])
            client.stdin.close()
        assert mine == first
        assert (mine["Seccomp"], mine["Seccomp_filters"]) == ("2", "1")


def test_the_filter_is_the_one_that_the_container_has(make_daemon: MakeDaemon) -> None:
    """Not one that has taken its place meanwhile, as after an upgrade; and none at all is no reason to go without."""
    daemon = make_daemon()
    with standing(daemon):
        for path in (daemon.state_dir / "seccomp").iterdir():
            path.write_bytes(b"")
            path.unlink()
        status = status_fields(execute(daemon, "web", "/bin/cat", "/proc/self/status", check=True).stdout)
        assert (status["Seccomp"], status["Seccomp_filters"]) == ("2", "1")
        done = execute(daemon, "web", "/usr/bin/unshare", "-U", "/bin/true")
        assert done.returncode == 1


def test_a_tenants_too_and_another_user_has_no_capability(daemon: Daemon, tenant: host.User) -> None:
    with standing(daemon, user=tenant):
        done = execute(daemon, "-u", "1000:1000", "web", "/bin/cat", "/proc/self/status", user=tenant)
        status = status_fields(done.stdout)
        none = f"{0:016x}"
        assert [status[f"Cap{name}"] for name in ("Prm", "Eff", "Inh", "Amb")] == [none] * 4
        assert status["CapBnd"] == f"{0xA80425FB:016x}"
        assert status["Groups"].strip() == ""


def test_it_has_a_session_and_keys_of_its_own(daemon: Daemon) -> None:
    probe = "tell([os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid(), os.umask(0)])"
    with standing(daemon):
        done = execute(daemon, "web", *PYTHON, PRELUDE + probe)
        assert json.loads(done.stdout) == [True, True, 0o022]


# --- nothing of the host's


@pytest.mark.parametrize("options", [(), ("--userns", "host"), ("--pid", "host")])
def test_nothing_but_what_was_passed_is_open(daemon: Daemon, options: tuple[str, ...]) -> None:
    probe = "tell({n: os.readlink('/proc/self/fd/' + n) for n in os.listdir('/proc/self/fd') if os.path.lexists('/proc/self/fd/' + n)})"
    with standing(daemon, *options):
        done = execute(daemon, "web", *PYTHON, PRELUDE + probe)
        found = json.loads(done.stdout)
    assert set(found) == {"0", "1", "2"}
    assert found["0"] == "/dev/null"
    assert found["1"].startswith("pipe:")


# Looks at every other process it sees for as long as its input is open; tells what it reached, and how often it was refused.
SCANNER = """
import select
own = os.getpid()
mine = {"/usr/bin/true", "/usr/bin/sleep", os.readlink("/proc/self/exe")}
libc = ctypes.CDLL(None, use_errno=True)
reached, refused, seen = set(), 0, set()
def links(pid):
    for name in ("exe", "root", "cwd"):
        yield name, os.readlink(f"/proc/{pid}/{name}")
    for number in os.listdir(f"/proc/{pid}/fd"):
        yield "fd", os.readlink(f"/proc/{pid}/fd/{number}")
def look(pid):
    global refused
    try:
        found = list(links(pid))
        if found[0][1] not in mine:
            reached.update(f"{name} {what}" for name, what in found)
        for name in ("environ", "maps", "mem"):
            with open(f"/proc/{pid}/{name}", "rb") as file:
                if found[0][1] not in mine:
                    reached.add(name)
    except PermissionError:
        refused += 1
        seen.add(pid)
    except OSError:
        pass
    try:
        os.close(os.open(f"/proc/{pid}/exe", os.O_WRONLY))
        reached.add("exe for writing")
    except OSError:
        pass
    if libc.ptrace(0x4206, int(pid), None, None) == 0:  # PTRACE_SEIZE: it is not stopped by that
        try:
            if os.readlink(f"/proc/{pid}/exe") not in mine:
                reached.add("ptrace")
        except OSError:
            pass
        os.waitpid(int(pid), 0x40000000)  # its end, which its own parent hears of only behind us
print("up", flush=True)
while not select.select([0], [], [], 0)[0]:
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) not in (1, own):
            look(pid)
tell([sorted(reached), refused, len(seen)])
"""


@pytest.mark.parametrize("options", [(), ("--userns", "host")])
def test_the_process_that_joins_is_not_to_be_had(daemon: Daemon, options: tuple[str, ...]) -> None:
    """CVE-2016-9962, CVE-2019-5736."""
    with standing(daemon, *options):
        scanner = daemon.popen(
            *("exec", "web", *PYTHON, PRELUDE + SCANNER), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with scanner:
            assert scanner.stdout is not None
            assert scanner.stdout.readline() == b"up\n"
            for _ in range(40):
                assert execute(daemon, "web", "/bin/true").returncode == 0
            out, _ = scanner.communicate(b"over\n", END)
        reached, refused, seen = json.loads(out)
        assert reached == []
        assert refused > 0, "it has seen none of them"
        assert seen > 0


def test_whoever_traces_it_holds_up_that_one_alone(daemon: Daemon) -> None:
    """The kernel tells the tracer first, and it alone as long as it does not listen."""
    tracer = """
libc = ctypes.CDLL(None, use_errno=True)
print("up", flush=True)
pid = int(input())
print(libc.ptrace(0x4206, pid, None, None), flush=True)
input()
"""
    with standing(daemon, "--pid", "host"):
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with (
            daemon.popen("exec", "web", *PYTHON, PRELUDE + tracer, **pipes) as tracing,
            daemon.popen("exec", "web", "/bin/cat", **pipes) as traced,
        ):
            assert tracing.stdin is not None
            assert tracing.stdout is not None
            assert tracing.stdout.readline() == "up\n"
            eventually(lambda: [p for p in daemon.processes() if p.comm == "cat"], "it runs")
            [cat] = [p.pid for p in daemon.processes() if p.comm == "cat"]
            tracing.stdin.write(f"{cat}\n")
            tracing.stdin.flush()
            assert tracing.stdout.readline() == "0\n"
            assert traced.stdin is not None
            traced.stdin.close()
            eventually(lambda: host.read_process(cat) is None, "it has ended")
            assert traced.poll() is None
            assert execute(daemon, "web", "/bin/echo", "on").stdout == "on\n"
            tracing.stdin.write("over\n")
            tracing.stdin.flush()
            assert traced.wait(END) == 0


@pytest.mark.parametrize("options", [(), ("--userns", "host")])
@pytest.mark.parametrize("name", ["/proc/self/exe", "/proc/thread-self/exe"])
def test_the_interpreter_as_the_command_cannot_be_written(
    daemon: Daemon, name: str, options: tuple[str, ...]
) -> None:
    """The command /proc/self/exe is what the joining process itself runs on: if it starts at all, its file is read-only."""
    probe = "import os\ntry:\n os.open('/proc/self/exe', os.O_WRONLY)\n print('open')\nexcept OSError as err: print(err.strerror)"
    with standing(daemon, *options):
        done = execute(daemon, "web", name, "-IS", "-c", probe)
        assert "open" not in done.stdout.split()
        if done.returncode == 0:
            assert done.stdout.strip() in ("Read-only file system", "Text file busy", "Permission denied")
        script = "printf '#!/proc/self/exe\\n' > /tmp/x; chmod 755 /tmp/x"
        execute(daemon, "web", "/bin/sh", "-c", script, check=True)
        execute(daemon, "web", "/tmp/x")


@pytest.mark.parametrize("options", [(), ("--userns", "host")])
def test_a_working_directory_by_a_descriptor_is_none(daemon: Daemon, options: tuple[str, ...]) -> None:
    """CVE-2024-21626, and the same by a link of the container's."""
    with standing(daemon, *options):
        for number in range(3, 40):
            place = f"/proc/self/fd/{number}"
            done = execute(daemon, "-w", place, "web", "/bin/pwd")
            assert (done.returncode, done.stdout) == (126, ""), place
        for path in ("/proc/self/fd/4", "/proc/self/fd/9", "/proc/self/fd/9/../../..", "/../../.."):
            execute(daemon, "web", "/bin/ln", "-sfn", path, "/tmp/link", check=True)
            done = execute(daemon, "-w", "/tmp/link", "web", "/bin/sh", "-c", "ls -id . /")
            if done.returncode == 0:
                here, root = (line.split()[0] for line in done.stdout.splitlines())
                assert here == root, path
            else:
                assert done.returncode == 126


def test_a_directory_as_input_is_refused(daemon: Daemon) -> None:
    with standing(daemon) as container, Client(daemon) as client:
        place = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
        try:
            exec_frame(client, container, ["/bin/true"], [place], stdio=[0])
        finally:
            os.close(place)
        assert refusal(client) == ("bad-request", None)


# --- users of a root that is the container's own


HOSTILE = {
    "fifo": "mkfifo /etc/passwd",
    "huge": "truncate -s 1T /etc/passwd",
    "long line": "head -c 3000000 /dev/zero | tr '\\0' x >/etc/passwd",
    "link to itself": "ln -s passwd /etc/passwd",
    "directory": "mkdir /etc/passwd",
    "device": "ln -s /dev/zero /etc/passwd",
    "terminal": "ln -s /dev/tty /etc/passwd",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_passwd_neither_hangs_nor_feeds(daemon: Daemon, tmp_path: Path, what: str) -> None:
    given = tmp_path / "given"
    given.write_text("evil:x:0:0::/:\n")
    with standing(daemon, "--memory", "64m"), given.open() as stdin:
        execute(daemon, "web", "/bin/sh", "-c", f"rm /etc/passwd; {HOSTILE[what]}", check=True)
        done = execute(daemon, "-u", "evil", "web", "/usr/bin/id", stdin=stdin)
        assert (done.returncode, done.stdout) == (125, "")
        assert "there is no user 'evil'" in done.stderr
        assert execute(daemon, "web", "/bin/echo", "on").stdout == "on\n"


def test_a_passwd_that_is_a_descriptor_of_the_joining_process_is_none(daemon: Daemon, tmp_path: Path) -> None:
    """Among them is the caller's input, which could name a user then; which number it has is nobody's promise."""
    given = tmp_path / "given"
    given.write_text("evil:x:0:0::/:\n")
    with standing(daemon):
        for number in range(25):
            line = f"ln -sfn /proc/self/fd/{number} /etc/passwd"
            execute(daemon, "web", "/bin/sh", "-c", line, check=True)
            with given.open() as stdin:
                done = execute(daemon, "-u", "evil", "web", "/bin/true", stdin=stdin)
            assert done.returncode == 125, number


def test_no_code_of_the_containers_looks_names_up(daemon: Daemon) -> None:
    """CVE-2019-14271: libraries and modules that a process with more rights would load."""
    plant = """
for path in ["/lib/x86_64-linux-gnu/libnss_files.so.2", "/etc/nsswitch.conf", "/tmp/encodings.py", "/tmp/pwd.py"]:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file: file.write("raise SystemExit(99)")
    except OSError: pass
with open("/etc/passwd", "a") as file: file.write("own:x:77:78::/tmp:\\n")
"""
    with standing(daemon, "-w", "/tmp"):
        execute(daemon, "web", *PYTHON, PRELUDE + plant, check=True)
        done = execute(daemon, "-u", "own", "web", "/bin/sh", "-c", "id -u; id -g; echo $HOME")
        assert (done.stdout, done.stderr) == ("77\n78\n/tmp\n", "")


# --- who may, and what


def exec_frame(
    client: Client, to: str, args: list[str], descriptors: list[int] | None = None, **change: Any
) -> None:
    """All steps up to the first frame."""
    request = change.pop("request", {"args": args})
    client.post(f"/v1/containers/{to}/exec", {"args": args})
    client.hand_over()
    send(client, change.pop("container", to), request, descriptors or [], **change)


def send(client: Client, container: str, request: Any, descriptors: list[int] = [], **change: Any) -> None:  # noqa: B006
    """The first frame."""
    frame = {
        "type": "exec",
        "version": 2,
        "container": container,
        "request": request,
        "stdio": [],
        "tty": [],
        **change,
    }
    client.send(frame, *descriptors)


def refusal(client: Client) -> tuple[str, str | None]:
    """Code and rule."""
    with pytest.raises(Refused) as refused:
        client.wait_for("started")
    assert client.frame() is None
    return refused.value.why


def executed_by(daemon: Daemon, container: str, connects: Any, sends: Any) -> tuple[str, str | None]:
    """Why not, where one has made the connection and another sends the first frame."""
    with Client(daemon, connects) as client:
        try:
            client.post(f"/v1/containers/{container}/exec", {"args": ["/bin/true"]})
            client.hand_over()
            client.user = sends
            send(client, container, {"args": ["/bin/true"]})
            client.wait_for("started")
        except Refused as err:
            return err.why
    return "executed", None


def test_the_lesser_of_connection_and_frame_counts(
    daemon: Daemon, tenant: host.User, other_tenant: host.User, admin: host.User
) -> None:
    nobody, done = ("not-found", None), ("executed", None)
    with standing(daemon) as container:
        assert executed_by(daemon, container, None, None) == done
        assert executed_by(daemon, container, admin, admin) == done
        assert executed_by(daemon, container, None, tenant) == nobody
        assert executed_by(daemon, container, admin, None) == nobody  # a setuid program steered here
        assert executed_by(daemon, container, tenant, tenant) == nobody
    with standing(daemon, user=tenant) as container:
        assert executed_by(daemon, container, tenant, None) == done
        assert executed_by(daemon, container, None, tenant) == done
        assert executed_by(daemon, container, None, other_tenant) == nobody
        assert executed_by(daemon, container, tenant, other_tenant) == ("not-permitted", "two-callers")


FRAMES: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "another type": ({"type": "start"}, "protocol", None),
    "another version": ({"version": 1}, "protocol", None),
    "an unknown key": ({"asks": []}, "protocol", None),
    "no request": ({"request": []}, "protocol", None),
    "no command": ({"request": {}}, "bad-request", None),
    "an empty command": ({"request": {"args": [""]}}, "bad-request", None),
    "a NUL": ({"request": {"args": ["/bin/true", "a\0b"]}}, "bad-request", None),
    "a key that asks for more": ({"request": {"args": ["x"], "privileged": True}}, "bad-request", None),
    "a relative directory": ({"request": {"args": ["x"], "cwd": "tmp"}}, "bad-request", None),
    "a variable without a name": ({"request": {"args": ["x"], "env": {"": "b"}}}, "bad-request", None),
    "a user beyond all": ({"request": {"args": ["x"], "user": "70000:0"}}, "bad-request", None),
    "an empty user": ({"request": {"args": ["x"], "user": ""}}, "bad-request", None),
    "a wish of its own": ({"request": {"args": ["x"], "onDisconnect": "stay"}}, "bad-request", None),
    "a terminal that is not in it": (
        {"request": {"args": ["x"], "terminal": True}},
        "not-permitted",
        "terminal",
    ),
    "a terminal that was not asked for": ({"tty": [0]}, "not-permitted", "terminal"),
    "descriptors that did not come": ({"stdio": [0, 1]}, "protocol", None),
    "preserved ones that did not come": ({"request": {"args": ["x"], "preserveFds": 1}}, "protocol", None),
    "streams that are none": ({"streams": 1}, "protocol", None),
    "streams that are not there": ({"streams": False}, "protocol", None),
    "streams and a terminal of its own": (
        {"streams": True, "tty": [0], "request": {"args": ["x"], "terminal": True}},
        "protocol",
        None,
    ),
    "streams and preserved ones": (
        {"streams": True, "request": {"args": ["x"], "preserveFds": 1}},
        "protocol",
        None,
    ),
    "numbers that are none": ({"stdio": [7]}, "protocol", None),
    "another container": ({"container": "0" * 64}, "not-permitted", "other-container"),
    "no container": ({"container": ""}, "not-permitted", "other-container"),
}


@pytest.fixture(scope="module")
def web(prefix: Path) -> Iterator[tuple[Daemon, str]]:
    """One container for all that is refused."""
    from tests.daemon import Daemon

    daemon = Daemon.create(prefix)
    try:
        daemon.start()
        with standing(daemon) as container:
            yield daemon, container
    finally:
        daemon.close()


@pytest.mark.parametrize("what", FRAMES)
def test_a_frame_that_is_none_is_refused(web: tuple[Daemon, str], what: str) -> None:
    daemon, container = web
    change, code, rule = FRAMES[what]
    with Client(daemon) as client:
        exec_frame(client, container, ["/bin/true"], **change)
        assert refusal(client) == (code, rule)
    assert execute(daemon, "web", "/bin/true").returncode == 0


def test_streams_and_descriptors_exclude_each_other(web: tuple[Daemon, str]) -> None:
    daemon, container = web
    reader, writer = os.pipe()
    with open(reader, "rb") as left, Client(daemon) as client:
        change = {"streams": True, "stdio": [1]}
        exec_frame(client, container, ["/bin/echo", "hi"], descriptors=[writer], **change)
        os.close(writer)
        assert refusal(client) == ("protocol", None)
        assert left.read() == b""  # whoever had it has let go of it


def test_who_says_nothing_and_who_does_not_read_hold_nobody_up(web: tuple[Daemon, str]) -> None:
    daemon, container = web
    with ExitStack() as stack:
        for _ in range(16):
            silent = stack.enter_context(Client(daemon))
            silent.post(f"/v1/containers/{container}/exec", {"args": ["/bin/true"]})
            silent.hand_over()
        with Client(daemon) as client:
            client.post(f"/v1/containers/{container}/exec", {"args": ["/bin/true"]})
            with pytest.raises(Refused) as refused:
                client.hand_over()
        assert refused.value.why == ("limit-reached", None)
        daemon.dkrctl("explain", "web", check=True)  # its guardian answers
    eventually(lambda: execute(daemon, "web", "/bin/true").returncode == 0, "there is room again")


def test_how_many_there_are_is_bounded(web: tuple[Daemon, str]) -> None:
    daemon, _ = web
    for _ in range(64):
        assert execute(daemon, "-d", "web", "/bin/sleep", "590").returncode == 0
    done = execute(daemon, "web", "/bin/true")
    assert (done.returncode, "64 commands are executed in it already" in done.stderr) == (125, True)
    for process in daemon.processes():
        if process.command.split() == ["/bin/sleep", "590"]:
            host.kill(process)
    eventually(lambda: execute(daemon, "web", "/bin/true").returncode == 0, "there is room again")


# --- an api that was taken over


@pytest.fixture
def victim(taken_over: TakenOver) -> Iterator[Client]:
    """Root's container in the hands of a daemon whose api was taken over."""
    with Client(taken_over.daemon).run("/bin/sh", "-c", ECHO, **HONEST) as client:
        client.until("up\r\n")
        yield client
    gone(taken_over.daemon)
    assert f"audit shim: executed id={client.id}" not in taken_over.daemon.log


def led(evil: TakenOver, container: str, user: host.User | None = None) -> Client:
    """A client whose connection the api uses to have something executed in this container."""
    return sent_to(evil, container, user, wish="exec")


def test_the_truth_executes_what_the_client_says(taken_over: TakenOver, tenant: host.User) -> None:
    with Client(taken_over.daemon, tenant).run("/bin/sh", "-c", ECHO, **HONEST) as mine:
        mine.until("up\r\n")
        for user in (tenant, None):
            with led(taken_over, mine.id, user) as client:
                client.hand_over()
                send(client, mine.id, {"args": ["/bin/sh", "-c", "exit 6"]})
                client.wait_for("started")
                assert client.exit()["code"] == 6
    gone(taken_over.daemon)


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_descriptor_of_roots_is_no_evidence(
    taken_over: TakenOver, victim: Client, forgery: str, tmp_path: Path
) -> None:
    make, rule = FORGERIES[forgery]
    with ExitStack() as stack:
        taken_over.put(make(stack, taken_over, tmp_path))
        found = verdict(taken_over, victim.id, deed="given", wish="exec")
        assert found == ("refused", "not-permitted", rule)


def test_a_tenants_connection_opens_nothing_of_others(
    taken_over: TakenOver, victim: Client, tenant: host.User
) -> None:
    assert verdict(taken_over, victim.id, tenant, wish="exec") == ("refused", "not-found", None)


def test_a_client_is_not_led_to_another_container_than_it_wants(
    taken_over: TakenOver, victim: Client
) -> None:
    """Both are its own: root's. It has named one, and the api leads it to the other."""
    with led(taken_over, victim.id) as client:
        client.hand_over()
        send(client, "another", {"args": ["/bin/true"]})
        assert refusal(client) == ("not-permitted", "other-container")


def test_the_api_alone_has_nothing_executed_where_a_tenant_has_no_rights(taken_over: TakenOver) -> None:
    """It says the first frame itself, on the connection of an admin who wanted something else."""
    request = {**HONEST, "namespaces": {"pid": "host"}}
    with Client(taken_over.daemon) as client:
        wanted = {"args": ["/bin/sh", "-c", ECHO], "terminal": True, **request}
        client.post("/v1/run", wanted)
        client.hand_over()
        client.send(
            {
                "type": "start",
                "version": 2,
                "request": wanted,
                "asks": ["pid:host"],
                "stdio": [],
                "tty": [0, 1, 2],
                "root": [],
                "want": [],
            }
        )
        client.wait_for("started")
        with Client(taken_over.daemon) as other:
            other.post("/v1/run", {"args": ["x"], "labels": {"evil": f"plain-exec {client.id}"}})
            assert verdict(taken_over, client.id, wish="exec")[0] == "done"
        [*_, frame] = taken_over.told("frame")
        assert (frame["error"]["code"], frame["error"]["rule"]) == ("not-permitted", "http")
    gone(taken_over.daemon)
