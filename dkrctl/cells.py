"""Text in the cells of a terminal: how many it takes, how it is cut, and nothing in it that steers.

Names, labels and commands are other people's text. Widths: Unicode Standard Annex 11; two for wide and
full-width characters, none for marks that combine with the one before.
"""

ELLIPSIS = "…"
# Vowels and final consonants of Hangul in parts combine with the consonant before; UAX 11 calls them neutral.
_JAMO = range(0x1160, 0x1200)


def plain(text: str) -> str:
    """`text` with what is not printable (controls, bidirectional overrides, lone surrogates) as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return ascii(character)[1:-1]


def cell_width(character: str) -> int:
    """Cells that a printable character takes: 0, 1 or 2."""
    if character.isascii():
        return 1
    import unicodedata  # late: most text needs none of its megabyte

    if unicodedata.category(character) in ("Mn", "Me") or ord(character) in _JAMO:
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def width_of(text: str) -> int:
    """Cells that `text`, which is `plain`, takes."""
    return len(text) if text.isascii() else sum(map(cell_width, text))


def cut(text: str, cells: int) -> str:
    """`text`, or as much of its beginning as fits into `cells` with an ellipsis behind."""
    if width_of(text) <= cells:
        return text
    if cells < 1:
        return ""
    kept = ""
    left = cells - 1
    for character in text:
        left -= cell_width(character)
        if left < 0:
            break
        kept += character
    return kept + ELLIPSIS


def pad(text: str, cells: int) -> str:
    """`text` with blanks behind up to `cells`."""
    return text + " " * (cells - width_of(text))


def fill(text: str, cells: int) -> str:
    """`text`, cut and padded to `cells`."""
    if text.isascii() and len(text) <= cells:
        return text.ljust(cells)  # most of a long table
    return pad(cut(text, cells), cells)
