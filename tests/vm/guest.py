"""What the tests do in the machine, in their words."""

from __future__ import annotations

import contextlib
import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.vm.machine import COMMAND_SECONDS

if TYPE_CHECKING:
    from tests.vm.machine import Machine

CONTAINERS = "/system.slice/dkr-containers.service"
CGROUPS = "/sys/fs/cgroup"
# Repeats a word, then waits; ends with 7 when it is asked to.
POLITE = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 1000 & wait $!; done"
# Six processes and their sleeps, none of which ends when it is asked to.
CROWD = "trap '' TERM; for i in 1 2 3 4 5; do (while :; do sleep 1000; done) & done; echo up; while :; do sleep 1000; done"
STUBBORN = "trap '' TERM; echo up; while :; do sleep 1000; done"
# The client's verbs wait 10 s for an answer; here a daemon that is being started takes longer.
PATIENT = f"export DKR_TIMEOUT={COMMAND_SECONDS:.0f}\n"


@dataclass(slots=True)
class Guest:
    """The machine, seen from who administers it."""

    machine: Machine

    def boot(self) -> None:
        """Turn it on, with the tenant that a fresh image has not; enabled units are those of the disk that is lost."""
        self.machine.boot()
        self.run("useradd --groups dkr tina")

    def run(self, command: str, **options: Any) -> str:
        """A command as root, which must succeed; what it wrote."""
        return self.machine.run(f"{PATIENT}{command}", **options).stdout

    def status(self, command: str) -> int:
        """A command as root; its status."""
        return self.machine.run(f"{PATIENT}{command}", check=False).returncode

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run(f"systemctl show --property={name} --value {unit}").strip()

    def start(self, name: str, script: str, *options: str, user: str = "root") -> None:
        """A container that goes on by itself, kept when it has ended; its script has said `up`."""
        words = shlex.join(("dkrctl", "run", "--name", name, *options, "/bin/sh", "-c", script))
        out = f"/tmp/{name}.out"
        as_user = f"setpriv --reuid {user} --regid {user} --init-groups " if user != "root" else ""
        self.run(
            f"rm -f {out}; ({as_user}setsid {words} </dev/null >{out} 2>&1; echo status $? >>{out}) >/dev/null 2>&1 &"
        )
        self.wait(f"grep -q -e up -e status {out}")
        assert self.said(name).startswith("up\n"), self.said(name)

    def said(self, name: str) -> str:
        """What the container, and its client, have written so far."""
        return self.run(f"cat /tmp/{name}.out")

    def ended(self, name: str) -> str:
        """The same when the client has ended, which comes after its container's end, with its status."""
        self.wait(f"grep -q ^status /tmp/{name}.out")
        return self.said(name)

    def wait(self, command: str) -> None:
        """Look again and again until `command` succeeds."""
        self.run(f"until {command}; do sleep 0.2; done")

    def kill_daemon(self, whom: str) -> None:
        """SIGKILL for `main` or `all` of the daemon's unit; returns when its processes are gone and systemd has started others."""
        launcher = self.show("dkrd.service", "MainPID")
        api = self.run(f"pgrep --exact --parent {launcher} dkr-api").strip()
        self.run(f"systemctl kill --kill-whom={whom} --signal=KILL dkrd.service")
        self.wait(f"! kill -0 {launcher} {api} 2>/dev/null")
        self.wait(f"! systemctl show --property=MainPID --value dkrd.service | grep -qx -e 0 -e {launcher}")

    def containers(self, *, every: bool = False) -> dict[str, dict[str, Any]]:
        """The daemon's answer, by name."""
        query = "?all=true" if every else ""
        text = self.run(
            f"curl --silent --show-error --unix-socket /run/dkr/dkr.sock 'http://dkr/v1/containers{query}'"
        )
        return {container["name"]: container for container in json.loads(text)}

    def features(self) -> dict[str, bool]:
        """What the daemon says of the kernel: name -> whether it is there."""
        told = json.loads(self.run("curl --silent --unix-socket /run/dkr/dkr.sock http://dkr/v1/info"))
        return {name: there for name, there in told["features"].items() if name != "httpLifts"}

    def remove_all(self) -> None:
        """Have every container removed that has ended."""
        for container in self.containers(every=True).values():
            url = f"http://dkr/v1/containers/{container['id']}"
            self.run(f"curl --silent --fail --unix-socket /run/dkr/dkr.sock -X DELETE {url}")

    def pids(self) -> dict[str, tuple[int, int]]:
        """Name -> the pids of init and guardian of each container that runs."""
        text = self.run(
            "cat /run/dkr/containers/*/state.json 2>/dev/null | sed 's/}{/}\\n{/g'; echo", check=False
        )
        states = [json.loads(line) for line in text.splitlines() if line]
        return {state["name"]: (state["pid"], state["shimPid"]) for state in states}

    def cgroup(self, pid: int | str) -> str:
        """Where a process is."""
        return self.run(f"cat /proc/{pid}/cgroup").strip().removeprefix("0::")

    def tree(self) -> list[str]:
        """The cgroups below that of the containers."""
        top = f"{CGROUPS}{CONTAINERS}"
        return self.run(f"cd {top} && find . -mindepth 1 -type d | sort").replace("./", "").split()

    def last_words(self) -> str:
        """The end of the daemon's journal, where the machine still answers."""
        with contextlib.suppress(AssertionError, OSError, LookupError, ValueError):
            return self.run("journalctl --no-pager --lines=60 -u dkrd -u dkr-containers -u dkrd.socket")
        return "it does not answer"
