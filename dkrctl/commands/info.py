"""`dkrctl info`: what the daemon says of itself and of its host, whatever that is."""

import re

from common.errors import ProtocolError
from dkrctl import output
from dkrctl.cells import plain
from dkrctl.documents import document
from dkrctl.templates import Record, Template
from dkrctl.verbs import Call


def run(call: Call) -> int:
    """`dkrctl info`; the exit status. Raises DkrError."""
    call.no_words()
    form = call.text("format")
    template = None if form in (None, "", "json") else Template(form or "")
    said = call.daemon().get("/v1/info")
    if not isinstance(said, dict):
        raise ProtocolError("cannot understand the daemon: what it says of itself is no object")
    if template is not None:
        output.emit(template.fill(_records(said), terminal=output.is_terminal()) + "\n")
    elif form == "json":
        output.emit(document(said))
    else:
        output.emit("".join(f"{line}\n" for line in lines_of(said)))
    return 0


def _records(value: object) -> object:
    if isinstance(value, dict):
        return Record({key: _records(entry) for key, entry in value.items()})
    return value


def lines_of(value: dict[str, object], indent: str = "") -> list[str]:
    """An object as lines `name: value`, objects in it below their name."""
    lines = []
    for key, entry in value.items():
        name = plain(words(key))
        if isinstance(entry, dict) and entry:
            lines += [f"{indent}{name}:", *lines_of(entry, indent + "  ")]
        elif isinstance(entry, list) and any(isinstance(item, dict) for item in entry):
            lines.append(f"{indent}{name}:")
            for item in entry:
                inner = (
                    lines_of(item, indent + "    ")
                    if isinstance(item, dict)
                    else [f"{indent}    {_word(item)}"]
                )
                first = inner[0].strip() if inner else ""
                lines += [f"{indent}  - {first}", *inner[1:]]
        else:
            lines.append(f"{indent}{name}: {_word(entry)}")
    return lines


def words(key: str) -> str:
    """The words of a camelCase key: apiVersion becomes API version."""
    parts = re.findall(r"[A-Z]?[^A-Z]+|[A-Z]+(?![^A-Z])", key) or [key]
    text = " ".join(part.lower() for part in parts)
    return re.sub(r"\b(api|id|ids|os|pid)\b", lambda found: _UPPER[found[0]], text)


_UPPER = {"api": "API", "id": "id", "ids": "ids", "os": "OS", "pid": "pid"}


def _word(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_word, value)) or "-"
    if isinstance(value, dict):
        return "-"
    return plain(str(value))
