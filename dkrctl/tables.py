"""Tables: a heading, rows, columns that are as wide as what stands in them and never break."""

from dkrctl.cells import cut, fill, plain, width_of

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Sequence

GAP = 3


class Column:
    """One column.

    turn   where the terminal is narrow, columns give way in the order of their turns; 0: this one does not
    least  how narrow it may become; 0: it is left out
    """

    __slots__ = ("heading", "least", "turn")

    def __init__(self, heading: str, turn: int = 0, least: int = 0) -> None:
        self.heading = heading
        self.turn = turn
        self.least = max(least, len(heading)) if least else 0


def render(columns: "Sequence[Column]", rows: "Sequence[Sequence[str]]", width: int | None) -> str:
    """The table as lines.

    width  cells of the terminal: columns give way, then lines are cut; None: all is shown, whole
    """
    headings = [column.heading for column in columns]
    # By columns, not by cells: of a long table most are plain ASCII from top to bottom, which is seen at once.
    upright = [_plain(cells) for cells in zip(headings, *rows, strict=True)]
    widths = [_width_of(cells) for cells in upright]
    left_out: set[int] = set()
    if width is not None:
        left_out = _narrow(columns, widths, width)
    shown = [
        [fill(cell, widths[place]) for cell in cells]
        for place, cells in enumerate(upright)
        if place not in left_out
    ]
    gap = " " * GAP
    lines = [gap.join(cells).rstrip(" ") for cells in zip(*shown, strict=True)]
    if width is not None:
        lines = [cut(line, width) for line in lines]
    return "\n".join(lines) + "\n"


def _plain(cells: "Sequence[str]") -> "Sequence[str]":
    return cells if "".join(cells).isprintable() else [plain(cell) for cell in cells]


def _width_of(cells: "Sequence[str]") -> int:
    return max(map(len if "".join(cells).isascii() else width_of, cells))


def _narrow(columns: "Sequence[Column]", widths: list[int], width: int) -> set[int]:
    """Take from the columns in their turns until all fit, if they can; which columns are left out."""
    left_out: set[int] = set()
    over = sum(widths) + GAP * (len(widths) - 1) - width
    for place in sorted(range(len(columns)), key=lambda place: columns[place].turn):
        if over <= 0 or not columns[place].turn:
            continue
        if columns[place].least:
            taken = min(over, max(0, widths[place] - columns[place].least))
            widths[place] -= taken
            over -= taken
        else:
            left_out.add(place)
            over -= widths[place] + GAP
    return left_out
