"""`dkrctl system`: df, info and prune."""

from common.errors import BadRequest, ProtocolError
from common.system import PARTS, SYSTEM
from dkrctl import output, tables
from dkrctl.commands import info, prune
from dkrctl.documents import document
from dkrctl.sizes import human
from dkrctl.templates import Record, Template
from dkrctl.verbs import Call

SECONDS = 120.0  # as long as it takes to measure thousands of containers
_ROWS = (("Layers", "layers"), ("Containers", "containers"), ("Logs", "logs"))
_COLUMNS = [tables.Column(name) for name in ("TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE")]


def run(call: Call) -> int:
    """`dkrctl system PART`; the exit status. Raises DkrError."""
    part = call.words.pop(0) if call.words else ""
    if part not in PARTS:
        what = f"it has no {part[:40]!r}" if part else "what of it is missing"
        raise BadRequest(f"cannot do system: {what}", hint=f"dkrctl system {'|'.join(PARTS)}")
    call.no_words()
    own = {option.long for options in PARTS.values() for option in options}
    others = own - {option.long for option in PARTS[part]}
    for option in SYSTEM.options:
        if option.long in others and call.parsed.every(option.long):
            raise BadRequest(f"cannot take --{option.long} with system {part}: it has no such option")
    if part == "info":
        return info.run(call)
    if part == "prune":
        return prune.prune(call)
    return _usage(call)


def _usage(call: Call) -> int:
    form = call.text("format")
    template = None if form in (None, "", "json") else Template(form or "")
    said = call.daemon().get("/v1/system/df", seconds=SECONDS)
    if not isinstance(said, dict) or not all(isinstance(said.get(key), dict) for _, key in _ROWS):
        raise ProtocolError("cannot understand the daemon: what is taken of the disk has another form")
    if template is not None:
        records = Record(
            {key: Record(part) if isinstance(part, dict) else part for key, part in said.items()}
        )
        output.emit(template.fill(records, terminal=output.is_terminal()) + "\n")
    elif form == "json":
        output.emit(document(said))
    else:
        rows = [_row(name, said[key]) for name, key in _ROWS]
        output.emit(tables.render(_COLUMNS, rows, output.width()))
        if said.get("complete") is not True:
            output.emit("There is more: not all could be measured in time.\n")
    return 0


def _row(name: str, part: dict[str, object]) -> list[str]:
    size, free = (value if isinstance(value := part.get(key), int) else 0 for key in ("size", "reclaimable"))
    share = f" ({100 * free // size}%)" if size and name != "Layers" else ""
    return [name, str(part.get("count", 0)), str(part.get("active", 0)), human(size), human(free) + share]
