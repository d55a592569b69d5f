"""Archives: written for others to read, read from others, and hostile ones laid on a disk."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from common import tar
from common.copies import TOP, Destination, Source, is_contents, name_at, split, told, top_of
from common.errors import BadRequest, DkrError, LimitReached, NotFound
from common.packing import Packer
from common.unpacking import Rules, Unpacker

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where things are laid; `tmp_path / outside` is a file that nobody shall touch."""
    (tmp_path / "outside").write_text("safe")
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def packed(path: Path, top: bytes | None = None) -> tuple[bytes, Packer]:
    """The archive of what is there."""
    data = io.BytesIO()
    place = os.open(path.parent, os.O_PATH)
    packer = Packer(data.write)
    try:
        packer.pack(place, path.name, os.fsencode(path.name) if top is None else top)
    finally:
        os.close(place)
    return data.getvalue(), packer


def lay(data: bytes, where: Path, **rules: Any) -> Unpacker:
    """Lay an archive."""
    place = os.open(where, os.O_RDONLY)
    unpacker = Unpacker(tar.Reader(io.BytesIO(data).read), place, Rules(**rules))
    try:
        unpacker.unpack()
    finally:
        os.close(place)
    return unpacker


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", text: bytes = b"", **more: Any) -> bytes:
    """A member, without the end of an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(text)
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + text + tar.padding(len(text))


def tree(top: Path) -> Path:
    """One of everything."""
    (top / "a" / "b").mkdir(parents=True)
    (top / "f").write_text("words" * 1000)
    (top / "f").chmod(0o4711)
    os.utime(top / "f", (1e9, 1e9))
    os.link(top / "f", top / "a" / "h")
    (top / "l").symlink_to("/etc/passwd")
    os.mkfifo(top / "p")
    (top / ("n" * 200)).write_text("long")
    (top / "a" / ("l" * 150)).symlink_to("t" * 150)
    os.close(os.open(os.fsencode(top) + b"/\xff\xfe" + b"z" * 120, os.O_CREAT))
    with (top / "holes").open("wb") as file:
        file.seek(50_000_000)
        file.write(b"end")
    (top / "a").chmod(0o500)
    return top


def listing(top: Path) -> list[tuple[Any, ...]]:
    """What is there, to be compared."""
    found = []
    for directory, names, files in os.walk(os.fsencode(top)):
        for name in sorted([*names, *files, b"."]):
            path = directory + b"/" + name
            stat = os.lstat(path)
            link = os.readlink(path) if os.path.islink(path) else b""
            found.append(
                (
                    os.path.relpath(path, os.fsencode(top)),
                    stat.st_mode,
                    int(stat.st_mtime),
                    stat.st_nlink,
                    link,
                )
            )
    return sorted(found)


def test_there_and_back(tmp_path: Path, out: Path) -> None:
    source = tree(tmp_path / "src")
    data, packer = packed(source)
    assert not packer.notes.counts
    lay(data, out, top=b"src", name=b"new")
    assert listing(out / "new") == listing(source)
    assert (out / "new" / "holes").stat().st_blocks * 512 < 1_000_000
    assert (out / "new" / "holes").read_bytes()[-3:] == b"end"


def test_others_read_what_is_written(tmp_path: Path, out: Path) -> None:
    source = tree(tmp_path / "src")
    data, _ = packed(source, TOP)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert len(archive.getmembers()) == len(list(source.rglob("*"))) + 1
    done = subprocess.run(["/bin/tar", "xpf", "-", "-C", out], input=data, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert listing(out) == listing(source)


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7", "oldgnu"])
def test_what_others_write_is_read(tmp_path: Path, out: Path, form: str) -> None:
    source = tmp_path / "src"
    (source / "d").mkdir(parents=True)
    (source / "d" / "f").write_text("words")
    (source / "l").symlink_to("d/f")
    if form in ("gnu", "pax", "oldgnu"):
        (source / ("n" * 200)).write_text("long")
    done = subprocess.run(
        ["/bin/tar", "c", f"--format={form}", "-C", source, "."], capture_output=True, check=True
    )
    lay(done.stdout, out)
    assert [entry[0] for entry in listing(out)] == [entry[0] for entry in listing(source)]
    assert (out / "d" / "f").read_text() == "words"


def test_numbers_that_do_not_fit_are_records(out: Path) -> None:
    entry = tar.Entry(b"f", tar.FILE, 0o644, 3_000_000, 1 << 31, 9 << 33, -5)
    found = tar.Reader(io.BytesIO(tar.header(entry)).read).next()
    assert found == entry
    with tarfile.open(fileobj=io.BytesIO(member("f", uid=3_000_000, mtime=-5) + tar.END)) as archive:
        assert archive.getmembers()[0].uid == 3_000_000
    read = tar.Reader(io.BytesIO(member("f", uid=3_000_000, mtime=-5)).read).next()
    assert read is not None
    assert (read.uid, read.mtime) == (3_000_000, -5)


HOSTILE = {
    "upwards": member("../outside", text=b"evil"),
    "upwards within": member("d/../../outside", text=b"evil"),
    "through a link": member("l", tarfile.SYMTYPE, "..") + member("l/outside", text=b"evil"),
    "through a link to a link": member("a", tarfile.SYMTYPE, "b")
    + member("b", tarfile.SYMTYPE, "..")
    + member("a/outside", text=b"evil"),
    "a directory on a link": member("l", tarfile.SYMTYPE, "..") + member("l", tarfile.DIRTYPE, mode=0o777),
    "another name of a file outside": member("h", tarfile.LNKTYPE, "../outside"),
    "another name through a link": member("l", tarfile.SYMTYPE, "..")
    + member("h", tarfile.LNKTYPE, "l/outside"),
    "another name of a link": member("l", tarfile.SYMTYPE, "../outside") + member("h", tarfile.LNKTYPE, "l"),
    "no name": member("/", text=b"evil"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_leads_out(out: Path, what: str) -> None:
    with pytest.raises(DkrError):
        lay(HOSTILE[what] + tar.END, out)
    outside = out.parent / "outside"
    assert (outside.read_text(), outside.stat().st_nlink) == ("safe", 1)
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "outside"]


def test_a_file_takes_the_place_of_a_link_and_follows_none(out: Path) -> None:
    (out / "f").symlink_to("../outside")
    lay(member("f", text=b"new") + tar.END, out)
    assert (out / "f").read_text() == "new"
    assert (out.parent / "outside").read_text() == "safe"


def test_an_absolute_name_is_taken_from_where_it_is_laid(out: Path) -> None:
    lay(member("/etc/f", text=b"x") + tar.END, out)
    assert (out / "etc" / "f").read_text() == "x"


@pytest.mark.parametrize("name", ["other", "f/../other", "ff", "/other", "."])
def test_only_what_was_asked_for_is_laid(out: Path, name: str) -> None:
    with pytest.raises(BadRequest):
        lay(member(name, text=b"x") + tar.END, out, top=b"f")
    assert not list(out.iterdir())


def test_setuid_bits_are_not_taken_over_where_they_are_not_wanted(out: Path) -> None:
    lay(member("f", mode=0o6755) + member("d", tarfile.DIRTYPE, mode=0o7777) + tar.END, out, modes=0o777)
    assert ((out / "f").stat().st_mode & 0o7777, (out / "d").stat().st_mode & 0o7777) == (0o755, 0o777)


def test_devices_are_left_out_and_told(out: Path) -> None:
    data = member("null", tarfile.CHRTYPE, devmajor=1, devminor=3) + member("disk", tarfile.BLKTYPE) + tar.END
    unpacker = lay(data, out)
    assert not list(out.iterdir())
    [line] = told(unpacker.notes.to_wire())
    assert line.startswith("left out 2 of devices")
    assert line.endswith(": null, first")


def test_a_directory_that_is_there_stays_as_it_is(out: Path) -> None:
    (out / "d").mkdir(mode=0o700)
    lay(member("d", tarfile.DIRTYPE, mode=0o777) + member("d/f") + tar.END, out)
    assert (out / "d").stat().st_mode & 0o777 == 0o700


def test_a_file_and_a_directory_do_not_take_each_others_place(out: Path) -> None:
    (out / "d").mkdir()
    (out / "f").write_text("mine")
    for data in (member("d"), member("f", tarfile.DIRTYPE), member("f/x"), member("d", tarfile.SYMTYPE, "x")):
        with pytest.raises(BadRequest):
            lay(data + tar.END, out)
    assert (out / "f").read_text() == "mine"


@pytest.mark.parametrize("left", [0, 100, 512, 700, 1400])
def test_what_is_cut_off_leaves_no_half_of_a_file(out: Path, left: int) -> None:
    with pytest.raises(BadRequest, match="cut off"):
        lay(member("f", text=b"x" * 1000)[:left], out)
    assert [path.name for path in out.iterdir()] in ([], ["f"])
    if (out / "f").exists():
        assert (out / "f").read_bytes() == b"x" * 1000


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 512,
        b"\x1f\x8b" + bytes(600),
        member("f")[:148] + b"0000000\0" + member("f")[156:],
        member("f", b"S"),
        member("f", b"Z"),
        tar.header(tar.Entry(b"y" * 200))[:512] + b"99999999999 path=x\n".ljust(512, b"\0"),
        member("f", b"L", text=b"")[:124] + b"77777777777\0" + member("f")[136:],
    ],
)
def test_what_is_no_archive_is_refused(out: Path, data: bytes) -> None:
    with pytest.raises(BadRequest):
        lay(data + tar.END, out)
    assert not list(out.iterdir())


def test_depth_is_bounded(tmp_path: Path, out: Path) -> None:
    with pytest.raises(LimitReached):
        lay(member("d/" * 300 + "f") + tar.END, out)
    deep = tmp_path / "deep"
    deep.mkdir()
    place = os.open(deep, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=place)
        inner = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    with pytest.raises(LimitReached):
        packed(deep)


def test_a_file_that_becomes_shorter_is_as_long_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 2000)
    pieces: list[bytes] = []

    def write(data: bytes) -> None:
        pieces.append(data)
        os.truncate(tmp_path / "f", 10)

    place = os.open(tmp_path, os.O_PATH)
    Packer(write).pack(place, "f", b"f")
    os.close(place)
    read = tar.Reader(io.BytesIO(b"".join(pieces)).read)
    entry = read.next()
    assert entry is not None
    assert entry.size == 2000
    assert read.piece(4000) == b"x" * 10 + bytes(1990)


def _destination(exists: bool, directory: bool, wants: bool = False) -> Destination:
    return Destination("DEST", b"base", exists, directory, wants)


@pytest.mark.parametrize(
    ("directory", "destination", "expected"),
    [
        (False, _destination(True, True), None),
        (True, _destination(True, True), None),
        (False, _destination(True, False), b"base"),
        (True, _destination(True, False), BadRequest),
        (False, _destination(False, False), b"base"),
        (True, _destination(False, False), b"base"),
        (True, _destination(False, False, wants=True), b"base"),
        (False, _destination(False, False, wants=True), NotFound),
        (False, _destination(True, False, wants=True), BadRequest),
    ],
)
def test_dockers_rules(directory: bool, destination: Destination, expected: Any) -> None:
    source = Source(b"src", directory)
    if isinstance(expected, type):
        with pytest.raises(expected):
            name_at(source, destination)
    else:
        assert name_at(source, destination) == expected


def test_names_of_paths() -> None:
    assert [split(path) for path in ("/a/b", "a", "/a", "a/b/", "/", "./x")] == [
        ("/a", "b"),
        (".", "a"),
        ("/", "a"),
        ("a", "b"),
        ("/", "."),
        (".", "x"),
    ]
    assert [path for path in ("/a/.", ".", "/", "a", "/a/", "/a/..") if is_contents(path)] == [
        "/a/.",
        ".",
        "/",
    ]
    assert [top_of(path) for path in ("/a/b/", "/a/.", "/a/..", "/")] == [b"b", TOP, TOP, TOP]
