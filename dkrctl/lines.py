"""Lines of a page for people: wrapped where system calls can be broken, and shortened where they repeat each other."""

import re

WIDTH = 80  # of a page, where there is no terminal
BOLD, FAINT, RED = "1", "2", "31"  # ECMA-48, SGR
_QUOTED = re.compile(r'"[^"]*"')
_FAILED = re.compile(r" = -1 [A-Z0-9]+$")


def wrap(text: str, first: int, later: int) -> list[str]:
    """`text` in lines of at most `first`, then `later` characters, broken after a space or a `|`, and anywhere where nothing
    else helps.
    """
    lines: list[str] = []
    line = ""
    for found in re.findall(r"[^ |]+[ |]?|[ |]", text):
        piece, room = found, later if lines else first
        if line and len(line) + len(piece.rstrip()) > room:
            lines.append(line.rstrip())
            line, room = "", later
        while len(piece.rstrip()) > room:
            lines.append(piece[:room])
            piece, room = piece[room:], later
        line += piece
    return [*lines, line.rstrip()] if line.strip() or not lines else lines


def indented(text: str, width: int, indent: int, further: int = 0) -> list[str]:
    """`text` wrapped at `indent`, its second and later lines `further` in."""
    room = width - indent
    lines = wrap(text, room, room - further)
    return [" " * (indent + (further if place else 0)) + line for place, line in enumerate(lines)]


def paint(text: str, code: str, *, coloured: bool) -> str:
    """`text` in a colour or weight, where that is wanted."""
    return f"\x1b[{code}m{text}\x1b[0m" if coloured and code else text


class Repeats:
    """Tells steps of one name, one after another, by what each has of its own."""

    def __init__(self) -> None:
        self._name = ""
        self._shapes: dict[str, list[str]] = {}

    def short(self, name: str, calls: list[str]) -> str | None:
        """What is new in `calls` beside an earlier step of the same name and shape; None where they are to be told in full."""
        if name != self._name:
            self._name = name
            self._shapes = {}
        text = "; ".join(calls)
        words = _QUOTED.findall(text)
        before = self._shapes.setdefault(_QUOTED.sub('""', text), words)
        # "/usr" and "usr" are one path, outside and inside.
        new = dict.fromkeys(word.strip('"/') for word, old in zip(words, before, strict=True) if word != old)
        failed = _FAILED.search(text)
        return ", ".join(new) + (failed.group() if failed else "") if new else None
