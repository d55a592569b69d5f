"""What a verb does to several containers: at the same time where that takes long, told in the order in which they were named."""

from collections.abc import Iterator, Sequence

from common.errors import DkrError
from dkrctl import output
from dkrctl.awaited import Awaited
from dkrctl.daemon import Daemon, target
from dkrctl.report import report
from dkrctl.verbs import FAILED


def act(
    daemon: Daemon,
    names: Sequence[str],
    tail: str,
    body: object,
    seconds: float,
    awaited: Awaited | None = None,
) -> int:
    """POST `body` to what is at `tail` of each container, at the same time, and print the names of those of which it was
    done; the exit status.

    seconds  how long each is waited for where nobody wished otherwise
    awaited  what is told where that takes long

    Raises DkrError where no daemon can be asked.
    """
    status = 0
    for name, _, error in each(daemon, names, tail, body, seconds, awaited):
        if error is None:
            output.emit(f"{name}\n")
        else:
            report(error)
            status = FAILED
    return status


def each(
    daemon: Daemon,
    names: Sequence[str],
    tail: str,
    body: object,
    seconds: float,
    awaited: Awaited | None = None,
) -> Iterator[tuple[str, object, DkrError | None]]:
    """As `act`: each name in its turn with its answer, or its error."""
    awaited = awaited or Awaited(names, "to answer")
    known = []
    for name in names:
        try:
            known.append((name, target(name, tail)))
        except DkrError as unknown:
            awaited.came(name)
            yield name, None, unknown
    daemon.awaited = awaited
    answers = daemon.post_all([where for _, where in known], body, seconds)
    for (name, _), (answer, error) in zip(known, answers, strict=True):
        awaited.came(name)
        yield name, answer, error
