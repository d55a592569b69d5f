"""GET /metrics against a real daemon, read by the library's own parser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import Caller
from tests.integration.kept import asked, create, remove
from tests.reliability.support import ask, ask_bytes, eventually, kill_and_wait, listed
from tests.security.callers import as_user

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root


def scraped(daemon: Daemon, user: User | None = None) -> dict[str, float]:
    """What a scrape brings: name and labels -> value."""

    def work() -> tuple[int, str]:
        status, data = ask_bytes(daemon, "GET", "/metrics")
        return status, data.decode()

    status, text = work() if user is None else as_user(user, work)
    assert status == 200, text
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = "".join(f"{{{key}={value}}}" for key, value in sorted(sample.labels.items()))
            found[sample.name + labels] = sample.value
    return found


def test_what_is_counted(make_daemon: MakeDaemon, admin: User) -> None:
    daemon = make_daemon()
    caller = Caller(daemon, None)
    assert scraped(daemon)["dkr_starts_total"] == 0
    kept = str(create(daemon, "/bin/true")["id"])
    for _ in range(2):
        assert caller.run("/bin/true").returncode == 0
    assert caller.run("/bin/nosuch").returncode == 127
    assert caller.run("--dry-run", "/bin/true").returncode == 0
    ask(daemon, "POST", "/v1/run", {"args": ["/bin/nosuch"]})
    ask(daemon, "POST", "/v1/run", {"args": ["/bin/true"], "namespaces": {"network": "host"}})
    eventually(lambda: len(listed(daemon, every=True)) == 1, "all else is gone")
    found = scraped(daemon, admin)
    assert found["dkr_starts_total"] == 2
    assert found["dkr_start_duration_seconds_count"] == 2
    assert 0 < found["dkr_start_duration_seconds_sum"] < 60
    assert found["dkr_start_duration_seconds_bucket{le=+Inf}"] == 2
    failures = {name: value for name, value in found.items() if name.startswith("dkr_start_failures_total")}
    assert failures == {
        "dkr_start_failures_total{code=command-not-found}": 2,
        "dkr_start_failures_total{code=not-permitted}": 1,
    }
    there = {name: value for name, value in found.items() if name.startswith("dkr_containers{")}
    assert there.pop("dkr_containers{status=created}") == 1
    assert sorted(there) == [
        f"dkr_containers{{status={status}}}"
        for status in ("creating", "paused", "restarting", "running", "stopped")
    ]
    assert set(there.values()) == {0}
    assert found["dkr_oom_kills_total"] == 0
    runs = "{method=POST}{route=/v1/run}{status=101}"
    assert found[f"dkr_api_request_duration_seconds_count{runs}"] == 4
    remove(daemon, kept)


STEPS = "dkr_start_step_duration_seconds"


def steps(daemon: Daemon) -> dict[str, float]:
    """How often each step is counted."""
    prefix = f"{STEPS}_count{{step="
    return {
        name.removeprefix(prefix)[:-1]: value
        for name, value in scraped(daemon).items()
        if name.startswith(prefix)
    }


def test_the_steps_of_starts_are_counted(make_daemon: MakeDaemon) -> None:
    """Of what has ended and of what runs on; once each, and their durations are those that are explained."""
    daemon = make_daemon()
    caller = Caller(daemon, None)
    assert steps(daemon) == {}
    assert caller.run("/bin/true").returncode == 0
    eventually(lambda: steps(daemon).get("execve") == 1, "the steps of what has ended are counted")
    container = str(create(daemon, "/bin/sleep", "600")["id"])
    assert ask(daemon, "POST", f"/v1/containers/{container}/start")[0] == 204
    eventually(lambda: steps(daemon).get("execve") == 2, "those of what runs are counted")
    remove(daemon, container)
    assert caller.run("/bin/nosuch").returncode == 127  # that is no start
    assert caller.run("/bin/true").returncode == 0
    eventually(lambda: steps(daemon).get("execve") == 3, "and of the next")
    found = steps(daemon)
    assert {found[name] for name in ("fork", "judge", "cgroup", "clone", "id maps", "overlay", "lock")} == {3}
    # Several binds of one start are one.
    assert found["bind"] == 3
    assert found["pipes"] == 1
    assert max(found.values()) == 3
    sums = scraped(daemon)
    whole = sums["dkr_start_duration_seconds_sum"]
    assert 0 < sums[f"{STEPS}_sum{{step=clone}}"] < whole
    assert sums[f"{STEPS}_bucket{{le=+Inf}}{{step=clone}}"] == 3


def test_they_are_counted_by_the_next_api(make_daemon: MakeDaemon) -> None:
    """What ends while there is none is not; nor is what was told to the one before."""
    daemon = make_daemon()
    container = str(create(daemon, "/bin/sleep", "600")["id"])
    assert ask(daemon, "POST", f"/v1/containers/{container}/start")[0] == 204
    eventually(lambda: steps(daemon).get("execve") == 1, "they are counted")
    kill_and_wait(daemon.child("dkr-api"))
    assert Caller(daemon, None).run("/bin/true").returncode == 0
    eventually(lambda: steps(daemon).get("execve") == 1, "one is, and no other")
    remove(daemon, container)
    assert steps(daemon)["execve"] == 1


def test_labels_are_bounded(daemon: Daemon) -> None:
    """Whatever is asked for: a path is its line of the table, or none."""
    for path in ("/v1/containers/secretname", "/v1/containers/othername/logs", "/nosuch/secretname"):
        ask(daemon, "GET", path)
    ask(daemon, "PATCH", "/v1/containers")
    found = scraped(daemon)
    assert not [name for name in found if "secretname" in name]
    count = "dkr_api_request_duration_seconds_count"
    assert found[f"{count}{{method=GET}}{{route=/v1/containers/{{container}}}}{{status=404}}"] >= 1
    assert found[f"{count}{{method=GET}}{{route=none}}{{status=404}}"] >= 1
    assert found[f"{count}{{method=other}}{{route=none}}{{status=405}}"] >= 1


def test_who_is_no_admin_is_refused(daemon: Daemon, tenant: User) -> None:
    status, problem = asked(Caller(daemon, tenant), "GET", "/metrics")
    assert (status, problem["code"], problem["rule"]) == (403, "not-permitted", "admin")
    status, problem = ask(daemon, "GET", "/metrics?x=1")
    assert (status, problem["code"]) == (400, "bad-request")


def test_a_start_is_counted_once_whoever_is_restarted(make_daemon: MakeDaemon) -> None:
    """The numbers begin anew with the api, and what was told to the one before is not counted again."""
    daemon = make_daemon()
    container = str(create(daemon, "/bin/sleep", "600")["id"])
    assert ask(daemon, "POST", f"/v1/containers/{container}/start")[0] == 204
    assert scraped(daemon)["dkr_starts_total"] == 1
    kill_and_wait(daemon.child("dkr-api"))
    assert scraped(daemon)["dkr_starts_total"] == 0
    assert scraped(daemon)["dkr_containers{status=running}"] == 1
    daemon.kill()
    daemon.start()
    assert scraped(daemon)["dkr_starts_total"] == 0
    remove(daemon, container)
