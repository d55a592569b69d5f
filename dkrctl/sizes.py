"""Sizes as people read them, in Docker's way: units of 1000, three digits or so."""

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human(size: float) -> str:
    """`512B`, `4.1kB`, `12.3MB`."""
    unit = 0
    while size >= 999.5 and unit + 1 < len(_UNITS):
        size /= 1000.0
        unit += 1
    digits = f"{size:.0f}" if size >= 99.95 or unit == 0 else f"{size:.3g}"
    return f"{digits}{_UNITS[unit]}"
