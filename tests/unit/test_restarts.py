"""Restart policies as pure logic: how they are said, and what becomes of a container that has ended."""

from __future__ import annotations

import os
from typing import Any

import pytest

from common import restarts
from common.bundle import bundle_of
from common.errors import BadRequest

ALWAYS: dict[str, object] = {"policy": "always"}
UNLESS: dict[str, object] = {"policy": "unless-stopped"}
FAILURE: dict[str, object] = {"policy": "on-failure"}
TWICE: dict[str, object] = {"policy": "on-failure", "retries": 2}


@pytest.mark.parametrize("value", [None, {"policy": "no"}])
def test_no_policy(value: Any) -> None:
    assert restarts.policy_of(value) is None


@pytest.mark.parametrize("value", [ALWAYS, UNLESS, FAILURE, TWICE])
def test_a_policy(value: Any) -> None:
    assert restarts.policy_of(value) == value
    assert restarts.policy_from(restarts.word_of(value)) == value


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("always", "restart"),
        ({}, "restart"),
        ({"policy": "always", "x": 1}, "restart"),
        ({"policy": "never"}, "restart.policy"),
        ({"policy": "always", "retries": 2}, "restart.retries"),
        ({"policy": "no", "retries": 2}, "restart.retries"),
        ({"policy": "on-failure", "retries": 0}, "restart.retries"),
        ({"policy": "on-failure", "retries": True}, "restart.retries"),
        ({"policy": "on-failure", "retries": 1.5}, "restart.retries"),
        ({"policy": "on-failure", "retries": 2**31}, "restart.retries"),
        ({"policy": "on-failure", "retries": None}, "restart.retries"),
    ],
)
def test_what_is_none(value: Any, path: str) -> None:
    with pytest.raises(BadRequest) as caught:
        restarts.policy_of(value)
    assert caught.value.fields[0]["path"] == path


@pytest.mark.parametrize("word", ["", "on-failure:", "on-failure:x", "on-failure:-1", "always:2", "No", "²"])
def test_words_that_are_none(word: str) -> None:
    with pytest.raises(BadRequest):
        restarts.policy_from(word)


def test_docker_means_no_bound_by_0() -> None:
    assert restarts.policy_from("on-failure:0") == FAILURE


def test_it_goes_into_the_bundle_and_not_beside_rm() -> None:
    request: dict[str, object] = {"args": ["/bin/true"], "restart": TWICE}
    assert bundle_of(request, "host", "x")["dkr"]["restart"] == TWICE  # type: ignore[index]
    assert "restart" not in bundle_of({**request, "restart": {"policy": "no"}}, "host", "x")["dkr"]  # type: ignore[operator]
    with pytest.raises(BadRequest) as caught:
        bundle_of({**request, "rm": True}, "host", "x")
    assert caught.value.fields[0]["path"] == "restart"


def ran(policy: Any, count: int = 0, **more: Any) -> dict[str, Any]:
    """The state of one that runs, and has not done so for long."""
    return {"status": "running", "restart": policy, "restarts": count, "started": "then", **more}


def exited(code: int | None, cause: str = "exited") -> dict[str, object]:
    return {"code": code, "signal": None if code is not None else 9, "cause": cause}


def end(state: dict[str, Any], how: dict[str, object]) -> dict[str, Any]:
    return restarts.ended(state, how, 0.1, 60.0)


@pytest.mark.parametrize(
    ("policy", "how", "again"),
    [
        (None, exited(1), False),
        (ALWAYS, exited(0), True),
        (ALWAYS, exited(None, "signalled"), True),
        (ALWAYS, exited(0, "timeout"), True),
        (ALWAYS, exited(None, "stopped"), False),
        (ALWAYS, exited(0, "client-gone"), False),
        (UNLESS, exited(0), True),
        (FAILURE, exited(0), False),
        (FAILURE, exited(1), True),
        (FAILURE, exited(None, "signalled"), True),
        (FAILURE, exited(0, "timeout"), True),
        (FAILURE, exited(0, "unhealthy"), True),
        (FAILURE, exited(None, "oom"), True),
        (FAILURE, {"code": None, "signal": None, "cause": "shim-lost"}, True),
    ],
)
def test_who_is_restarted(policy: Any, how: dict[str, object], again: bool) -> None:
    after = end(ran(policy), how)
    assert (after["status"], after["exit"]) == ("restarting" if again else "stopped", how)
    assert end(ran(policy, stopAsked=True), how)["status"] == "stopped"


def test_so_often_and_no_more() -> None:
    assert [end(ran(TWICE, count), exited(1))["status"] for count in (0, 1, 2)] == [
        "restarting",
        "restarting",
        "stopped",
    ]


def test_it_is_put_off_twice_as_long_each_time() -> None:
    state, waits = ran(ALWAYS), []
    for _ in range(12):
        state = end(state, exited(0))
        waits.append(state["backoff"])
        assert 0 <= restarts.seconds_left(state) <= state["backoff"]
        state = {**restarts.begun(state, ALWAYS, asked=False), "status": "running"}
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waits[-2:] == [60.0, 60.0]
    assert state["restarts"] == 12


def ticks_ago(seconds: float) -> int:
    return round((restarts._uptime() - seconds) * os.sysconf("SC_CLK_TCK"))


def test_a_life_of_ten_seconds_makes_good() -> None:
    for seconds, wait in ((11, 0.1), (8, 8.0)):
        state = ran(ALWAYS, 7, backoff=4.0, pidStartTime=ticks_ago(seconds))
        after = end(state, exited(1))
        assert (after["backoff"], after["restarts"]) == (wait, 7)


def test_a_bound_below_the_first() -> None:
    assert restarts.ended(ran(ALWAYS), exited(0), 5.0, 1.0)["backoff"] == 1.0


def test_a_due_time_of_a_boot_before_is_none() -> None:
    state = {**end(ran(ALWAYS), exited(0)), "due": restarts._uptime() + 1e6}
    assert restarts.seconds_left(state) == 0.1


def test_a_start_that_somebody_asks_for_counts_anew() -> None:
    waits = end(ran(TWICE, 1, backoff=0.4, stopAsked=False), exited(1))
    again = restarts.begun(waits, TWICE, asked=False)
    assert (again["restarts"], again["backoff"], "due" in again) == (2, 0.8, False)
    assert again["reason"] == "policy"
    asked = restarts.begun({**waits, "stopAsked": True}, TWICE, asked=True)
    assert (asked["restarts"], asked["backoff"], "stopAsked" in asked) == (0, 0.0, False)
    assert not set(restarts.KEYS) & set(restarts.begun(waits, None, asked=True))


@pytest.mark.parametrize("code", ["start-failed", "limit-reached", "unavailable", "host-unfit"])
def test_a_restart_that_fails_is_one(code: str) -> None:
    waits = end(ran(TWICE), exited(1))
    once = restarts.failed(waits, code, 0.1, 60.0)
    assert (once["status"], once["restarts"], once["backoff"]) == ("restarting", 1, 0.2)
    assert restarts.failed(once, code, 0.1, 60.0)["status"] == "stopped"


@pytest.mark.parametrize("code", ["not-permitted", "command-not-found", "conflict", "internal"])
def test_what_waiting_does_not_mend(code: str) -> None:
    after = restarts.failed(end(ran(ALWAYS), exited(1)), code, 0.1, 60.0)
    assert (after["status"], "due" in after) == ("stopped", False)


def test_another_policy() -> None:
    waits = end(ran(ALWAYS, 3), exited(0))
    assert restarts.changed(waits, UNLESS)["status"] == "restarting"
    assert restarts.changed(waits, {**TWICE, "retries": 3})["status"] == "stopped"
    none = restarts.changed(waits, None)
    assert (none["status"], set(restarts.KEYS) & set(none)) == ("stopped", set())
    assert restarts.changed({"status": "running"}, ALWAYS) == {
        "status": "running",
        "restart": ALWAYS,
        "restarts": 0,
    }


STOPPED = {"status": "stopped", "started": "then"}


@pytest.mark.parametrize(
    ("state", "restarted", "booted"),
    [
        ({"status": "stopped", "started": "then"}, False, False),
        ({**STOPPED, "restart": ALWAYS}, True, True),
        ({**STOPPED, "restart": UNLESS}, True, True),
        ({**STOPPED, "restart": FAILURE}, False, False),
        ({**STOPPED, "restart": ALWAYS, "stopAsked": True}, False, True),
        ({**STOPPED, "restart": UNLESS, "stopAsked": True}, False, False),
        ({"status": "created", "started": None, "restart": ALWAYS}, False, False),
        ({"status": "restarting", "restart": ALWAYS}, True, True),
        ({"status": "restarting", "restart": FAILURE}, True, False),
    ],
)
def test_what_a_launcher_starts_that_begins(state: dict[str, Any], restarted: bool, booted: bool) -> None:
    assert restarts.is_due(state, boot=False) is restarted
    assert restarts.is_due(state, boot=True) is booted


@pytest.mark.parametrize(
    ("policy", "status"),
    [(ALWAYS, "restarting"), (UNLESS, "restarting"), (FAILURE, "stopped"), (None, "stopped")],
)
def test_what_a_power_cut_ended(policy: Any, status: str) -> None:
    after = restarts.cut_off(ran(policy), {"code": None, "signal": None, "cause": "shim-lost"})
    assert after["status"] == status
    assert restarts.seconds_left(after) == 0.0


def test_a_user_stops_what_waits() -> None:
    after = restarts.halted(end(ran(ALWAYS), exited(0)))
    assert (after["status"], after["stopAsked"], "due" in after) == ("stopped", True, False)


UNWELL: dict[str, Any] = {"onUnhealthy": "restart"}


@pytest.mark.parametrize("policy", [None, FAILURE, TWICE, ALWAYS, UNLESS])
def test_what_was_unhealthy_is_restarted_whatever_its_policy(policy: Any) -> None:
    state = ran(policy, 9, **UNWELL)
    assert end(state, exited(0, "unhealthy"))["status"] == "restarting"
    assert end({**state, "stopAsked": True}, exited(0, "unhealthy"))["status"] == "stopped"
    lost = {**state, "health": {"status": "unhealthy", "since": "then"}}
    assert end(lost, exited(None, "signalled"))["status"] == "restarting"
    assert end(lost, exited(None, "stopped"))["status"] == "stopped"


def test_without_a_policy_nothing_else_restarts_it() -> None:
    for cause in ("exited", "oom", "timeout", "shim-lost"):
        assert end(ran(None, **UNWELL), exited(1, cause))["status"] == "stopped"
    assert end(ran(None), exited(1, "unhealthy"))["status"] == "stopped"


def test_it_is_put_off_for_its_health_as_for_a_policy() -> None:
    state: dict[str, Any] = {"status": "created"}
    waits = []
    for number in range(4):
        state = {**restarts.begun(state, None, unwell=True, asked=number == 0), "status": "running"}
        state = end(state, exited(0, "unhealthy"))
        waits.append(state["backoff"])
    assert (waits, state["restarts"], state["reason"]) == ([0.1, 0.2, 0.4, 0.8], 3, "health")
    again = restarts.failed(state, "unavailable", 0.1, 60.0)
    assert (again["status"], again["restarts"], again["backoff"]) == ("restarting", 4, 1.6)
    assert restarts.failed(state, "command-not-found", 0.1, 60.0)["status"] == "stopped"


def test_a_policy_that_is_changed_is_none_of_its_health() -> None:
    waits = end(ran(ALWAYS, 3, **UNWELL), exited(0, "unhealthy"))
    none = restarts.changed(waits, None)
    assert (none["status"], none["restarts"], none["onUnhealthy"]) == ("restarting", 3, "restart")
    assert restarts.changed(waits, {**TWICE, "retries": 3})["status"] == "restarting"
    # Of one that waits for its policy that is all.
    waits = end(ran(ALWAYS, 3, **UNWELL), exited(0))
    assert restarts.changed(waits, None)["status"] == "stopped"


def test_a_launcher_that_begins_goes_on_with_it_and_a_reboot_does_not() -> None:
    waits = end(ran(None, **UNWELL), exited(0, "unhealthy"))
    assert (restarts.is_due(waits, boot=False), restarts.is_due(waits, boot=True)) == (True, False)
    ended = end(ran(None, **UNWELL), exited(0))
    assert (restarts.is_due(ended, boot=False), restarts.is_due(ended, boot=True)) == (False, False)
