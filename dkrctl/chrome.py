"""The record of a start in the Trace Event Format, for Perfetto (https://ui.perfetto.dev) and chrome://tracing.

Source of the format: "Trace Event Format", the document of the Chromium project; "complete" events (ph X) and metadata (ph M).
Not on the lean path.
"""

from typing import Any

from dkrctl.whys import WHYS

Json = dict[str, Any]


def events(trace: Json) -> Json:
    """The object of the format: times in microseconds, a process of its own for each process of the start."""
    steps = [step for step in trace.get("steps", []) if isinstance(step, dict)]
    numbers = {name: n for n, name in enumerate(dict.fromkeys(str(s.get("process")) for s in steps), 1)}
    found: list[Json] = []
    for name, number in numbers.items():
        for kind in ("process_name", "thread_name"):
            found.append({"name": kind, "ph": "M", "pid": number, "tid": number, "args": {"name": name}})
        found.append(
            {
                "name": "process_sort_index",
                "ph": "M",
                "pid": number,
                "tid": number,
                "args": {"sort_index": number},
            }
        )
    for step in steps:
        number = numbers[str(step.get("process"))]
        name = str(step.get("name"))
        arguments = {"call": step.get("call", "")}
        if name in WHYS:
            arguments["why"] = WHYS[name].sentence
        if step.get("failed") is True:
            arguments["failed"] = True
        found.append(
            {
                "name": name,
                "cat": "wait" if name in WHYS and WHYS[name].waits else "start",
                "ph": "X",
                "ts": _microseconds(step.get("start")),
                "dur": _microseconds(step.get("duration")),
                "pid": number,
                "tid": number,
                "args": arguments,
            }
        )
    about = {key: value for key, value in trace.items() if key != "steps"}
    return {"traceEvents": found, "displayTimeUnit": "ns", "otherData": about}


def _microseconds(nanoseconds: object) -> float:
    return nanoseconds / 1000 if isinstance(nanoseconds, int) else 0.0
