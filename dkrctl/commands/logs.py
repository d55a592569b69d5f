"""`dkrctl logs`: what a container has written."""

import time
from collections.abc import Iterable, Iterator

from common.errors import BadRequest
from dkrctl import output
from dkrctl.log_lines import Line
from dkrctl.log_reading import Reading
from dkrctl.moments import moment
from dkrctl.verbs import Call

MAX_TAIL = 999_999_999
_DESCRIPTORS = {"stdout": 1, "stderr": 2}


def run(call: Call) -> int:
    """`dkrctl logs CONTAINER`; the exit status. Raises DkrError."""
    names = call.some_words()
    if len(names) > 1:
        raise BadRequest(f"cannot take {names[1]!r}: logs takes one container")
    query = _query(call)
    reader = 1 if call.parsed.flag("follow") and 1 in call.found else -1
    reading = Reading(call.daemon(), names[0], query, reader)
    show(reading.batches(), timestamps=bool(call.parsed.flag("timestamps")))
    return 0


def _query(call: Call) -> dict[str, str]:
    query = {}
    tail = call.text("tail")
    if tail not in (None, "all", "-1"):
        if not (tail and tail.isascii() and tail.isdigit() and int(tail) <= MAX_TAIL):
            raise BadRequest(f"cannot take --tail {tail}: it takes a number of lines, or the word all")
        query["tail"] = str(int(tail))
    now = time.time()
    for option in ("since", "until"):
        text = call.text(option)
        if text is not None:
            query[option] = moment(text, option, now)
    if call.parsed.flag("follow"):
        query["follow"] = "true"
    return query


def show(batches: Iterable[list[Line]], *, timestamps: bool) -> None:
    """Write them where they belong, what has come together in one piece."""
    whole = {"stdout": True, "stderr": True}  # the line before was one, and not the beginning of the next
    for batch in batches:
        for stream, data in _pieces(batch, whole, timestamps):
            output.write(_DESCRIPTORS[stream], data)


def _pieces(batch: list[Line], whole: dict[str, bool], timestamps: bool) -> Iterator[tuple[str, bytes]]:
    stream, data = "stdout", list[bytes]()
    for line in batch:
        if line.stream != stream:
            yield stream, b"".join(data)
            stream, data = line.stream, []
        if timestamps:
            if whole[stream]:
                data.append(line.time.encode() + b" ")
            whole[stream] = line.data.endswith(b"\n")
        data.append(line.data)
    yield stream, b"".join(data)
