"""`dkrctl pause`: have containers stand still."""

from dkrctl.daemon import SECONDS
from dkrctl.several import act
from dkrctl.verbs import Call


def run(call: Call) -> int:
    """`dkrctl pause CONTAINER...`; the exit status. Raises DkrError."""
    return act(call.daemon(), call.some_words(), "/pause", None, SECONDS)
