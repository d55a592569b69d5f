"""What tests of the verbs share: containers with known names, which are gone afterwards, and JSON of what a verb printed."""

from __future__ import annotations

import json
import select
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import CompletedProcess

    from tests.daemon import Daemon
    from tests.host import User
    from tests.integration.conftest import Caller


def make(daemon: Daemon, user: User | None, name: str, *args: str, status: int = 0) -> None:
    """A container called `name` that has run `args` to its end, and is kept."""
    done = daemon.dkrctl("run", "-q", "--name", name, *args, user=user)
    assert done.returncode == status, done.stderr


def tidy(daemon: Daemon) -> None:
    """Removes every container, whoever it belongs to, once it has ended; some are about to go by themselves."""
    while ids := daemon.dkrctl("ps", "-aq", "--no-trunc", check=True).stdout.split():
        daemon.dkrctl("rm", *ids)


def sweep(daemon: Daemon) -> None:
    """Removes every container, whoever it belongs to, those that run too."""
    while ids := daemon.dkrctl("ps", "-aq", "--no-trunc", check=True).stdout.split():
        daemon.dkrctl("rm", "-f", *ids)


@contextmanager
def running(caller: Caller, name: str, *options: str) -> Iterator[str]:
    """A container called `name` that runs for the block: its id."""
    command = ("/bin/sh", "-c", "echo up; exec sleep 1000")
    with caller.start("--name", name, *options, *command) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"up\n"
            # The news of its start may be later than its first word.
            yield until_listed(caller, name)
        finally:
            client.terminate()
            client.communicate()


def until_listed(caller: Caller, name: str) -> str:
    """The id of the container `name`, once it is told as running."""
    while True:
        for container in caller.containers():
            if (container["name"], container["uid"]) == (name, caller.uid) and container[
                "status"
            ] == "running":
                return str(container["id"])
        select.select([], [], [], 0.01)


def lines_of(done: CompletedProcess[Any]) -> list[Any]:
    """What a verb printed, a JSON value a line; it must have succeeded and complained of nothing."""
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
