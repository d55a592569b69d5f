"""Lines of a log from lines of output, many at a time: what a command writes fast must not wait for a loop in Python.

Between the text of two lines stands the same but for the nanoseconds of a time, and the bytes that JSON writes otherwise are few. So
a block is turned into a template, with two kinds of replacement, and all times are filled in at once.
"""

from __future__ import annotations

_ESCAPES = {
    **{bytes([code]): b"\\u%04x" % code for code in (*range(0x20), 0x7F)},
    b"\t": b"\\t",
    b"\r": b"\\r",
    b'"': b'\\"',
}
_BACKSLASH = b"\\"
# Bytes that stand in JSON as they are, and the newline, which ends a line.
_PLAIN = bytes(code for code in range(0x20, 0x7F) if bytes([code]) not in (b'"', _BACKSLASH)) + b"\n"
_HEAD = b'{"log":"'


def encode(block: bytes, stream: str, second: str, nanosecond: int) -> bytes:
    """`block`, whole lines of ASCII each with its newline, as lines of the log.

    second      of the time, as in 2026-01-31T12:00:00
    nanosecond  of the first line; each one behind is a nanosecond later, and none of another second
    """
    count = block.count(b"\n")
    if special := block.translate(None, _PLAIN):
        # Backslashes first: those of the other escapes are not doubled.
        if _BACKSLASH in special:
            block = block.replace(_BACKSLASH, b"\\\\")
        for code in set(special):
            escape = _ESCAPES.get(bytes([code]))
            if escape is not None:
                block = block.replace(bytes([code]), escape)
    tail = b'\\n","stream":"%b","time":"%b.%%09dZ"}\n' % (stream.encode(), second.encode())
    template = block.replace(b"%", b"%%")[:-1].replace(b"\n", tail + _HEAD)
    return b"".join((_HEAD, template, tail)) % tuple(range(nanosecond, nanosecond + count))
