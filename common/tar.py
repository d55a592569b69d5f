"""The tar format, as much as copies need of it: headers written in ustar with pax records (pax(1p)), and read in these and in GNU's.

Not the standard library's tarfile: it looks up names of users (by libraries of whatever root it stands in, CVE-2019-14271), and it
loads what a process that has entered a container must not. Nothing here opens anything or follows any name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from common.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 512  # bytes
END = bytes(2 * BLOCK)
FILE, LINK, SYMLINK, CHARACTERS, BLOCKS, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
KINDS = frozenset((FILE, LINK, SYMLINK, CHARACTERS, BLOCKS, DIRECTORY, FIFO))
MAX_EXTENDED = 1024 * 1024  # bytes of records before one header
MAX_PATH = 4096  # PATH_MAX
_OLD_FILES = (b"\0", b"7")  # of older and of contiguous ones
_EXTENDED, _GLOBAL, _GNU_NAME, _GNU_LINK = b"x", b"g", b"L", b"K"
_SPARSE = "cannot read the archive: {} is kept sparse in GNU's own manner"
_SPARSE_HINT = "make it without --sparse; zeros become holes here all the same"


@dataclass(slots=True)
class Entry:
    """One member. Names are bytes, as the kernel has them; `link` is what a link points to; times are seconds."""

    name: bytes
    kind: bytes = FILE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: bytes = b""
    further: frozenset[str] = field(default_factory=frozenset)  # keys of records that are none of these


def header(entry: Entry) -> bytes:
    """What stands before the bytes of a member."""
    name = entry.name + b"/" if entry.kind == DIRECTORY else entry.name
    records: dict[bytes, bytes] = {}
    for key, value in ((b"path", name), (b"linkpath", entry.link)):
        if len(value) > 100:
            records[key] = value
    numbers = {
        b"uid": (entry.uid, 8),
        b"gid": (entry.gid, 8),
        b"size": (entry.size, 12),
        b"mtime": (entry.mtime, 12),
    }
    octal: dict[bytes, bytes] = {}
    for key, (number, width) in numbers.items():
        fits = 0 <= number < 8 ** (width - 1)
        octal[key] = b"%0*o\0" % (width - 1, number if fits else 0)
        if not fits:
            records[key] = str(number).encode()
    extended = _records(records)
    data = b""
    if extended:
        zero = {key: b"%0*o\0" % (width - 1, 0) for key, (_, width) in numbers.items()}
        of_extended = {**zero, b"size": b"%011o\0" % len(extended)}
        data = _block(b"./PaxHeaders/" + name[-80:].replace(b"/", b"_"), _EXTENDED, 0o644, b"", of_extended)
        data += extended + bytes(-len(extended) % BLOCK)
    return data + _block(name, entry.kind, entry.mode, entry.link, octal)


def padding(size: int) -> bytes:
    """What follows so many bytes of a file."""
    return bytes(-size % BLOCK)


def _records(records: dict[bytes, bytes]) -> bytes:
    """As bytes; names that are not UTF-8 as they are, as GNU tar does, which complains of `hdrcharset`."""
    data = b""
    for key, value in records.items():
        rest = len(key) + len(value) + 3  # a blank, an equals sign, a line's end
        length = rest + len(str(rest))
        length = rest + len(str(length))
        data += b"%d %s=%s\n" % (length, key, value)
    return data


def _block(name: bytes, kind: bytes, mode: int, link: bytes, octal: dict[bytes, bytes]) -> bytes:
    head = b"".join(
        (
            name[:100].ljust(100, b"\0"),
            b"%07o\0" % (mode & 0o7777),
            octal[b"uid"],
            octal[b"gid"],
            octal[b"size"],
            octal[b"mtime"],
            b" " * 8,
            kind,
            link[:100].ljust(100, b"\0"),
            b"ustar\00000",
        )
    ).ljust(BLOCK, b"\0")
    return b"%b%06o\0 %b" % (head[:148], sum(head), head[156:])


class Reader:
    """The members of an archive, one after the other, whoever has made it.

    read  gives at most so many bytes, and none at the end
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._left = 0  # bytes of the member that were not taken
        self._padding = 0
        self._common: dict[str, bytes] = {}

    def next(self) -> Entry | None:
        """The next member; None behind the last. Raises BadRequest for what is no archive, or is cut off."""
        self.skip()
        extended: dict[str, bytes] = {}
        while True:
            block = self._exactly(BLOCK)
            if not block.strip(b"\0"):
                return None
            kind = block[156:157]
            _check_sum(block)
            size = _number(block[124:136])
            if kind in (_EXTENDED, _GLOBAL):
                found = _parse(self._extension(size))
                if kind == _GLOBAL:
                    self._common = {**self._common, **found}
                else:
                    extended = {**extended, **found}
            elif kind in (_GNU_NAME, _GNU_LINK):
                name = self._extension(size).split(b"\0")[0]
                extended["path" if kind == _GNU_NAME else "linkpath"] = name
            else:
                return self._member(block, kind, size, {**self._common, **extended})

    def _member(self, block: bytes, kind: bytes, size: int, records: dict[str, bytes]) -> Entry:
        name = block[:100].split(b"\0")[0]
        prefix = block[345:500].split(b"\0")[0] if block[257:263] == b"ustar\0" else b""
        name = records.get("path", prefix + b"/" + name if prefix else name)
        if kind == b"S" or any(key.startswith("GNU.sparse.") for key in records):
            raise BadRequest(_SPARSE.format(shown(name)), hint=_SPARSE_HINT)
        if kind in _OLD_FILES:
            kind = DIRECTORY if kind == b"\0" and name.endswith(b"/") else FILE
        if kind not in KINDS:
            raise BadRequest(
                f"cannot read the archive: {shown(name)} is of a kind ({kind!r}) that is not known"
            )
        entry = Entry(
            name,
            kind,
            _number(block[100:108]) & 0o7777,
            _of(records, "uid", block[108:116]),
            _of(records, "gid", block[116:124]),
            _decimal(records["size"]) if "size" in records else size,
            _of(records, "mtime", block[136:148]),
            records.get("linkpath", block[157:257].split(b"\0")[0]),
            frozenset(key for key in records if key.startswith("SCHILY.xattr.")),
        )
        if (
            entry.size < 0
            or max(len(entry.name), len(entry.link)) > MAX_PATH
            or b"\0" in entry.name + entry.link
        ):
            raise BadRequest("cannot read the archive: a member has a size or a name that none can have")
        self._left = entry.size if kind == FILE else 0
        self._padding = -self._left % BLOCK
        return entry

    def piece(self, most: int) -> bytes:
        """Bytes of the member's that were not taken yet; none at its end. Raises BadRequest where it is cut off."""
        if not self._left:
            return b""
        data = self._read(min(most, self._left))
        if not data:
            raise cut_off()
        self._left -= len(data)
        return data

    def skip(self) -> None:
        """Pass over what is left of the member."""
        while self.piece(BLOCK * 512):
            pass
        if self._padding:
            self._exactly(self._padding)
            self._padding = 0

    def drain(self) -> None:
        """Read to the end, so that who writes is not cut off."""
        while self._read(BLOCK * 512):
            pass

    def _extension(self, size: int) -> bytes:
        if not 0 <= size <= MAX_EXTENDED:
            raise BadRequest(f"cannot read the archive: a name or record in it has {size} bytes")
        data = self._exactly(size)
        self._exactly(-size % BLOCK)
        return data

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._read(size - len(data))
            if not piece:
                raise cut_off()
            data += piece
        return data


def cut_off() -> BadRequest:
    """The error for an archive that ends before its end."""
    return BadRequest("cannot read the archive: it is cut off", hint="who sent it has ended early")


def shown(name: bytes) -> str:
    """A name for people."""
    return name[-200:].decode("utf-8", "backslashreplace")


def _check_sum(block: bytes) -> None:
    counted = sum(block) - sum(block[148:156]) + 8 * 32
    # Some have added signed bytes, long ago.
    signed = counted - 256 * sum(byte > 127 for byte in (*block[:148], *block[156:]))
    if _number(block[148:156]) not in (counted, signed):
        raise BadRequest(
            "cannot read the archive: it is none, or is damaged",
            hint="a tar archive is wanted, as it is: not compressed",
        )


def _number(digits: bytes) -> int:
    """Octal digits; or, of larger ones, GNU's binary."""
    if digits[0] & 0x80:
        value = int.from_bytes(digits, "big") & ((1 << (8 * len(digits) - 1)) - 1)
        return value - (1 << (8 * len(digits) - 1)) if digits[0] & 0x40 else value
    text = digits.split(b"\0")[0].strip()
    if not all(48 <= byte < 56 for byte in text):
        raise BadRequest(
            "cannot read the archive: it is none, or is damaged",
            hint="a tar archive is wanted, as it is: not compressed",
        )
    return int(text, 8) if text else 0


def _of(records: dict[str, bytes], key: str, digits: bytes) -> int:
    return _decimal(records[key]) if key in records else _number(digits)


def _decimal(text: bytes) -> int:
    """A pax number, less its fraction."""
    whole = text.partition(b".")[0]
    if not whole.removeprefix(b"-").isdigit() or len(whole) > 20:
        raise BadRequest("cannot read the archive: a record in it is no number")
    return int(whole)


def _parse(data: bytes) -> dict[str, bytes]:
    """Records `LENGTH KEY=VALUE\\n`."""
    found: dict[str, bytes] = {}
    at = 0
    while at < len(data) and data[at]:
        digits, blank, _ = data[at : at + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[at + len(digits) + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if not blank or not equals or at + length > len(data) or not value.endswith(b"\n"):
            raise BadRequest("cannot read the archive: a record in it is malformed")
        found[key.decode("utf-8", "backslashreplace")] = value[:-1]
        at += length
    return found
