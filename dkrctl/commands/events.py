"""`dkrctl events`: what happens to containers."""

import time
from collections.abc import Callable

from dkrctl import output
from dkrctl.cells import plain
from dkrctl.containers import EXIT_FIELDS
from dkrctl.event_reading import Reading
from dkrctl.moments import moment
from dkrctl.templates import Labels, Record, Template, json
from dkrctl.verbs import Call

# What an event can have: absent is not unknown.
FIELDS = (
    *("time", "type", "action", "id", "name", "uid", "image", "labels"),
    *("labelsOmitted", "exit", "signal", "took", "restarts", "reason", "oldName", "execID", "command"),
)


def run(call: Call) -> int:
    """`dkrctl events`; the exit status. Raises DkrError."""
    call.no_words()
    show = _presentation(call)
    query = [("filter", word) for word in call.texts("filter")]
    now = time.time()
    for option in ("since", "until"):
        text = call.text(option)
        if text is not None:
            query.append((option, moment(text, option, now)))
    reading = Reading(call.daemon(), query, 1 if 1 in call.found else -1)
    for batch in reading.batches():
        output.emit("".join(f"{show(event)}\n" for event in batch))
    return 0


def _presentation(call: Call) -> Callable[[dict[str, object]], str]:
    form = call.text("format")
    if form in (None, ""):
        return line_of
    if form == "json":
        return json
    template = Template(form or "")
    template.fill(_record({}))  # unknown fields are told even where nothing happens
    return lambda event: template.fill(_record(event), terminal=output.is_terminal())


def _record(event: dict[str, object]) -> Record:
    labels, ended = event.get("labels"), event.get("exit")
    found = Record({**dict.fromkeys(FIELDS), **event})
    found["labels"] = Labels(labels) if isinstance(labels, dict) else Labels()
    if isinstance(ended, dict):
        found["exit"] = Record({**dict.fromkeys(EXIT_FIELDS), **ended})
    return found


def line_of(event: dict[str, object]) -> str:
    """An event as Docker's line has it: `TIME container die ID (exitCode=3, image=host, name=web, team=blue)`."""
    told: dict[str, object] = {}
    ended, labels = event.get("exit"), event.get("labels")
    if isinstance(ended, dict):
        code, signal = ended.get("code"), ended.get("signal")
        if isinstance(code, int) or isinstance(signal, int):
            told["exitCode"] = code if isinstance(code, int) else 128 + int(str(signal))
        told["cause"] = ended.get("cause")
    for key in ("signal", "restarts", "reason", "oldName", "execID", "command"):
        if key in event:
            told[key] = event[key]
    told |= {"image": event.get("image"), "name": event.get("name")}
    told |= labels if isinstance(labels, dict) else {}
    more = ", ".join(f"{key}={value}" for key, value in told.items())
    return plain(f"{event.get('time')} {event.get('type')} {event.get('action')} {event.get('id')} ({more})")
