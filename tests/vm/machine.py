"""One virtual machine: boots the image with dkr installed in it, does what it is told, can lose its power and keep its disk.

The processor is emulated (TCG): everything takes some 18 times as long as here, a boot 15 s to a minute, and longer where this machine has
other work. So a test module boots once, and the guards below are against hanging alone: nothing may depend on how fast it goes. A hang is
cut, and shows what the console said.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sysconfig
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BOOT_SECONDS = 600.0
COMMAND_SECONDS = 600.0
OFF_SECONDS = 600.0
DISK_BYTES = 1 << 30

_TREE = (
    "common",
    "dkrctl",
    "dkrd",
    "tests",
    "docs",
    "requirements",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    "Makefile",
)
_KERNEL_OPTIONS = "console=ttyS0 panic=-1 systemd.show_status=0"


def payload(place: Path) -> Path:
    """A tar of what `make install` places, in `place`."""
    root = place / "root"
    environment = {
        "PATH": os.environ["PATH"],
        "DESTDIR": str(root),
        "PREFIX": "/opt/dkr",
        "BINDIR": "/usr/bin",
        "SBINDIR": "/usr/sbin",
        "SYSUSERSDIR": "/usr/lib/sysusers.d",
        "TMPFILESDIR": "/usr/lib/tmpfiles.d",
        "UNITDIR": "/usr/lib/systemd/system",
    }
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    subprocess.run(
        [REPOSITORY / "scripts/install.sh", "install"], env=environment, check=True, capture_output=True
    )
    # The scripts too, for what is done with an install that is there.
    for name in ("scripts", "systemd"):
        shutil.copytree(REPOSITORY / name, root / "usr/local/src/dkr" / name)
    archive = place / "payload.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            # The modes of the machine's own directories are not ours to change; tar makes what is missing.
            if not path.is_dir() or path.is_symlink() or name.startswith("opt/"):
                tar.add(path, name, recursive=False)
    shutil.rmtree(root)
    return whole_sectors(archive)


def suite(place: Path) -> Path:
    """A tar of this tree and of what its tests import, in `place`: for the same CPython as in the image."""
    archive = place / "tests.tar"
    with tarfile.open(archive, "w") as tar:
        for name in _TREE:
            tar.add(REPOSITORY / name, f"usr/local/src/dkr/{name}", filter=_wanted)
        tar.add(sysconfig.get_path("purelib"), "usr/local/lib/dkr-tests", filter=_wanted)
    return whole_sectors(archive)


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = set(entry.name.split("/"))
    return None if parts & {"__pycache__", "mypy", "mypyc", "ruff", "pip", "dkr.pth"} else entry


def whole_sectors(archive: Path) -> Path:
    """Fit to be a disk."""
    os.truncate(archive, (archive.stat().st_size + 511) // 512 * 512)
    return archive


@dataclass(slots=True)
class Machine:
    """A machine that is off until `boot`.

    image    vmlinuz and root.cpio
    archive  what is unpacked over the root at each boot
    place    its own files: disk, console, sockets
    options  for its kernel and systemd, on their command line
    tests    a tar on a third disk, /dev/vdc, which is nobody's but who wants it
    """

    image: Path
    archive: Path
    place: Path
    options: str = ""
    tests: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    port: socket.socket | None = None
    data: bytes = b""
    consoles: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        disk = self.place / "disk"
        if not disk.exists():
            with disk.open("wb") as file:
                file.truncate(DISK_BYTES)
            subprocess.run(["mkfs.ext4", "-q", "-L", "dkr", disk], check=True)

    @property
    def console(self) -> str:
        """What the machine has said on its serial line since the last boot; nothing where its files are gone."""
        if not self.consoles or not self.consoles[-1].exists():
            return ""
        return self.consoles[-1].read_text(errors="replace")

    def boot(self) -> None:
        """Turn it on; returns when its services are up."""
        self.consoles.append(self.place / f"console-{len(self.consoles)}")
        path = self.place / "agent"
        path.unlink(missing_ok=True)
        drives: list[str] = []
        # The order gives the names: vda, vdb, vdc.
        disks = [(str(self.archive), ",readonly=on"), (str(self.place / "disk"), "")]
        disks += [(str(self.tests), ",readonly=on")] if self.tests is not None else []
        for name, extra in disks:
            identity = f"disk{len(drives)}"
            drives += ["-drive", f"file={name},format=raw,if=none,id={identity}{extra}"]
            drives += ["-device", f"virtio-blk-pci,drive={identity}"]
        self.process = subprocess.Popen(
            [
                # A test run that is killed leaves no machine behind.
                *("setpriv", "--pdeathsig", "KILL"),
                *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "4G"),
                *("-nodefaults", "-no-reboot", "-display", "none", "-serial", f"file:{self.consoles[-1]}"),
                *("-kernel", str(self.image / "vmlinuz"), "-initrd", str(self.image / "root.cpio")),
                *("-append", f"{_KERNEL_OPTIONS} {self.options}", *drives, "-device", "virtio-serial-pci"),
                *("-chardev", f"socket,id=agent,path={path},server=on,wait=off"),
                *("-device", "virtserialport,chardev=agent,name=agent"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        self._connect(path)
        self.data = b""
        assert self._line(BOOT_SECONDS) == {"ready": True}

    def _connect(self, path: Path) -> None:
        assert self.process is not None
        until = time.monotonic() + BOOT_SECONDS
        while True:
            self.port = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self.port.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                self.port.close()
                assert self.process.poll() is None, "qemu has ended at once"
                assert time.monotonic() < until, "qemu opens no socket"
                time.sleep(0.05)
            else:
                return

    def _line(self, seconds: float) -> dict[str, object]:
        """The agent's next line; cuts a machine that says nothing."""
        assert self.port is not None
        until = time.monotonic() + seconds
        while b"\n" not in self.data:
            left = until - time.monotonic()
            readable = left > 0 and select.select([self.port], [], [], left)[0]
            chunk = self.port.recv(1 << 16) if readable else b""
            if not chunk:
                self.cut()
                why = "ended" if readable else f"said nothing for {seconds:.0f} s"
                raise AssertionError(f"the machine {why}; its console:\n{self.console[-6000:]}")
            self.data += chunk
        line, _, self.data = self.data.partition(b"\n")
        answer: dict[str, object] = json.loads(line)
        return answer

    def run(
        self, command: str, seconds: float = COMMAND_SECONDS, *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root there, to its end.

        check  the test fails, with what it wrote, unless the status is 0
        """
        assert self.port is not None
        self.port.sendall(json.dumps({"command": command, "seconds": seconds}).encode() + b"\n")
        answer = self._line(seconds + 30.0)
        status, out, err = int(str(answer["status"])), str(answer["out"]), str(answer["err"])
        if check:
            assert status == 0, f"{command}: status {status}\n{out}{err}"
        return subprocess.CompletedProcess(command, status, out, err)

    def shut_down(self) -> None:
        """An orderly shutdown, as before switching off or booting anew."""
        self.run("systemctl --no-block poweroff")
        assert self.process is not None
        try:
            self.process.wait(OFF_SECONDS)
        except subprocess.TimeoutExpired:
            self.cut()
            raise AssertionError(
                f"the machine does not go off; its console:\n{self.console[-6000:]}"
            ) from None
        self._let_go()

    def cut(self) -> None:
        """Power cut: what is on the disk stays, as far as it had got there."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self._let_go()

    def _let_go(self) -> None:
        if self.port is not None:
            self.port.close()
            self.port = None
        self.process = None
