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


def _lines(begin: str, text: str) -> str:
    """`text` behind `begin`, on a terminal broken between words; elsewhere a line is one line, for who searches them."""
    line = begin + _plain(text)
    try:
        width = posix.get_terminal_size(2).columns
    except OSError:
        return line  # no terminal
    if not 30 <= width < len(line):
        return line
    # Late: lines that fit, which most do, pay nothing.
    import textwrap

    indent = " " * (len(begin) - len(begin.lstrip()) + 2)
    return "\n".join(
        textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
    )


def note(text: str) -> None:
    """A remark that is no error."""
    say(2, _lines("dkrctl: ", text) + "\n")


def report(error: DkrError) -> None:
    """An error with its fields and its way out."""
    lines = [_lines("dkrctl: ", error.message)]
    for field in error.fields:
        if str(field.get("message")) in error.message:
            continue  # one alone is what the message says already
        lines.append(_lines("  ", f"{field.get('path')}: {field.get('message')}"))
    if error.rule:
        lines.append(_lines("  rule: ", error.rule))
    if error.hint:
        lines += [_lines("  hint: ", line) for line in error.hint.splitlines()]
    say(2, "\n".join(lines) + "\n")
