"""A FUSE filesystem of one directory with an empty file `file`, mounted by root, whose server does not do its work.
A program, for /usr/bin/python3.

    fuse.py PLACE HOW READY [PID]

With PID it is mounted in the mount namespace of that process, as by somebody who brings a volume into a container.

HOW  `alive`: it answers; `silent`: it reads no request any more; `deaf`: it reads them and never answers, so that whoever asks
     cannot even be killed; `deaf-later`: it answers statfs(2) before; `two-closes`: it answers all but the third close(2) of
     the file, and those after it; `deaf-reads`: all but what is read of the file, which is not empty then. READY
     is written once the filesystem is mounted, with the server's pid; the server ends with SIGTERM, and with it the connection,
     which lets go of everybody.

Source of the numbers: <linux/fuse.h>, protocol 7.31.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

LOOKUP, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH = 1, 3, 14, 15, 17, 18, 25
INIT, OPENDIR, READDIR, RELEASEDIR, ACCESS = 26, 27, 28, 29, 34
FILE = 2  # its node; the directory's is 1
NO_REPLY = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET
ENOSYS = 38
FOPEN_DIRECT_IO = 1  # reads are asked of the server, whatever the size is
_HEAD = struct.Struct("<IIQQIIII")  # len, opcode, unique, nodeid, uid, gid, pid, padding


def mount(place: str, pid: str = "self") -> int:
    """Mount it, where `pid` sees `place`; the descriptor by which it is served."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *args: object) -> None:
        if getattr(libc, name)(*args) < 0:
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}", place)

    if pid != "self":
        own, theirs = (os.open(f"/proc/{which}/ns/mnt", os.O_RDONLY) for which in ("self", pid))
        call("setns", theirs, 0)
    call("mount", b"test", os.fsencode(place), b"fuse", ctypes.c_ulong(0), options.encode())
    if pid != "self":
        call("setns", own, 0)
    return device


def attributes(node: int, size: int) -> bytes:
    """struct fuse_attr."""
    mode = 0o100666 if node == FILE else 0o40755
    return struct.pack(
        "<6Q10I", node, size * (node == FILE), 0, 0, 0, 0, 0, 0, 0, mode, 2 - (node == FILE), 0, 0, 0, 4096, 0
    )


def answer(opcode: int, node: int, name: bytes, size: int) -> bytes | int:
    """The body of the answer, or an errno. `size` of the file, bytes."""
    if opcode == INIT:
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 16, 12, 4096, 1, 0, 0, 0)
    if opcode == GETATTR:
        return struct.pack("<QII", 1, 0, 0) + attributes(node, size)
    if opcode == LOOKUP and name == b"file\0":
        return struct.pack("<4QII", FILE, 0, 1, 1, 0, 0) + attributes(FILE, size)
    if opcode == STATFS:
        return struct.pack("<5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
    if opcode == OPEN:
        return struct.pack("<QII", 0, FOPEN_DIRECT_IO if size else 0, 0)
    if opcode == OPENDIR:
        return bytes(16)
    if opcode in (READDIR, RELEASEDIR, ACCESS, READ, RELEASE, FLUSH):
        return b""
    return 2 if opcode == LOOKUP else ENOSYS


def serve(device: int, how: str) -> None:
    """Answer until the time has come to stop."""
    dead = how == "deaf"
    flushes = 0
    while True:
        request = os.read(device, 1 << 20)
        _, opcode, unique, node, *_ = _HEAD.unpack_from(request)
        flushes += opcode == FLUSH
        unheard = how == "two-closes" and opcode == FLUSH and flushes > 2
        unheard = unheard or (how == "deaf-reads" and opcode == READ)
        if opcode in NO_REPLY or unheard or (dead and opcode != INIT):
            continue
        body = answer(opcode, node, request[_HEAD.size :], 4096 if how == "deaf-reads" else 0)
        number, data = (-body, b"") if isinstance(body, int) else (0, body)
        os.write(device, struct.pack("<IiQ", 16 + len(data), number, unique) + data)
        if how == "silent":
            break
        dead = dead or (how == "deaf-later" and opcode == STATFS)
    while True:
        os.kill(os.getpid(), 19)  # SIGSTOP


def main(place: str, how: str, ready: str, where: str = "self") -> None:
    """Mount, leave the server behind."""
    device = mount(place, where)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for number in range(3):
            os.close(number)
        serve(device, how)
    with open(f"{ready}.new", "w") as file:
        file.write(str(pid))
    os.rename(f"{ready}.new", ready)


if __name__ == "__main__":
    main(*sys.argv[1:])
