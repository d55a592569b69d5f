"""What a container has on disk: as little as will do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common import oci
from tests.integration.verbs import running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host import User
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

SHOW = "cd /etc; stat -c '%n %u:%g %a' . hostname hosts resolv.conf; cat hostname hosts resolv.conf"


def named(caller: Caller, identity: str) -> list[str]:
    """What lies in the container's directory, and in its upper layer."""
    own: Path = caller.daemon.state_dir / "containers" / identity
    return sorted(path.name for path in (*own.iterdir(), *(own / "upper").iterdir()))


def shown(hostname: str) -> list[str]:
    owners = [". 0:0 755", "hostname 0:0 644", "hosts 0:0 644", "resolv.conf 0:0 644"]
    return [*owners, *"".join(oci.etc_files(hostname).values()).splitlines()]


@pytest.mark.parametrize("root", ["host", "busybox"])
def test_most_find_their_etc_in_the_layer(caller: Caller, root: str) -> None:
    assert caller.output(root, "sh", "-c", SHOW).splitlines() == shown("container")
    with running(caller, "plain") as identity:
        assert named(caller, identity) == ["upper", "work"]


def test_others_are_given_their_own(caller: Caller) -> None:
    assert caller.output("--hostname", "box", "/bin/sh", "-c", SHOW).splitlines() == shown("box")
    with running(caller, "own", "--hostname", "box") as identity:
        assert named(caller, identity) == ["etc", "upper", "work"]


def test_what_a_container_writes_there_is_its_own(caller: Caller) -> None:
    script = "echo 192.0.2.1 here >>/etc/hosts && rm /etc/resolv.conf && mv /etc/hostname /etc/name && ls /etc/name"
    assert caller.output("/bin/sh", "-c", script) == "/etc/name\n"
    assert caller.output("/bin/sh", "-c", SHOW).splitlines() == shown("container")


def test_of_one_that_is_not_kept_its_state_tells_whose_it_is(
    caller: Caller, other_tenant: User, root: Caller
) -> None:
    with running(caller, "passing") as identity:
        done = caller.daemon.dkrctl("rm", identity, user=other_tenant)
        assert "cannot find" in done.stderr
        for user in (caller.user, root.user):
            done = caller.daemon.dkrctl("rm", identity, user=user)
            assert (done.returncode, "it is running" in done.stderr) == (1, True)
        # It runs already, which is what was asked for; to others it is not there.
        assert caller.daemon.dkrctl("start", identity, user=caller.user).returncode == 0
        assert "cannot find" in caller.daemon.dkrctl("start", identity, user=other_tenant).stderr
        assert caller.daemon.dkrctl("explain", identity, user=other_tenant).returncode != 0
        assert caller.daemon.dkrctl("explain", identity, user=caller.user).returncode == 0
