"""Restart policies: how a request says one, and what becomes of a container that has ended. Pure; standard library only.

    ended ─► its policy wants it again, and nobody has stopped it ─► restarting, due in a while ─► running
        └──► else ───────────────────────────────────────────────► stopped

What a restart needs to know stands in the container's state, so that whoever is there goes on with it: the guardian at the end, the
launcher where the guardian was killed, the next launcher where that one was.

    restart      the policy, as in the request; absent without one
    onUnhealthy  `restart`: whatever the policy, it is started again where it was unhealthy; absent where not
    restarts     how often it was restarted since somebody has started it; absent where neither of the two is there, and so are the others
    reason       of the last restart: one of REASONS; absent before the first
    backoff      seconds that the last restart was put off
    due          when it is to be, seconds of CLOCK_BOOTTIME
    stopAsked    a user has stopped it: nothing but a start, or with `always` a reboot, brings it back
"""

import posix
import time

from common.clock import now
from common.errors import BadRequest

Json = dict[str, object]

POLICIES = ("no", "on-failure", "always", "unless-stopped")
MAX_RETRIES = 2**31 - 1
RESET_SECONDS = 10.0  # of a life after which the next restart is put off no longer than the first
KEYS = ("restart", "onUnhealthy", "restarts", "reason", "backoff", "due", "stopAsked")
REASONS = ("policy", "health")
# What waiting does not mend: the container would not be started by who asks for it either.
_FOR_GOOD = frozenset(
    (
        *("bad-request", "not-permitted", "not-found", "conflict"),
        *("command-not-found", "command-not-executable", "protocol", "internal"),
    )
)
_ASKED_FOR = ("stopped", "client-gone")  # causes


def policy_of(value: object, path: str = "restart") -> Json | None:
    """The policy of a request; None where there is none, or it is `no`. Raises BadRequest."""
    if value is None:
        return None
    if not isinstance(value, dict) or not {"policy"} <= value.keys() <= {"policy", "retries"}:
        raise _refused(path, "an object with policy, and perhaps retries, is wanted")
    policy, retries = value["policy"], value.get("retries")
    if policy not in POLICIES:
        raise _refused(f"{path}.policy", "one of " + ", ".join(POLICIES) + " is wanted")
    if "retries" not in value:
        return None if policy == "no" else {"policy": policy}
    if policy != "on-failure":
        raise _refused(f"{path}.retries", "has a meaning with on-failure only")
    if isinstance(retries, float) and retries.is_integer():
        retries = int(retries)  # JSON knows numbers only
    if type(retries) is not int or not 1 <= retries <= MAX_RETRIES:
        raise _refused(f"{path}.retries", f"a whole number from 1 to {MAX_RETRIES} is wanted")
    return {"policy": policy, "retries": retries}


def _refused(path: str, message: str) -> BadRequest:
    return BadRequest(
        f"cannot read the restart policy: {path}: {message}", fields=({"path": path, "message": message},)
    )


def word_of(policy: object) -> str:
    """The policy as people write it: `on-failure:3`."""
    if not isinstance(policy, dict):
        return "no"
    retries = policy.get("retries")
    return str(policy.get("policy")) + ("" if retries is None else f":{retries}")


def policy_from(word: str) -> Json:
    """The policy of a request by what people write. Raises BadRequest."""
    name, colon, retries = word.partition(":")
    digits = retries.isascii() and retries.isdecimal() and len(retries) <= 10
    fits = name == "on-failure" and digits if colon else name in POLICIES
    if not fits or (colon and int(retries) > MAX_RETRIES):
        raise BadRequest(
            f"cannot take --restart {word}: no such policy", hint="no, on-failure[:N], always, unless-stopped"
        )
    # As with Docker, 0 is no bound.
    return {"policy": name, "retries": int(retries)} if colon and int(retries) else {"policy": name}


# --- of a state


def begun(state: Json, policy: Json | None, *, unwell: bool = False, asked: bool) -> Json:
    """`state` as a start finds it: `asked` for by somebody, it begins to count anew. `unwell`: started again where it was unhealthy."""
    bare = {key: value for key, value in state.items() if key not in KEYS}
    wanted: Json = {} if policy is None else {"restart": policy}
    if unwell:
        wanted["onUnhealthy"] = "restart"
    if not wanted:
        return bare
    goes_on = not asked and state.get("status") == "restarting"
    count, backoff = (_count(state) + 1, state.get("backoff", 0.0)) if goes_on else (0, 0.0)
    if goes_on:
        wanted["reason"] = "health" if _was_unwell(state) else "policy"
    # The start time is that of the process before; without it, one that comes to nothing counts as short.
    return {**bare, "pidStartTime": 0, **wanted, "restarts": count, "backoff": backoff}


def may_follow(state: Json) -> bool:
    """Whether anything but a user could start it again."""
    return state.get("restart") is not None or state.get("onUnhealthy") is not None


def ended(state: Json, how: Json, first: float, most: float) -> Json:
    """`state` once its command has ended, `how` as in `exit`. It is put off by `first` seconds, then twice as long each time, at
    most by `most`; anew after a life of RESET_SECONDS.
    """
    over = {**state, "status": "stopped", "finished": now(), "exit": how, "pid": 0}
    if not _wanted(state, how):
        return over
    return _put_off(over, 0.0 if _life(state) >= RESET_SECONDS else _backoff(state), first, most)


def cut_off(state: Json, how: Json) -> Json:
    """`state` of one that ran when the machine lost its memory, by which its end was not noted: that is a boot."""
    over = {**state, "status": "stopped", "finished": now(), "exit": how, "pid": 0}
    policy = state.get("restart")
    if not isinstance(policy, dict) or policy.get("policy") == "on-failure":
        return over
    return {**over, "status": "restarting", "backoff": 0.0, "due": 0.0}


def failed(state: Json, code: str, first: float, most: float) -> Json:
    """`state`, from before a restart, once that has come to nothing for an error of this `code`."""
    count = _count(state) + 1
    if code in _FOR_GOOD or not (_was_unwell(state) or _has_retries(state, count)):
        return _without_due({**state, "status": "stopped"})
    return _put_off({**state, "restarts": count}, _backoff(state), first, most)


def halted(state: Json) -> Json:
    """`state` of one that waits to be restarted, once a user has stopped it."""
    return {**_without_due(state), "status": "stopped", "stopAsked": True}


def changed(state: Json, policy: Json | None) -> Json:
    """`state` with another policy. One that waits and would not by the new one waits no more."""
    if policy is None and state.get("onUnhealthy") is None:
        bare = {key: value for key, value in state.items() if key not in KEYS}
        return {**bare, "status": "stopped"} if state.get("status") == "restarting" else bare
    new = {"restarts": 0, **{key: value for key, value in state.items() if key != "restart"}}
    if policy is not None:
        new["restart"] = policy
    if state.get("status") != "restarting" or _was_unwell(state):
        return new
    if policy is None or not _has_retries(new, _count(new)):
        return _without_due({**new, "status": "stopped"})
    return new


def is_due(state: Json, *, boot: bool) -> bool:
    """Whether a launcher that begins, the first after a reboot or not, has to start a container of this state, now or when its time
    comes. What has never been started is not, nor without a policy or with `on-failure` what a reboot has ended.
    """
    if not may_follow(state) or state.get("status") not in ("stopped", "restarting"):
        return False
    policy = state.get("restart")
    word = policy.get("policy") if isinstance(policy, dict) else "no"
    if word in ("no", "on-failure"):
        return state["status"] == "restarting" and not boot
    if state.get("stopAsked"):
        return boot and word == "always"
    return state["status"] == "restarting" or state.get("started") is not None


def seconds_left(state: Json) -> float:
    """Until the restart of one that waits for it. Never more than it was put off: the due time may be of a boot before."""
    due = state.get("due")
    left = due - _uptime() if isinstance(due, (int, float)) else 0.0
    return min(max(0.0, left), _backoff(state))


def _wanted(state: Json, how: Json) -> bool:
    if state.get("stopAsked") or how.get("cause") in _ASKED_FOR:
        return False
    if _was_unwell({**state, "exit": how}):
        return True
    policy = state.get("restart")
    if not isinstance(policy, dict):
        return False
    if policy.get("policy") != "on-failure":
        return True
    # What nobody could learn is no success.
    failure = how.get("code") != 0 or how.get("cause") in ("oom", "timeout", "unhealthy")
    return failure and _has_retries(state, _count(state))


def _was_unwell(state: Json) -> bool:
    """Whether it has ended for its health, and is started again for that alone. Where its guardian was killed while it stopped it, the
    cause is another, but what was found stands in the state.
    """
    if state.get("onUnhealthy") != "restart":
        return False
    how, health = state.get("exit"), state.get("health")
    return (isinstance(how, dict) and how.get("cause") == "unhealthy") or (
        isinstance(health, dict) and health.get("status") == "unhealthy"
    )


def _has_retries(state: Json, count: int) -> bool:
    policy = state.get("restart")
    retries = policy.get("retries") if isinstance(policy, dict) else None
    return not isinstance(retries, int) or count < retries


def _put_off(state: Json, before: float, first: float, most: float) -> Json:
    backoff = min(2 * before if before else first, most)
    return {**state, "status": "restarting", "backoff": backoff, "due": round(_uptime() + backoff, 3)}


def _without_due(state: Json) -> Json:
    return {key: value for key, value in state.items() if key != "due"}


def _count(state: Json) -> int:
    count = state.get("restarts")
    return count if isinstance(count, int) else 0


def _backoff(state: Json) -> float:
    backoff = state.get("backoff")
    return float(backoff) if isinstance(backoff, (int, float)) else 0.0


def _life(state: Json) -> float:
    """Seconds since its first process began; by a clock that nobody sets."""
    ticks = state.get("pidStartTime")
    return _uptime() - ticks / posix.sysconf("SC_CLK_TCK") if isinstance(ticks, int) and ticks else 0.0


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
