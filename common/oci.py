"""The defaults of a container in the words of the OCI runtime spec: what api fills in and policy measures
against.

Standard library only, no imports. Sources: OCI runtime-spec config.md and config-linux.md; Docker's default
capabilities.
"""

OCI_VERSION = "1.2.0"

# Docker's default set. What each allows inside a user namespace: capabilities(7), user_namespaces(7).
DEFAULT_CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)

READONLY_PATHS = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)

# Request's word -> OCI namespace type; the order is the one in which people read them.
NAMESPACES = ("pid", "ipc", "uts", "cgroup", "network", "user", "mount", "time")
DEFAULT_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
DEFAULT_HOSTNAME = "container"

# Bounds of linux.resources
MIN_MEMORY = 6 * 1024 * 1024  # bytes, as Docker: with less the start itself would not fit
MAX_MEMORY = 2**50  # bytes
MIN_CPUS, MAX_CPUS = 0.01, 8192  # 1 ms of each 100 ms, the kernel's least; the highest CONFIG_NR_CPUS
CPU_PERIOD = 100000  # microseconds, the kernel's own
MAX_PIDS = 4194304  # PID_MAX_LIMIT, proc_sys_kernel(5)

DEFAULT_MOUNTS: tuple[dict[str, object], ...] = (
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "noexec", "mode=755", "size=65536k"],
    },
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    },
    {
        "destination": "/dev/mqueue",
        "type": "mqueue",
        "source": "mqueue",
        "options": ["nosuid", "noexec", "nodev"],
    },
    {
        "destination": "/sys",
        "type": "sysfs",
        "source": "sysfs",
        "options": ["nosuid", "noexec", "nodev", "ro"],
    },
)


def etc_files(hostname: str) -> dict[str, str]:
    """Files of /etc as every engine gives them, by name, for a container with a network namespace of its own."""
    return {
        "hostname": f"{hostname}\n",
        "hosts": f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n",
        "resolv.conf": "# this container has a loopback interface only\n",
    }


def default_spec(args: list[str], env: list[str], hostname: str, namespaces: list[str]) -> dict[str, object]:
    """A tenant's default OCI spec for `args`, `env` ("NAME=value") and the given private namespaces.

    The caller adds what was asked: cwd, user, terminal, readonly root, more mounts. `mount` is always
    private.
    """
    caps = list(DEFAULT_CAPABILITIES)
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": env,
            "cwd": "/",
            "capabilities": {
                "bounding": caps,
                "effective": caps,
                "permitted": caps,
                "inheritable": [],
                "ambient": [],
            },
            "noNewPrivileges": False,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": hostname,
        "mounts": [dict(m) for m in DEFAULT_MOUNTS],
        "linux": {
            "namespaces": [{"type": t} for t in namespaces],
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READONLY_PATHS),
        },
    }
