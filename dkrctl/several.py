"""What a verb does to several containers: at the same time where that takes long, told in the order in which they were named."""

from collections.abc import Sequence

from common.errors import DkrError
from dkrctl import output
from dkrctl.daemon import Daemon, target
from dkrctl.report import report
from dkrctl.verbs import FAILED


def act(daemon: Daemon, names: Sequence[str], tail: str, body: object, seconds: float) -> int:
    """POST `body` to what is at `tail` of each container, at the same time, and print the names of those of which it was
    done; the exit status.

    seconds  how long each is waited for where nobody wished otherwise

    Raises DkrError where no daemon can be asked.
    """
    status = 0
    known = []
    for name in names:
        try:
            known.append((name, target(name, tail)))
        except DkrError as unknown:
            report(unknown)
            status = FAILED
    answers = daemon.post_all([where for _, where in known], body, seconds)
    for (name, _), (_, error) in zip(known, answers, strict=True):
        if error is None:
            output.emit(f"{name}\n")
        else:
            report(error)
            status = FAILED
    return status
