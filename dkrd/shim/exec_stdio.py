"""What a further command in a container has for 0..2 and more: descriptors of its caller's, or the ends of pipes or of a terminal whose
others the guardian keeps, for a caller that cannot pass any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkrd.shim import outlets, pipes
from dkrd.shim.container import Passed
from dkrd.shim.descriptors import close_soon

if TYPE_CHECKING:
    from dkrd.loop import Loop
    from dkrd.shim.exec_request import Wanted
    from dkrd.shim.outlets import Outlets


class Stdio:
    """Of one command."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._theirs = pipes.Theirs({})
        self._ours: dict[int, pipes.Pipe] = {}

    def make(self, base: int) -> Passed:
        """What the command gets. `base`: host id of the container's root. Raises OSError."""
        wanted = self._wanted
        if wanted.streams and not wanted.process.terminal:
            self._theirs, self._ours = pipes.make((0, 1, 2), open_stdin=True, base=base)
            return Passed(self._theirs.stdio)
        return Passed(wanted.stdio, wanted.tty, wanted.preserved)

    def let_go(self) -> None:
        """The command has it, or never will: close what is the command's, and its caller's."""
        self._theirs.close()
        close_soon((*self._wanted.stdio.values(), *self._wanted.preserved))

    def outlets(self, loop: Loop, master: int) -> Outlets:
        """What the guardian has of it; `master` is that of its terminal, or -1."""
        if self._ours:
            return outlets.of_pipes(loop, self._ours, None)
        return outlets.of_terminal(loop, master, typed=0 in self._wanted.tty)

    def close(self) -> None:
        """Close the guardian's ends of the pipes."""
        pipes.close(self._ours)
        self._ours = {}
