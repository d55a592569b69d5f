"""What the virtual machine starts from: Debian 12 with systemd, and Debian's cloud kernels, made of Debian's packages and kept.

    /var/cache/dkr-vm/<key>/<kernel>/vmlinuz
    /var/cache/dkr-vm/<key>/<kernel>/root.cpio      the whole system as an initramfs: the same for each kernel, and the kernel's modules

The key is a digest of all that goes in: this file, the agent, the packages' names, the kernels' versions. dkr itself is not in it: it comes
on a disk of its own at each boot (machine.py), so that a change of the sources costs no new image.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path("/var/cache/dkr-vm")
SUITE = "bookworm"
AGENT = Path(__file__).with_name("agent.py")
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod", "util-linux", "passwd"),
    *("python3", "python3-venv", "libseccomp2", "busybox-static"),
    *("nftables", "iproute2", "curl", "procps", "e2fsprogs"),
)
# The oldest that dkr promises to run on, and a newer one: the release -> the package that depends on the newest build of it.
KERNELS = {"6.1": "linux-image-cloud-amd64", "6.12": "linux-image-6.12-cloud-amd64"}
OLDEST = "6.1"
# What nobody reads in there makes the image smaller, and the boot quicker.
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")

# The initramfs is the root: bound onto itself, because pivot_root(2) refuses a root that is the first mount of all, and every container
# is entered by that call. What the host brings, dkr as it is installed, is unpacked over it.
INIT = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in virtio_pci virtio_blk virtio_console; do modprobe $module; done
until [ -b /dev/vda ]; do sleep 0.1; done
tar -xf /dev/vda -C /
umount /dev /proc
mkdir -p /run/root
mount --bind / /run/root
cd /run/root
mount --move . /
exec chroot . /lib/systemd/systemd
"""

AGENT_UNIT = """\
[Unit]
Description=Does what the host says
After=multi-user.target
DefaultDependencies=no
Conflicts=shutdown.target
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/python3 -IS /usr/local/sbin/vm-agent
KillMode=process
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""

FILES = {
    "init": (INIT, 0o755),
    "etc/hostname": ("vm\n", 0o644),
    "etc/hosts": ("127.0.0.1 localhost vm\n", 0o644),
    "etc/fstab": ("/dev/vdb /var/lib/dkr ext4 defaults 0 0\n", 0o644),
    "etc/systemd/system/vm-agent.service": (AGENT_UNIT, 0o644),
    "etc/systemd/journald.conf.d/vm.conf": ("[Journal]\nStorage=volatile\nForwardToConsole=no\n", 0o644),
}
# Timers, consoles and what looks for a network that is not there.
MASKED = (
    *("serial-getty@ttyS0.service", "getty@tty1.service", "systemd-networkd-wait-online.service"),
    *(
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "e2scrub_all.timer",
        "fstrim.timer",
        "dpkg-db-backup.timer",
    ),
)


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed ({done.returncode}): {done.stderr[-4000:]}")
    return done.stdout


def _kernel_package(name: str) -> str:
    """The package that the newest kernel of this kind is in."""
    for line in _run("apt-cache", "depends", name).splitlines():
        kind, _, found = line.strip().partition(": ")
        if kind == "Depends" and found.startswith("linux-image-"):
            return found
    raise RuntimeError(f"apt-cache knows no {name}")


def _kernel_packages() -> dict[str, str]:
    """The release -> its package. A fresh machine has no lists of packages, or old ones."""
    try:
        return {release: _kernel_package(name) for release, name in KERNELS.items()}
    except RuntimeError:
        _run("apt-get", "update", "-qq")
        return {release: _kernel_package(name) for release, name in KERNELS.items()}


def _sources() -> Path:
    """Where this machine has its packages from."""
    places = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
    return next(path for path in places if path.exists())


def can_be_made() -> bool:
    """Whether this machine is of the kind that the image is made of: what is installed in it is taken from here."""
    return (
        os.uname().machine == "x86_64"
        and f"VERSION_CODENAME={SUITE}\n" in Path("/etc/os-release").read_text()
    )


def image(release: str = OLDEST) -> Path:
    """The directory of the image with this kernel, made where it is not there yet (a minute or two)."""
    kernels = _kernel_packages()
    content = "\n".join((Path(__file__).read_text(), AGENT.read_text(), *kernels.values()))
    place = CACHE / hashlib.sha256(content.encode()).hexdigest()[:16]
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            for old in CACHE.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)
            with tempfile.TemporaryDirectory(prefix="new-", dir=CACHE) as directory:
                _build(Path(directory), kernels)
                made = Path(directory) / "image"
                made.rename(place)
    return place / release


def _build(work: Path, kernels: dict[str, str]) -> None:
    root = work / "root"
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    include = f"--include={','.join(PACKAGES)}"
    _run("mmdebstrap", "--mode=root", "--variant=minbase", include, *options, SUITE, root, _sources())
    for name, (text, mode) in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "vm-agent.service").symlink_to("/etc/systemd/system/vm-agent.service")
    shutil.copy(AGENT, root / "usr/local/sbin/vm-agent")
    (root / "var/lib/dkr").mkdir()
    system = work / "system.cpio"
    _pack(root, system)
    for release, package in kernels.items():
        place = work / "image" / release
        place.mkdir(parents=True)
        modules = _add_kernel(work, root, place, package)
        # The kernel unpacks one archive after the other (initramfs buffer format).
        with (place / "root.cpio").open("wb") as output:
            for part in (system, modules):
                with part.open("rb") as file:
                    shutil.copyfileobj(file, output, 1 << 20)


def _pack(root: Path, archive: Path) -> None:
    """The tree as an archive of the kind that a kernel unpacks."""
    names = subprocess.run(["find", ".", "-print0"], cwd=root, check=True, capture_output=True).stdout
    with archive.open("wb") as output:
        subprocess.run(
            ["cpio", "--null", "--create", "--quiet", "--format=newc"],
            cwd=root,
            input=names,
            stdout=output,
            check=True,
        )


def _add_kernel(work: Path, root: Path, place: Path, package: str) -> Path:
    """The kernel to `place`; an archive of its modules. The package is unpacked, not installed: no boot loader is wanted."""
    _run("apt-get", "download", "-q", package, cwd=work)
    [archive] = work.glob(f"{package}_*.deb")
    unpacked = work / package
    _run("dpkg-deb", "--extract", archive, unpacked)
    [version] = os.listdir(unpacked / "lib/modules")
    shutil.copy(unpacked / "boot" / f"vmlinuz-{version}", place / "vmlinuz")
    # depmod(8) is the system's, so it works there.
    inside = root / "usr/lib/modules" / version
    shutil.copytree(unpacked / "lib/modules" / version, inside)
    _run("chroot", root, "/sbin/depmod", version)
    tree = work / f"modules-{package}"
    (tree / "usr/lib/modules").mkdir(parents=True)
    inside.rename(tree / "usr/lib/modules" / version)
    modules = work / f"{package}.cpio"
    _pack(tree, modules)
    return modules


if __name__ == "__main__":
    print(image())
