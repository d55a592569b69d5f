"""Lines of a log from lines of output, many at a time: what a command writes fast must not wait for a loop in Python.

Between the text of two lines stands the same but for three digits of a time, and the bytes that JSON writes otherwise are few. So a
block becomes a template by a few calls, and all times are filled in at once. Of those calls only such are taken as look for a byte
many at once (memchr(3)): to count newlines, or to map each byte, takes as long as all the rest together.
"""

from __future__ import annotations

import binascii
from functools import lru_cache

from common.clock import timestamp

MAX_LINE = 16 * 1024  # bytes of one entry; a longer line is several, of which the last has the newline
MOST = 1000  # lines at once: so many nanoseconds has a microsecond
_HEAD = b'{"log":"'
_BACKSLASH = ord("\\")
# Bytes that stand in JSON otherwise; not the newline, which ends a line. JSON would take DEL as it is, a terminal would not show it.
_SPECIAL = bytes((*range(0x0A), *range(0x0B, 0x20), ord('"'), _BACKSLASH, 0x7F))
_PLAIN = bytes(code for code in range(0x100) if code not in _SPECIAL)
_ESCAPES = {
    **{code: b"\\u%04x" % code for code in _SPECIAL},
    ord("\t"): b"\\t",
    ord("\r"): b"\\r",
    ord('"'): b'\\"',
    _BACKSLASH: b"\\\\",
}
_SHORT = 4096  # bytes, of which each is looked up sooner than each special one is looked for
# Ends of a line to some readers of text, and to none of JSON.
_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
_ORDINALS = tuple(b"%03d" % number for number in range(MOST))  # the last three digits of a time


def lines_from(data: bytes, begin: int, most: int) -> bytes | None:
    """Whole lines of UTF-8 in `data` from `begin` on, none longer than MAX_LINE, without the newline of the last: `most` bytes, or one
    line. None where the first is no such line.
    """
    last = data.rfind(b"\n", begin, begin + most)
    if last < 0:
        last = data.find(b"\n", begin, begin + MAX_LINE)
    elif last - begin >= MAX_LINE:
        last = _last_before_long(data, begin, last)
    if last < 0:
        return None
    block = data[begin:last]
    if not block.isascii():
        try:
            block.decode()
        except UnicodeDecodeError as err:
            end = block.rfind(b"\n", 0, err.start)
            return None if end < 0 else block[:end]
    return block


def _last_before_long(data: bytes, begin: int, last: int) -> int:
    """The newline of the last line from `begin` on before one that is too long, or `last`; -1 where the first one is."""
    found = -1
    while found < last and (newline := data.rfind(b"\n", begin, begin + MAX_LINE)) >= 0:
        found, begin = newline, newline + 1
    return min(found, last)


def encode(block: bytes, stream: str, earliest: int) -> tuple[bytes, int, int]:
    """`block`, lines of UTF-8 without the newline of the last, as lines of the log; the time of the first, nanoseconds; and how many
    there are. Where they are more than MOST, their number alone.

    earliest  the time from which on they are; each is a nanosecond later than the one before
    """
    text = escaped(block)
    if b"%" in text:
        text = text.replace(b"%", b"%%")
    first = earliest
    if first % MOST + len(text) >= MOST:
        first += -first % MOST  # all are of one microsecond
    seconds, rest = divmod(first, 1_000_000_000)
    end = b'\\n","stream":"%b","time":"%b%06d%%bZ"}\n' % (stream.encode(), _second(seconds), rest // MOST)
    between = end + _HEAD
    # In one go: what is made on the way is given back at once, or the heap grows and shrinks with each block (malloc(3)).
    template = b"".join((_HEAD, text.replace(b"\n", between), end))
    count = 1 + (len(template) - len(text) - len(between)) // (len(between) - 1)
    if count > MOST:
        return b"", first, count
    ordinal = first % MOST
    return template % _ORDINALS[ordinal : ordinal + count], first, count


@lru_cache(maxsize=1)
def _second(seconds: int) -> bytes:
    """What the times of one second begin with: most lines are of the one that the line before was of."""
    return timestamp(seconds * 1_000_000_000)[:20].encode()


def entry(stream: str, part: bytes, time: str, dropped: int = 0) -> bytes:
    """One line of the log, of a line or a part of one; in the form that `encode` has. `dropped`: how many it says are missing."""
    rest = b'"stream":"%b","time":"%b"}\n' % (stream.encode(), time.encode())
    if dropped:
        rest = b'%b,"dropped":%d}\n' % (rest[:-2], dropped)
    if not part.isascii():
        try:
            part.decode()
        except UnicodeDecodeError:
            return b'{"logBase64":"%b",%b' % (binascii.b2a_base64(part, newline=False), rest)
    return b'%b%b",%b' % (_HEAD, escaped(part).replace(b"\n", b"\\n"), rest)


def escaped(text: bytes) -> bytes:
    """UTF-8 as it stands between the quotes of JSON, but for its newlines."""
    found = (
        set(text.translate(None, _PLAIN)) if len(text) < _SHORT else {*filter(text.__contains__, _SPECIAL)}
    )
    if _BACKSLASH in found:  # first: those of the other escapes are not doubled
        text = text.replace(b"\\", b"\\\\")
        found.remove(_BACKSLASH)
    for code in found:
        text = text.replace(bytes((code,)), _ESCAPES[code])
    return text if text.isascii() else _escaped_beyond(text)


def _escaped_beyond(text: bytes) -> bytes:
    """The same for what is no ASCII: the control characters of U+0080 to U+009F, and _SEPARATORS."""
    if b"\xc2" in text:  # in front of nothing but U+0080 to U+00BF
        for code in {behind[0] for behind in text.split(b"\xc2")[1:]}:
            if code < 0xA0:
                text = text.replace(bytes((0xC2, code)), b"\\u%04x" % code)
    if b"\xe2" in text:
        for separator, escape in _SEPARATORS:
            text = text.replace(separator, escape)
    return text
