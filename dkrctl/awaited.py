"""What an answer that takes long waits for: told once, to who sits at a terminal and would wonder."""

from collections.abc import Sequence

_SHOWN = 5  # names; more of them are counted


class Awaited:
    """Containers of which something is wanted. `what`: it, as in "to end"; `further`: a word more, or nothing."""

    def __init__(self, names: Sequence[str], what: str, further: str = "") -> None:
        self._names = list(names)
        self._what = what
        self._further = f" ({further})" if further else ""

    def came(self, name: str) -> None:
        """The answer for this one is there."""
        if name in self._names:
            self._names.remove(name)

    def __str__(self) -> str:
        shown, more = self._names[:_SHOWN], len(self._names) - _SHOWN
        words = [*shown, f"{more} more"] if more > 0 else shown
        listed = " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
        return f"waiting for {listed} {self._what}{self._further}"
