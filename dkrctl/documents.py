"""JSON for people: indented, other scripts readable, and nothing in it that steers a terminal."""

from dkrctl.templates import json

_INDENT = "    "


def document(value: object) -> str:
    """`value` as indented JSON with a newline behind."""
    return f"{_indented(value, '')}\n"


def _indented(value: object, indent: str) -> str:
    inner = indent + _INDENT
    if isinstance(value, dict) and value:
        lines = [f"{inner}{json(str(key))}: {_indented(entry, inner)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join(inner + _indented(entry, inner) for entry in value) + f"\n{indent}]"
    return json(value)
