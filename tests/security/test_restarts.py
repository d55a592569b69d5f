"""Restart policies: what a taken-over api, or another user, cannot have started by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import host
from tests.reliability.support import eventually, inits
from tests.security.test_acts import files
from tests.security.test_kept import create, launch, sent_to, verdict
from tests.sessions import gone

if TYPE_CHECKING:
    from tests.daemon import Daemon
    from tests.security.taken_over import TakenOver

pytestmark = pytest.mark.root

ALWAYS = {"policy": "always"}


def ended(evil: TakenOver, user: host.User | None = None) -> str:
    """A container without a policy that has ended."""
    container = create(evil.daemon, user, args=["/bin/true"])
    with sent_to(evil, container, user, "launch") as client:
        launch(client, container)
    resting = evil.daemon.state_dir / "containers" / container / "state.json"
    eventually(lambda: not inits(evil.daemon) and resting.exists(), "it has ended")
    gone(evil.daemon)
    return container


@pytest.mark.parametrize("word", ["relaunch", "restart", "restarting", "state", "launch"])
def test_the_api_cannot_say_that_something_is_to_be_restarted(taken_over: TakenOver, word: str) -> None:
    """What is not in the protocol, or has no evidence, ends the api, and nothing else."""
    container = ended(taken_over)
    before = files(taken_over.daemon, container)
    api = _api(taken_over.daemon)
    done = taken_over.run(f"say {word} {container}")
    assert done.returncode != 0
    assert host.wait_gone(api.pid, 20)
    assert files(taken_over.daemon, container) == before
    assert not inits(taken_over.daemon)
    taken_over.run(f"remove {container}")
    gone(taken_over.daemon)


def _api(daemon: Daemon) -> host.Process:
    [api] = [process for process in host.children(daemon.pid) if "evil_api.py" in process.command]
    return api


def test_a_tenants_connection_stops_nobody_elses_restarts(taken_over: TakenOver, tenant: host.User) -> None:
    daemon = taken_over.daemon
    container = create(daemon, args=["/bin/sleep", "600"], restart=ALWAYS)
    with sent_to(taken_over, container, None, "launch") as client:
        launch(client, container)
    for wish in ("stop", "kill", "update", "have-restarted", "launch"):
        assert verdict(taken_over, container, tenant, wish) == ("refused", "not-found", None), wish
    [init] = inits(daemon)
    host.kill(init)
    eventually(lambda: [one for one in inits(daemon) if one.pid != init.pid], "it is restarted")
    assert verdict(taken_over, container, None, "stop") == ("done", None, None)
    eventually(lambda: not inits(daemon), "it has ended")
    gone(daemon)
    taken_over.run(f"remove {container}")
    gone(daemon)


def test_what_was_lifted_for_an_admin_stays_so_and_no_more(taken_over: TakenOver) -> None:
    """The grant is judged at each restart: one that holds less than the container is, restarts nothing."""
    daemon = taken_over.daemon
    container = create(daemon, args=["/bin/sleep", "600"], restart=ALWAYS, namespaces={"uts": "host"})
    with sent_to(taken_over, container, None, "launch") as client:
        launch(client, container)
    grant = daemon.state_dir / "containers" / container / "grant.json"
    grant.write_text(grant.read_text().replace('"uts:host"', ""))
    [init] = inits(daemon)
    host.kill(init)
    eventually(lambda: "rule=grant" in daemon.log, "its grant does not hold what it is")
    state = daemon.state_dir / "containers" / container / "state.json"
    eventually(lambda: state.exists() and '"status":"stopped"' in state.read_text(), "it is given up")
    assert not inits(daemon)
    taken_over.run(f"remove {container}")
    gone(daemon)
