"""`dkrctl update`: bound containers otherwise, or have them restarted otherwise."""

from common.errors import BadRequest
from common.restarts import policy_from
from dkrctl.daemon import SECONDS
from dkrctl.request import take_limits
from dkrctl.several import act
from dkrctl.verbs import Call


def run(call: Call) -> int:
    """`dkrctl update CONTAINER...`; the exit status. Raises DkrError."""
    names = call.some_words()
    body: dict[str, object] = {}
    take_limits(call.parsed, body, lifts=True)
    policy = call.text("restart")
    if policy is not None:
        body["restart"] = policy_from(policy)
    if not body:
        raise BadRequest(
            "cannot update: nothing is given that could be changed",
            hint="--memory, --memory-swap, --cpus, --pids-limit, --restart",
        )
    return act(call.daemon(), names, "/update", body, SECONDS)
