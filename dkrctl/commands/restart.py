"""`dkrctl restart`: have containers end, and start them again."""

from dkrctl.awaited import Awaited
from dkrctl.commands.stop import killed, wished
from dkrctl.daemon import START_SECONDS
from dkrctl.several import act
from dkrctl.verbs import Call


def run(call: Call) -> int:
    """`dkrctl restart CONTAINER...`; the exit status. Raises DkrError."""
    names = call.some_words()
    body, patience = wished(call)
    patience += START_SECONDS
    awaited = Awaited(names, "to end, and to be started again", killed(body))
    return act(call.daemon(patience), names, "/restart", body, patience, awaited)
