"""`dkrctl unpause`: let containers that are paused go on."""

from dkrctl.daemon import SECONDS
from dkrctl.several import act
from dkrctl.verbs import Call


def run(call: Call) -> int:
    """`dkrctl unpause CONTAINER...`; the exit status. Raises DkrError."""
    return act(call.daemon(), call.some_words(), "/unpause", None, SECONDS)
