"""The pool of id ranges: each container gets 65536 user and group ids that nothing else on the host has.

Ranges are claimed through flocked files in one directory for the whole host, so that two daemons never give
the same ids away. A slot's number is its first id divided by 65536, whatever pool it is part of: daemons
with different pools that share the directory agree on the names.

A slot is free when it has no file, or a file that nobody locks and whose container's directory is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat
import time
from dataclasses import dataclass

from common import frames, id_files
from common.errors import Conflict, DkrError, HostUnfit, Internal, LimitReached, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SLOT_IDS = 65536
_PATIENCE = 0.5  # seconds until a map that overlaps the pool is somebody's for good
_RECORD_MAX = 8192  # bytes of a slot file
_HINT = "choose another range for [ids] first and last in dkrd.toml, or remove the other one"


@dataclass(frozen=True, slots=True)
class Pool:
    """The ids from `first` to `last`, both included and both on a border of 65536; claimed in `directory`."""

    first: int
    last: int
    directory: str

    @property
    def slots(self) -> range:
        """The slots of the pool."""
        return range(self.first // SLOT_IDS, (self.last + 1) // SLOT_IDS)


@dataclass(frozen=True, slots=True)
class SubordinateRange:
    """A line of /etc/subuid: `count` ids from `first` on belong to the user `owner_uid`; subuid(5)."""

    owner_uid: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed slot: its ids begin at `first`; `fd` holds the lock and must be open as long as the claim
    is held.
    """

    slot: int
    first: int
    fd: int


def read_subids(path: str = "/etc/subuid") -> tuple[SubordinateRange, ...]:
    """The ranges of /etc/subuid. A range whose owner does not exist is left out: its ids are nobody's but
    their own.
    """
    ranges: list[SubordinateRange] = []
    for _, owner, first, count in id_files.subordinate(path):
        try:
            uid = int(owner) if owner.isdecimal() else pwd.getpwnam(owner).pw_uid
        except KeyError:
            continue
        ranges.append(SubordinateRange(uid, first, count))
    return tuple(ranges)


def owner_of(uid: int, pool: Pool, subids: Iterable[SubordinateRange]) -> int | None:
    """Whose rights a peer with `uid` has: the owner of the subordinate range it lies in, nobody inside our
    pool, else itself.

    An id of a range that belongs to root is nobody, never root: such ranges are given to containers of
    other engines, and who is root in one of those must not be root here.
    """
    if uid == 0:
        return 0
    if pool.first <= uid <= pool.last:
        return None
    for entry in subids:
        if entry.first <= uid < entry.first + entry.count and uid != entry.owner_uid:
            return entry.owner_uid or None
    return uid


# --- overlap with what is there


def check(pool: Pool, etc: str = "/etc", proc: str = "/proc") -> None:
    """Refuse a pool that overlaps ids which the host uses: subordinate ranges, users, groups, live id maps.

    Raises HostUnfit, which names the other one, and where the directory is not root's alone.
    """
    for other in id_files.overlaps(pool.first, pool.last, etc):
        raise _overlap(pool, other)
    _check_live_maps(pool, proc)


def _overlap(pool: Pool, other: str) -> HostUnfit:
    return HostUnfit(f"cannot use the ids {pool.first} to {pool.last}: they overlap {other}", hint=_HINT)


def _check_live_maps(pool: Pool, proc: str) -> None:
    # Maps like our own are those of our own user namespace: they say what the host is, not who uses which ids.
    # (Compared by content: /proc/PID/ns/user of a process with more capabilities than ours cannot be read.)
    names = ("uid_map", "gid_map")
    own = {name: _map_text(f"{proc}/self/{name}") for name in names}
    for pid in os.listdir(proc):
        if pid.isdecimal():
            _check_process(pool, f"{proc}/{pid}", own)


def _check_process(pool: Pool, directory: str, own: dict[str, str]) -> None:
    # A container whose slot was freed between two of our looks is about to end: it is looked at again.
    ends = time.monotonic() + _PATIENCE
    while (other := _foreign_map(pool, directory, own)) is not None:
        if time.monotonic() >= ends:
            raise _overlap(pool, other)
        time.sleep(0.02)


def _foreign_map(pool: Pool, directory: str, own: dict[str, str]) -> str | None:
    """The range of the process in `directory` that overlaps the pool and is no claimed slot's, or None."""
    try:
        texts = {name: _map_text(f"{directory}/{name}") for name in own}
        with open(f"{directory}/stat", encoding="utf-8", errors="replace") as stream:
            head, _, tail = stream.read().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return None  # it ended while we looked
    if tail.split()[0] in "ZX":
        return None  # a zombie can do nothing with its ids, and nobody can wait for it but its parent
    pid, _, comm = head.partition(" (")
    for name, text in texts.items():
        for first, count in _foreign_ranges(pool, text) if text != own[name] else ():
            return f"the range {first}:{count} in the {name} of process {pid} ({comm})"
    return None


def _map_text(path: str) -> str:
    with open(path, encoding="ascii") as stream:
        return stream.read()


def _foreign_ranges(pool: Pool, text: str) -> Iterator[tuple[int, int]]:
    """The (first, count) of a uid_map's lines that overlap the pool and are no claimed slot's."""
    for line in text.splitlines():
        _, first, count = (int(word) for word in line.split())
        if first > pool.last or first + count <= pool.first:
            continue
        if count >= 2**32 - 1:
            continue  # an identity map of everything: a namespace for other ends than to give ids away
        slots = range(first // SLOT_IDS, (first + count - 1) // SLOT_IDS + 1)
        if not all(os.path.lexists(f"{pool.directory}/{slot}") for slot in slots):
            yield first, count


# --- claims


@contextlib.contextmanager
def _opened(pool: Pool) -> Iterator[int]:
    """A descriptor of the pool's directory, verified to be root's alone."""
    try:
        directory = os.open(pool.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as err:
        raise HostUnfit(
            f"cannot open {pool.directory}: {err.strerror}",
            hint="the daemon makes it at its start; [ids] directory names it",
            errno=err.errno,
        ) from err
    try:
        status = os.fstat(directory)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise HostUnfit(
                f"cannot use {pool.directory}: others may write there", hint=f"chmod 0700 {pool.directory}"
            )
        yield directory
    finally:
        os.close(directory)


def _lock(directory: int, slot: int, *, create: bool) -> int | None:
    """A descriptor that locks the slot's file; None where somebody else holds it. Raises FileNotFoundError,
    OSError.
    """
    name = str(slot)
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    if create:
        try:
            fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
        except FileExistsError:
            fd = os.open(name, flags, dir_fd=directory)
    else:
        fd = os.open(name, flags, dir_fd=directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between open and flock the holder may have released, and another made a new file of this name:
        # then the lock is on a file that nobody finds any more.
        named = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if (named.st_dev, named.st_ino) == _inode(fd):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass  # held, or released this moment: either way not ours, the caller goes on to another slot
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _inode(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _is_stale(fd: int) -> bool:
    """Whether the locked slot file `fd` belongs to no container: it is new, half-written, or the container
    is gone.
    """
    try:
        record = frames.loads_object(os.pread(fd, _RECORD_MAX, 0))
        container, state_dir = record.get("id"), record.get("stateDir")
    except ValueError:
        return True
    if not isinstance(container, str) or not isinstance(state_dir, str):
        return True
    # Anything else than "there is no such directory" leaves the claim standing.
    try:
        os.lstat(f"{state_dir}/containers/{container}")
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _write(fd: int, record: dict[str, object]) -> None:
    data = frames.dumps(record)
    if len(data) > _RECORD_MAX:
        raise Internal("cannot write a slot's record: it is too long")
    os.ftruncate(fd, 0)
    if os.pwrite(fd, data, 0) != len(data):
        raise LimitReached("cannot write a slot's record: the filesystem is full")


def claim(pool: Pool, owner_uid: int, container_id: str, state_dir: str, hint: int) -> Claim:
    """Take a free slot of `pool` for a container, looking from `hint` on (any number; a good one costs one
    try).

    The claim ends with `release`, or when its descriptor is closed and `state_dir/containers/container_id`
    is gone. Raises LimitReached where all slots are taken, HostUnfit where the directory cannot be used.
    """
    slots = pool.slots
    record: dict[str, object] = {"uid": owner_uid, "id": container_id, "stateDir": state_dir}
    with _opened(pool) as directory:
        for step in range(len(slots)):
            slot = slots[(hint + step) % len(slots)]
            try:
                fd = _lock(directory, slot, create=True)
            except FileNotFoundError:
                continue  # released between our two opens: somebody else is at it
            except OSError as err:
                raise _cannot_claim(slot, err) from err
            if fd is None:
                continue
            try:
                if _is_stale(fd):
                    _write(fd, record)
                    return Claim(slot, slot * SLOT_IDS, fd)
            except OSError as err:
                os.close(fd)
                raise _cannot_claim(slot, err) from err
            except DkrError:
                os.close(fd)
                raise
            os.close(fd)
    raise _all_taken(pool)


def look(pool: Pool, hint: int) -> int:
    """First id of a range that `claim` could take now; nothing is claimed, so it may be another's a moment later.

    Raises LimitReached where all slots are taken, HostUnfit where the directory cannot be used.
    """
    slots = pool.slots
    with _opened(pool) as directory:
        for step in range(len(slots)):
            slot = slots[(hint + step) % len(slots)]
            try:
                fd = os.open(str(slot), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            except FileNotFoundError:
                return slot * SLOT_IDS
            except OSError as err:
                raise _cannot_claim(slot, err) from err
            try:
                # Without the lock, which would keep others from it: one that is being claimed looks stale, too.
                if _is_stale(fd):
                    return slot * SLOT_IDS
            finally:
                os.close(fd)
    raise _all_taken(pool)


def _all_taken(pool: Pool) -> LimitReached:
    return LimitReached(
        f"cannot claim an id range: all {len(pool.slots)} of the pool are taken",
        hint="remove stopped containers, or widen [ids] in dkrd.toml",
    )


def _cannot_claim(slot: int, err: OSError) -> HostUnfit:
    return HostUnfit(f"cannot claim id range {slot}: {err.strerror}", errno=err.errno)


def adopt(pool: Pool, slot: int) -> Claim:
    """Take the lock of a slot whose holder died, for its container's sake; its record stays as it is.

    Raises NotFound where the slot is not claimed, Conflict where somebody holds it.
    """
    with _opened(pool) as directory:
        try:
            fd = _lock(directory, slot, create=False)
        except FileNotFoundError:
            raise NotFound(f"cannot adopt id range {slot}: nobody has claimed it") from None
    if fd is None:
        raise Conflict(f"cannot adopt id range {slot}: it is held")
    return Claim(slot, slot * SLOT_IDS, fd)


def drop_unfinished(pool: Pool, slot: int) -> None:
    """Remove the file of a slot whose claim was cut off before it was written down, by the claimer's death. A file that is locked,
    or names a container, stays: in the moment between its making and its lock it may be a living claimer's, who takes another then.
    """
    with contextlib.suppress(NotFound, Conflict):
        claimed = adopt(pool, slot)
        if os.fstat(claimed.fd).st_size == 0:
            release(pool, claimed)
        else:
            os.close(claimed.fd)


def release(pool: Pool, claim: Claim) -> None:
    """Give the slot back: its file goes while the lock is held, then the descriptor is closed."""
    try:
        with _opened(pool) as directory:
            try:
                named = os.stat(str(claim.slot), dir_fd=directory, follow_symlinks=False)
                if (named.st_dev, named.st_ino) == _inode(claim.fd):
                    os.unlink(str(claim.slot), dir_fd=directory)
            except FileNotFoundError:
                return  # an administrator removed it; then it is free
    finally:
        os.close(claim.fd)
