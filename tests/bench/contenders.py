"""Who is compared: how each starts a command in a fresh container with a root of one static file, busybox."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.oci import DEFAULT_CAPABILITIES, DEFAULT_MOUNTS, MASKED_PATHS, READONLY_PATHS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BUSYBOX = "/bin/busybox"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")


class Runner:
    """The process that starts and times; see runner.py."""

    def __init__(self, directory: Path, private: bool) -> None:
        command = [sys.executable, str(Path(__file__).with_name("runner.py"))]
        if private and (controllers := _hybrid_controllers()):
            # crun refuses a machine whose v2 hierarchy stands beside v1 ones and has controllers.
            empty = directory / "empty"
            empty.touch()
            script = 'mount --bind "$0" "$1"; shift; exec "$@"'
            command = ["unshare", "--mount", "sh", "-euc", script, str(empty), controllers, *command]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, operation: str, argv: Sequence[str], **options: Any) -> dict[str, Any]:
        """One request, one answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        env = {"PATH": PATH, **options.pop("env", {})}
        request = {"operation": operation, "argv": list(argv), "env": env, **options}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the runner has ended")
        result: dict[str, Any] = json.loads(answer)
        return result

    def close(self) -> None:
        """End of input, and its end."""
        self._process.communicate()


def _hybrid_controllers() -> str | None:
    """cgroup.controllers of a v2 hierarchy beside v1 ones."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    types = {fields[fields.index("-") + 1]: fields[4] for fields in mounts}
    return f"{types['cgroup2']}/cgroup.controllers" if {"cgroup", "cgroup2"} <= types.keys() else None


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who starts commands.

    prefix   what stands before the command
    bundles  None, or the directory where an OCI bundle for a command is made; prefix then has a {bundle}
    env      on top of PATH
    note     what it leaves out, for the reader of the table
    """

    name: str
    prefix: tuple[str, ...]
    runner: Runner
    note: str = ""
    bundles: Path | None = None
    env: Mapping[str, str] | None = None

    def ask(self, operation: str, command: Sequence[str], **options: Any) -> dict[str, Any]:
        """Have the runner do it; raises RuntimeError unless the command ends with 0."""
        argv = [*self.prefix, *command]
        if self.bundles is not None:
            place = str(bundle(self.bundles, command))
            argv = [part.replace("{bundle}", place) for part in self.prefix]
        result = self.runner.ask(operation, argv, env=dict(self.env or {}), **options)
        if result.get("status") or result.get("failed"):
            raise RuntimeError(f"{self.name}: {' '.join(argv)}: {result}")
        return result


def bundle(directory: Path, command: Sequence[str]) -> Path:
    """An OCI bundle that runs `command` in `directory`/rootfs with dkr's default mounts, masks and capabilities."""
    name = "-".join(command).replace("/", "_")[:100]
    bundle = directory / name
    if (bundle / "config.json").exists():
        return bundle
    bundle.mkdir(parents=True)
    caps = list(DEFAULT_CAPABILITIES)
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(command),
            "env": [f"PATH={PATH}"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "root": {"path": str(directory / "rootfs"), "readonly": False},
        "hostname": "container",
        "mounts": [dict(mount) for mount in DEFAULT_MOUNTS],
        "linux": {
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READONLY_PATHS),
        },
    }
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def _rootfs(directory: Path) -> Path:
    rootfs = directory / "rootfs"
    for name in ("bin", "proc", "sys", "dev", "tmp"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, rootfs / "bin/busybox")
    # For the one contender that mounts no /dev.
    os.mknod(rootfs / "dev/zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    return rootfs


def peers(directory: Path, run: Path) -> tuple[list[Contender], list[Runner]]:
    """Everyone but dkr who is installed here, and the runners to close. `run` is for the state of live containers."""
    rootfs = _rootfs(directory)
    plain, private = Runner(directory, private=False), Runner(directory, private=True)
    found = [
        Contender(
            "unshare+chroot",
            (
                *("/usr/bin/unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork"),
                *("/usr/sbin/chroot", str(rootfs)),
            ),
            plain,
            "namespaces and chroot alone",
        )
    ]
    if bwrap := shutil.which("bwrap"):
        found.append(
            Contender(
                "bubblewrap",
                (bwrap, "--unshare-all", "--bind", str(rootfs), "/", "--proc", "/proc", "--dev", "/dev"),
                plain,
                "no cgroup, no overlay, no seccomp filter",
            )
        )
    for name in ("crun", "runc"):
        if path := shutil.which(name):
            state = run / name
            prefix = (path, "--root", str(state), "run", "--bundle", "{bundle}", "{id}")
            note = "no overlay, no user namespace, no seccomp filter"
            found.append(Contender(name, prefix, private, note, bundles=directory))
    missing = {"bubblewrap", "crun", "runc"} - {contender.name for contender in found}
    if missing:
        print(f"not installed, not measured: {', '.join(sorted(missing))} (scripts/setup-debian.sh bench)")
    return found, [plain, private]


def dkr(prefix: Path, environment: Mapping[str, str], runner: Runner) -> Contender:
    """The installed client against a running daemon."""
    env = {name: value for name, value in environment.items() if name != "PATH"}
    note = "overlay, user namespace, seccomp filter, masks: all defaults on"
    return Contender("dkr", (os.fspath(prefix / "bin/dkrctl"), "run", "--rm"), runner, note, env=env)


def bare(runner: Runner) -> Contender:
    """No container at all."""
    return Contender("bare", (), runner, "no container")
