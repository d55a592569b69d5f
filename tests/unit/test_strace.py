"""What is said of a step is what is done: calls, flags, paths and ids."""

from __future__ import annotations

import pytest

from common import oci
from dkrd.runtime import build, cgroups, init_steps, mounts, spec, strace, syscalls
from dkrd.runtime.operations import (
    AttachLayers,
    BindHost,
    CloneLayers,
    DetachLayers,
    MountFilesystem,
    MountOverlay,
    PivotRoot,
    RootReadonly,
    Stage,
)
from dkrd.runtime.walls import MakeDevices, MakeReadonly, MaskPath

OWN = Stage(base=100000, userns=5, pidns=6)
HOSTS = Stage(base=0, userns=-1)
INSIDE = "{flags=O_PATH|O_CLOEXEC, resolve=RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS|RESOLVE_NO_SYMLINKS}"
ON = 'path, "", MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH)'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/usr", '"/usr"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("line\nbreak\x1b[31m", '"line\\nbreak\\x1b[31m"'),
        ("\udcff", '"\\udcff"'),
        ("x" * 201, '"' + "x" * 200 + '"...'),
    ],
)
def test_texts_are_quoted(value: str, expected: str) -> None:
    assert strace.text(value) == expected


def test_a_list_is_cut_off() -> None:
    assert strace.texts(("a", "b c")) == '["a", "b c"]'
    assert strace.texts(tuple("abcdefghijklmnop")).endswith('"l", ...]')


@pytest.mark.parametrize(
    ("value", "prefix", "expected"),
    [
        (syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID, "CLONE_", "CLONE_NEWNS|CLONE_NEWPID"),
        (syscalls.CLONE_INTO_CGROUP, "CLONE_", "CLONE_INTO_CGROUP"),
        (0, "MOUNT_ATTR_", "0"),
        (syscalls.MOUNT_ATTR_NODEV | 0x40000000, "MOUNT_ATTR_", "MOUNT_ATTR_NODEV|0x40000000"),
    ],
)
def test_flags_have_their_names(value: int, prefix: str, expected: str) -> None:
    assert strace.flags(value, prefix) == expected


def test_layers_are_idmapped_where_the_container_has_its_own_ids() -> None:
    cloned = CloneLayers("/var/lib/dkr/layers")
    calls = [
        'open_tree(AT_FDCWD, "/var/lib/dkr/layers", OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC)',
        'mount_setattr(layers, "", AT_EMPTY_PATH, {attr_set=MOUNT_ATTR_RDONLY|MOUNT_ATTR_IDMAP, userns_fd=its user namespace})',
    ]
    assert cloned.describe(OWN).split("; ") == calls
    assert 'mount_setattr(layers, "", AT_EMPTY_PATH, {attr_set=MOUNT_ATTR_RDONLY})' in cloned.describe(HOSTS)
    assert AttachLayers("/var/lib/dkr/layers").describe(OWN).split("; ") == [
        *calls,
        'mkdir("l", 0700)',
        'move_mount(layers, "", AT_FDCWD, "l", MOVE_MOUNT_F_EMPTY_PATH)',
    ]


def test_layers_are_given_by_descriptor_or_by_name() -> None:
    told = MountOverlay(("one", "two"), attached=False).describe(OWN)
    assert (
        "{source=overlay, lowerdir+=layers/one, lowerdir+=layers/two, upperdir=upper, workdir=work, " in told
    )
    assert "lowerdir=" not in told


def test_the_overlay_says_all_its_options() -> None:
    assert MountOverlay(("one", "two"), volatile=True).describe(OWN).split("; ") == [
        'fsopen("overlay", FSOPEN_CLOEXEC)',
        "fsconfig(fs, {source=overlay, lowerdir=l/one:l/two, upperdir=upper, workdir=work, metacopy=off, "
        "redirect_dir=nofollow, index=off, xino=off, volatile})",
        "fsconfig(fs, FSCONFIG_CMD_CREATE)",
        "fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV)",
        'move_mount(root, "", AT_FDCWD, "upper", MOVE_MOUNT_F_EMPTY_PATH)',
    ]
    assert "volatile" not in MountOverlay(("one",)).describe(OWN)


def test_a_bind_of_the_host() -> None:
    assert BindHost("/usr", "/usr").describe(OWN).split("; ") == [
        'open_tree(AT_FDCWD, "/usr", OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_RECURSIVE)',
        'mount_setattr(tree, "", AT_EMPTY_PATH|AT_RECURSIVE, {attr_set=MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID|'
        "MOUNT_ATTR_NODEV, propagation=MS_PRIVATE})",
        f'openat2(root, "usr", {INSIDE})',
        f'move_mount(tree, "", {ON}',
    ]


def test_filesystems_say_whose_ids_and_whose_processes() -> None:
    proc = MountFilesystem("proc", "/proc", "proc", (), syscalls.MOUNT_ATTR_NOSUID)
    assert "fsconfig(fs, {source=proc, pidns=its pid namespace})" in proc.describe(OWN)
    assert "fsconfig(fs, {source=proc})" in proc.describe(HOSTS)
    tmpfs = MountFilesystem("tmpfs", "/scratch/x", "tmpfs", (("size", "1m"), ("flag", None)), 0)
    assert tmpfs.describe(OWN).split("; ") == [
        # A link of the root's may lie on the way, but where the kernel's filesystems are.
        'openat2(root, "scratch/x", {flags=O_PATH|O_CLOEXEC, resolve=RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS})',
        'fsopen("tmpfs", FSOPEN_CLOEXEC)',
        "fsconfig(fs, {source=tmpfs, size=1m, flag})",
        "fsconfig(fs, FSCONFIG_CMD_CREATE)",
        "fsmount(fs, FSMOUNT_CLOEXEC, 0)",
        f'move_mount(mount, "", {ON}',
    ]


def test_devices_and_their_owner() -> None:
    said = MakeDevices(console=True).describe(OWN)
    assert '"null" 1:3' in said
    assert '"core" -> "/proc/kcore"' in said
    assert 'mknodat(dev, "console", S_IFREG|0600)' in said
    assert "100000, 100000" in said
    assert "console" not in MakeDevices(console=False).describe(OWN)


def test_walls_say_what_was_there() -> None:
    mask = MaskPath("/proc/keys")
    assert mask.describe(OWN, "file").split("; ") == [
        f'openat2(root, "proc/keys", {INSIDE})',
        'open_tree(/dev/null, "", AT_EMPTY_PATH|OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC)',
        f'move_mount(tree, "", {ON}',
    ]
    assert "open_tree(the empty tmpfs, " in mask.describe(OWN, "directory")
    # What all masks of a kind share is made by the first.
    assert "fsconfig(fs, {source=mask, size=4k, nr_inodes=1, mode=555})" in mask.describe(
        OWN, "first directory"
    )
    assert 'openat(AT_FDCWD, "/dev/null", O_PATH|O_NOFOLLOW|O_CLOEXEC)' in mask.describe(OWN, "first file")
    assert mask.describe(OWN, "missing") == f'openat2(root, "proc/keys", {INSIDE}) = -1 ENOENT'
    readonly = MakeReadonly("/proc/sys")
    assert "{attr_set=MOUNT_ATTR_RDONLY}" in readonly.describe(OWN)
    assert readonly.describe(OWN, "missing") == f'openat2(root, "proc/sys", {INSIDE}) = -1 ENOENT'


def test_short_ones() -> None:
    assert DetachLayers().describe(OWN) == 'umount2("l", MNT_DETACH)'
    assert (
        RootReadonly().describe(OWN) == 'mount_setattr(root, "", AT_EMPTY_PATH, {attr_set=MOUNT_ATTR_RDONLY})'
    )
    assert (
        PivotRoot().describe(OWN)
        == 'fchdir(root); pivot_root(".", "."); umount2(".", MNT_DETACH); chdir("/")'
    )


def task(
    *, private: tuple[str, ...], args: tuple[str, ...] = ("/bin/true",), terminal: bool = False
) -> build.Task:
    document = oci.default_spec(list(args), ["PATH=/bin", "A=b"], "box", [*private, "mount"])
    process = document["process"]
    assert isinstance(process, dict)
    process["terminal"] = terminal
    if "uts" not in private:
        del document["hostname"]
    parsed = spec.parse(document)
    return build.Task(
        spec=parsed,
        plan=mounts.plan(parsed, mounts.Root("/layers", ("one",)), 100000),
        directory="/container",
        base=100000,
        cgroup=cgroups.Cgroup(("/cg/unified/x/c", "/cg/pids/x")),
        deadline=0.0,
        user=None,
        reaper=False,
        stdio={0: 7, 1: 8},
        tty=(),
        preserved=(9, 10),
        program=bytes(80),
        last_cap=40,
    )


def init_said(name: str, note: str = "", **options: object) -> str:
    return init_steps.describe(task(private=("user", "pid", "uts", "network"), **options), 0, name, note)  # type: ignore[arg-type]


def test_init_tells_from_its_task_what_it_does() -> None:
    assert init_said("enter cgroup") == 'write("/cg/pids/x/tasks", "0")'  # of v2 it was born a member
    assert init_said("namespaces") == "unshare(CLONE_NEWUTS|CLONE_NEWNET)"
    assert init_said("hostname") == 'sethostname("box", 3)'
    assert "CAP_SYS_ADMIN" in init_said("bounding set")
    assert "CAP_CHOWN" not in init_said("bounding set")
    assert init_said("filter") == "seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=10})"
    assert init_said("user", "1 2 2 3 4").endswith(" = uid 1, gid 2, groups [3, 4]")
    assert init_said("descriptors").split("; ") == [
        "close(2)",
        "fcntl({each of the caller's}, F_DUPFD_CLOEXEC, 5)",
        "dup2({each of the caller's}, {0, 1, 3, 4})",
        "close_range(5, ~0U) /* all but the pipe for an error */",
    ]
    assert init_said("no such step") == ""


def test_who_the_command_becomes() -> None:
    root = init_said("capabilities", "0 0 0").split("; ")
    assert root[:3] == ["setgroups(0, [])", "setresgid(0, 0, 0)", "setresuid(0, 0, 0)"]
    assert root[-1] == "capset({effective=0xa80425fb, permitted=0xa80425fb, inheritable=0x0})"
    other = init_said("capabilities", "5 6 1 7")
    assert other.startswith("setgroups(1, [7]); setresgid(6, 6, 6); setresuid(5, 5, 5)")
    assert "capset" not in other  # who is not root has none, and asks for none


def test_the_command_is_executed_or_looked_for() -> None:
    # PATH and A of the request, HOME of init's.
    assert init_said("execve") == 'execve("/bin/true", ["/bin/true"], envp /* 3 vars */)'
    assert init_said("execve", args=("true", "x")) == 'execvpe("true", ["true", "x"], envp /* 3 vars */)'
