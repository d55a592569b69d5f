"""What the client itself says, on stderr.

On the lean path (see lean.py): imports built-in modules and errors. Written with write(2): the client ends by
`_exit`, so nothing may wait in a buffer.
"""

import posix

from common.errors import DkrError


def _plain(text: str) -> str:
    """`text` without what could steer a terminal: some of it was chosen by others."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def say(descriptor: int, text: str) -> None:
    """Write all of `text`; a descriptor that takes nothing is nobody's to hear of."""
    data = text.encode("utf-8", "backslashreplace")
    while data:
        try:
            data = data[posix.write(descriptor, data) :]
        except OSError:
            return


def note(text: str) -> None:
    """A remark that is no error."""
    say(2, f"dkrctl: {_plain(text)}\n")


def report(error: DkrError) -> None:
    """An error with its fields and its way out."""
    lines = [f"dkrctl: {_plain(error.message)}"]
    for field in error.fields:
        lines.append(f"  {_plain(str(field.get('path')))}: {_plain(str(field.get('message')))}")
    if error.rule:
        lines.append(f"  rule: {_plain(error.rule)}")
    if error.hint:
        lines += [f"  hint: {_plain(line)}" for line in error.hint.splitlines()]
    say(2, "\n".join(lines) + "\n")
