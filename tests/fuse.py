"""A FUSE filesystem of one empty directory, mounted by root, whose server does not do its work. A program, for /usr/bin/python3.

    fuse.py PLACE HOW READY

HOW  `alive`: it answers; `silent`: it reads no request any more; `deaf`: it reads them and never answers, so that whoever asks
     cannot even be killed; `deaf-later`: it answers statfs(2) before. READY is written once the filesystem is mounted, with the
     server's pid; the server ends with SIGTERM, and with it the connection, which lets go of everybody.

Source of the numbers: <linux/fuse.h>, protocol 7.31.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

INIT, GETATTR, STATFS, OPENDIR, READDIR, RELEASEDIR, ACCESS = 26, 3, 17, 27, 28, 29, 34
NO_REPLY = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET
ENOSYS = 38
_HEAD = struct.Struct("<IIQQIIII")  # len, opcode, unique, nodeid, uid, gid, pid, padding


def mount(place: str) -> int:
    """Mount it; the descriptor by which it is served."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"test", os.fsencode(place), b"fuse", ctypes.c_ulong(0), options.encode()) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), place)
    return device


def answer(opcode: int) -> bytes | int:
    """The body of the answer, or an errno."""
    if opcode == INIT:
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 16, 12, 4096, 1, 0, 0, 0)
    if opcode == GETATTR:
        attributes = struct.pack("<6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
        return struct.pack("<QII", 1, 0, 0) + attributes
    if opcode == STATFS:
        return struct.pack("<5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
    if opcode == OPENDIR:
        return bytes(16)
    if opcode in (READDIR, RELEASEDIR, ACCESS):
        return b""
    return 2 if opcode == 1 else ENOSYS  # LOOKUP: there is nothing


def serve(device: int, how: str) -> None:
    """Answer until the time has come to stop."""
    dead = how == "deaf"
    while True:
        request = os.read(device, 1 << 20)
        _, opcode, unique, *_ = _HEAD.unpack_from(request)
        if opcode in NO_REPLY or (dead and opcode != INIT):
            continue
        body = answer(opcode)
        number, data = (-body, b"") if isinstance(body, int) else (0, body)
        os.write(device, struct.pack("<IiQ", 16 + len(data), number, unique) + data)
        if how == "silent":
            break
        dead = dead or (how == "deaf-later" and opcode == STATFS)
    while True:
        os.kill(os.getpid(), 19)  # SIGSTOP


def main(place: str, how: str, ready: str) -> None:
    """Mount, leave the server behind."""
    device = mount(place)
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
