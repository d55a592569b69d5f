"""The record of a start in the form that was asked for; and what `run --explain` tells at its end.

Not on the lean path: loaded only to tell.
"""

import _signal  # type: ignore[import-not-found]
import os
from typing import Any

from dkrctl.chrome import events
from dkrctl.documents import document
from dkrctl.lines import WIDTH
from dkrctl.report import say
from dkrctl.signals import SIGHUP, SIGINT, SIGQUIT, SIGTERM
from dkrctl.story import story

_IGNORED = 1  # SIG_IGN as _signal tells it


def tell(trace: object, form: str | None) -> None:
    """Tell the start of a run on stderr, after its end. A signal ends that, as it ends any program that writes."""
    for number in (SIGHUP, SIGINT, SIGQUIT, SIGTERM):
        if _signal.getsignal(number) != _IGNORED:
            _signal.signal(number, _signal.SIG_DFL)
    if isinstance(trace, dict):
        say(2, told(trace, form, 2))


def told(trace: dict[str, Any], form: str | None, descriptor: int) -> str:
    """The record in the form `text` (None: that), `json` or `trace`, for `descriptor`."""
    if form == "json":
        return document(trace)
    if form == "trace":
        return document(events(trace))
    return story(trace, width_of(descriptor), coloured=is_coloured(descriptor))


def width_of(descriptor: int) -> int:
    """Columns of the terminal behind `descriptor`, or those of a page."""
    try:
        return os.get_terminal_size(descriptor).columns or WIDTH
    except OSError:
        return WIDTH


def is_coloured(descriptor: int) -> bool:
    """Whether to paint: on a terminal that can, unless https://no-color.org says no."""
    return (
        os.isatty(descriptor) and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    )
