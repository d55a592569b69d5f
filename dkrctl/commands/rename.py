"""`dkrctl rename`: call a container otherwise."""

from common.errors import BadRequest
from dkrctl.daemon import target
from dkrctl.verbs import Call


def run(call: Call) -> int:
    """`dkrctl rename CONTAINER NAME`; the exit status. Raises DkrError."""
    words = call.some_words()
    if len(words) != 2:
        raise BadRequest(
            f"cannot rename: a container and its new name are wanted, and {len(words)} words are there",
            hint=call.command.usage,
        )
    call.daemon().post(target(words[0], "/rename"), {"name": words[1]})
    return 0
