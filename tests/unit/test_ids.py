"""Id ranges: overlap is refused by name, claims are exclusive across processes, stale ones are taken over."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from pathlib import Path

import pytest

from common.errors import Conflict, HostUnfit, LimitReached, NotFound
from dkrd import ids
from dkrd.ids import Pool, SubordinateRange
from dkrd.settings import Settings
from dkrd.shim import cleanup

FIRST = 1000 * 65536


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    (tmp_path / "state/containers").mkdir(parents=True)
    return tmp_path / "state"


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    (tmp_path / "ids").mkdir(mode=0o700)
    return Pool(FIRST, FIRST + 4 * 65536 - 1, str(tmp_path / "ids"))


def claim(pool: Pool, state_dir: Path, name: str, hint: int = 0, *, live: bool = True) -> ids.Claim:
    if live:
        (state_dir / "containers" / name).mkdir()
    return ids.claim(pool, 1000, name, str(state_dir), hint)


# --- owners


SUBIDS = (SubordinateRange(1000, 100000, 65536), SubordinateRange(0, 300000, 65536))


@pytest.mark.parametrize(
    ("uid", "owner"),
    [
        (0, 0),
        (1000, 1000),
        (99999, 99999),
        (100000, 1000),
        (165535, 1000),
        (165536, 165536),
        (300001, None),  # of root's range: a container of another engine, not root
        (FIRST, None),
        (FIRST + 4 * 65536 - 1, None),
        (FIRST + 4 * 65536, FIRST + 4 * 65536),
    ],
)
def test_owner_of(pool: Pool, uid: int, owner: int | None) -> None:
    assert ids.owner_of(uid, pool, SUBIDS) == owner


def test_root_stays_root_whatever_subuid_says(pool: Pool) -> None:
    assert ids.owner_of(0, pool, (SubordinateRange(1000, 0, 65536),)) == 0


def test_read_subids(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    file.write_text("root:100000:65536\n# x\n\nnosuchuser:1:2\n1234:200000:10\nbroken\na:b:c\n")
    assert ids.read_subids(str(file)) == (
        SubordinateRange(0, 100000, 65536),
        SubordinateRange(1234, 200000, 10),
    )
    assert ids.read_subids(str(tmp_path / "none")) == ()


# --- overlap


def fake_etc(tmp_path: Path, **files: str) -> str:
    etc = tmp_path / "etc"
    etc.mkdir()
    for name, text in files.items():
        (etc / name).write_text(text)
    return str(etc)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"subuid": f"a:1:2\nann:{FIRST - 1}:2\n"}, f"the range {FIRST - 1}:2 of ann in "),
        ({"subgid": f"ann:{FIRST + 5}:1\n"}, "/subgid, line 1"),
        ({"passwd": f"root:x:0:0\nbob:x:{FIRST + 9}:0::/:/x\n"}, f"the user bob ({FIRST + 9}) in "),
        ({"group": f"eve:x:{FIRST}:\n"}, f"the group eve ({FIRST}) in "),
    ],
)
def test_overlap_is_refused_by_name(tmp_path: Path, pool: Pool, files: dict[str, str], words: str) -> None:
    with pytest.raises(HostUnfit) as caught:
        ids.check(pool, fake_etc(tmp_path, **files))
    assert words in caught.value.message
    assert caught.value.hint is not None


def test_neighbours_are_no_overlap(tmp_path: Path, pool: Pool) -> None:
    end = FIRST + 4 * 65536
    etc = fake_etc(tmp_path, subuid=f"ann:{FIRST - 10}:10\nbob:{end}:10\n", passwd=f"x:x:{end}:0\n")
    ids.check(pool, etc)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a user namespace over foreign ids")
def test_live_map_is_refused_by_name_unless_its_slot_is_claimed(
    tmp_path: Path, state_dir: Path, pool: Pool
) -> None:
    etc = fake_etc(tmp_path)
    with subprocess.Popen(
        ["unshare", "--user", "sh", "-c", "echo; read x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        Path(f"/proc/{process.pid}/uid_map").write_text(f"0 {FIRST + 65536} 65536\n")
        with pytest.raises(
            HostUnfit, match=rf"{FIRST + 65536}:65536 in the uid_map of process {process.pid} \(sh\)"
        ):
            ids.check(pool, etc)
        held = claim(pool, state_dir, "a" * 64, hint=(FIRST // 65536 + 1) % 4 - pool.slots[0] % 4)
        claims = [held, *(claim(pool, state_dir, str(n) * 64) for n in range(3))]
        ids.check(pool, etc)
        for entry in claims:
            ids.release(pool, entry)
        process.communicate(b"\n")


# --- claims


def test_claims_are_distinct_and_written_down(pool: Pool, state_dir: Path) -> None:
    claims = [claim(pool, state_dir, str(n) * 64) for n in range(4)]
    assert sorted(c.slot for c in claims) == list(pool.slots)
    assert all(c.first == c.slot * 65536 for c in claims)
    file = Path(pool.directory) / str(claims[2].slot)
    assert json.loads(file.read_text()) == {"uid": 1000, "id": "2" * 64, "stateDir": str(state_dir)}
    assert file.stat().st_mode & 0o777 == 0o600
    assert fcntl.fcntl(claims[0].fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    with pytest.raises(LimitReached, match="all 4 of the pool are taken") as caught:
        claim(pool, state_dir, "f" * 64)
    assert caught.value.hint is not None
    ids.release(pool, claims[1])
    assert claim(pool, state_dir, "e" * 64).slot == claims[1].slot
    for entry in (claims[0], claims[2], claims[3]):
        ids.release(pool, entry)


def test_claim_without_holder_stands_while_its_container_does(pool: Pool, state_dir: Path) -> None:
    held = claim(pool, state_dir, "a" * 64)
    os.close(held.fd)  # its shim died
    other = claim(pool, state_dir, "b" * 64)
    assert other.slot != held.slot
    ids.release(pool, other)
    (state_dir / "containers" / ("a" * 64)).rmdir()
    taken = claim(pool, state_dir, "c" * 64)
    assert taken.slot == held.slot
    assert json.loads(os.pread(taken.fd, 4096, 0))["id"] == "c" * 64
    ids.release(pool, taken)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 3}'])
def test_half_written_claim_is_stale(pool: Pool, state_dir: Path, content: str) -> None:
    (Path(pool.directory) / str(pool.slots[0])).write_text(content)
    taken = claim(pool, state_dir, "a" * 64, hint=0)
    assert taken.slot == pool.slots[0]
    ids.release(pool, taken)


def test_slot_released_and_claimed_between_open_and_lock(
    pool: Pool, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the lock is on a file that nobody finds any more, and the slot is another's."""
    name = Path(pool.directory) / str(pool.slots[0])
    name.write_text("")
    real = fcntl.flock
    others: list[int] = []

    def flock(fd: int, operation: int) -> None:
        if not others:
            name.unlink()
            others.append(os.open(name, os.O_CREAT | os.O_RDWR))
            real(others[0], fcntl.LOCK_EX)
        real(fd, operation)

    monkeypatch.setattr("dkrd.ids.fcntl.flock", flock)
    taken = claim(pool, state_dir, "a" * 64)
    assert taken.slot == pool.slots[1]
    ids.release(pool, taken)
    os.close(others[0])


def test_link_in_a_slots_place_is_not_followed(tmp_path: Path, pool: Pool, state_dir: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("")
    (Path(pool.directory) / str(pool.slots[0])).symlink_to(target)
    with pytest.raises(HostUnfit, match="cannot claim id range"):
        claim(pool, state_dir, "a" * 64)
    assert target.read_text() == ""


def test_adopt(pool: Pool, state_dir: Path) -> None:
    held = claim(pool, state_dir, "a" * 64)
    with pytest.raises(Conflict):
        ids.adopt(pool, held.slot)
    os.close(held.fd)
    adopted = ids.adopt(pool, held.slot)
    assert adopted.first == held.first
    ids.release(pool, adopted)
    with pytest.raises(NotFound):
        ids.adopt(pool, held.slot)


def test_directory_that_others_may_write_to_is_refused(pool: Pool, state_dir: Path) -> None:
    os.chmod(pool.directory, 0o770)
    with pytest.raises(HostUnfit, match="others may write there"):
        claim(pool, state_dir, "a" * 64)


def test_daemons_with_other_pools_share_the_directory(pool: Pool, state_dir: Path) -> None:
    """Pools that overlap in part never give the same ids: a slot's name does not depend on the pool."""
    shifted = Pool(pool.first + 2 * 65536, pool.last + 2 * 65536, pool.directory)
    claims = [
        claim(p, state_dir, f"{n}" * 64) for n, p in enumerate((pool, pool, pool, pool, shifted, shifted))
    ]
    assert len({c.first for c in claims}) == 6
    with pytest.raises(LimitReached):
        claim(shifted, state_dir, "f" * 64)
    for entry in claims:
        ids.release(pool, entry)


def _race(pool: Pool, state_dir: str, go: int, result: int, name: str) -> None:
    """Claim and release many times; tell each claimed slot together with whether it was ours alone."""
    os.read(go, 1)
    clashes = 0
    for turn in range(150):
        os.makedirs(f"{state_dir}/containers/{name}", exist_ok=True)
        try:
            held = ids.claim(pool, 1, name, state_dir, turn)
        except LimitReached:
            continue
        # Whoever holds a slot marks it; a second holder would find the mark.
        mark = f"{state_dir}/mark-{held.slot}"
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            clashes += 1
        else:
            os.unlink(mark)
        if turn % 3 == 0:
            os.rmdir(f"{state_dir}/containers/{name}")
            os.close(held.fd)  # dies with its container gone: the next one takes the slot over
        else:
            ids.release(pool, held)
    os.write(result, bytes([min(clashes, 255)]))


def test_processes_racing_for_slots_never_share_one(tmp_path: Path, state_dir: Path) -> None:
    (tmp_path / "ids").mkdir(mode=0o700)
    pool = Pool(FIRST, FIRST + 2 * 65536 - 1, str(tmp_path / "ids"))
    go_read, go_write = os.pipe()
    result_read, result_write = os.pipe()
    pids = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _race(pool, str(state_dir), go_read, result_write, str(number) * 64)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    os.write(go_write, b"123")
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    assert statuses == [0, 0, 0]
    assert os.read(result_read, 3) == bytes(3)
    for fd in (go_read, go_write, result_read, result_write):
        os.close(fd)


# --- what a claimer that was killed has left


def unfinished(pool: Pool, slot: int) -> Path:
    file = Path(pool.directory) / str(slot)
    file.touch(0o600)
    return file


def test_a_claim_that_was_cut_off_is_dropped(pool: Pool, state_dir: Path) -> None:
    held = claim(pool, state_dir, "a" * 64, pool.slots[0])
    left = claim(pool, state_dir, "b" * 64, pool.slots[1])
    os.close(left.fd)  # its claimer died later, and its container stands
    files = [unfinished(pool, slot) for slot in pool.slots[2:]]
    with files[1].open() as claiming:
        fcntl.flock(claiming, fcntl.LOCK_EX)
        for slot in pool.slots:
            ids.drop_unfinished(pool, slot)
        ids.drop_unfinished(pool, pool.slots[2])  # which is not there any more
    names = {str(slot) for slot in (held.slot, left.slot, pool.slots[3])}
    assert set(os.listdir(pool.directory)) == names


def test_the_end_of_a_container_whose_guardian_died_while_it_claimed(pool: Pool, state_dir: Path) -> None:
    for slot in pool.slots[:2]:
        unfinished(pool, slot)
    other = claim(pool, state_dir, "b" * 64, pool.slots[2])
    settings = Settings(
        state_dir=str(state_dir), run_dir=str(state_dir / "run"), cgroup_parent="dkr-test-none"
    )
    assert cleanup.collect(settings, pool, "a" * 64, {"cause": "shim-lost"}) is None
    assert os.listdir(pool.directory) == [str(other.slot)]
