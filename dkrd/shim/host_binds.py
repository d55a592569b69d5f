"""What of the host is bound read-only into a container with the built-in root `host`, and how its top looks.

The binds are not id-mapped: files keep their owners, who mean nobody in the container, so its root reads what
"other" may read and no more. Even so the table names only what programs in /usr need, what every user of the
host may read, and what holds no secret; what else is in /etc stays outside.

The host is looked at once, by the launcher before it forks: its jobs and shims inherit the answer, so that
the layer made for it and the containers started later agree. What changes on the host counts from the next
start of dkrd.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bind:
    """`source` on the host, `destination` in the container, the same path; a directory or a regular file."""

    source: str
    destination: str
    is_dir: bool


@dataclass(frozen=True, slots=True)
class Host:
    """What was found.

    binds  in the order in which they are to be mounted
    links  (name, target) of the top directories that are links: bin -> usr/bin
    zone   what /etc/localtime points at, if that lies in /usr
    """

    binds: tuple[Bind, ...]
    links: tuple[tuple[str, str], ...]
    zone: str | None


# Directories of the root that are links into /usr, or on a host that has not merged them, directories of
# their own.
TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")

# Path or, with a * in its last part, a pattern; and why. A path that the host lacks is left out.
TABLE = (
    ("/usr", "the programs"),
    ("/etc/alternatives", "Debian: awk, editor, java are links through it"),
    ("/etc/ld.so.cache", "the dynamic linker finds libraries by it"),
    ("/etc/ld.so.conf", "ld finds by it what libraries need"),
    ("/etc/ld.so.conf.d", "included by it"),
    ("/etc/ssl/certs", "certificates of authorities; the keys are in /etc/ssl/private, which stays outside"),
    ("/etc/ssl/openssl.cnf", "every program that uses OpenSSL reads it"),
    ("/etc/ca-certificates/extracted", "Arch: the bundles that /etc/ssl/certs links to"),
    ("/etc/pki/ca-trust", "Fedora: the same"),
    ("/etc/pki/tls/certs", "Fedora: the same; the keys are in /etc/pki/tls/private"),
    ("/etc/pki/tls/cert.pem", "Fedora: OpenSSL's default bundle"),
    ("/etc/pki/tls/openssl.cnf", "Fedora: OpenSSL's configuration"),
    ("/etc/crypto-policies", "Fedora: what OpenSSL and GnuTLS allow"),
    ("/etc/services", "getservbyname(3)"),
    ("/etc/protocols", "getprotobyname(3)"),
    ("/etc/mime.types", "mimetypes of Python, Perl and file servers"),
    ("/etc/terminfo", "terminals' descriptions beside those of /usr"),
    ("/etc/perl", "Debian: first in @INC, modules' configuration"),
    ("/etc/python3*", "Debian: sitecustomize is a link into it"),
    ("/etc/java-*-openjdk", "Debian: the runtime does not start without its conf directory"),
    ("/etc/fonts", "fontconfig"),
)

_found: Host | None = None


def present() -> Host:
    """The host as it was when this was first called in this process or in one that it was forked from."""
    global _found  # the one memory that a fork is to carry over
    if _found is None:
        _found = scan("/")
    return _found


def present_binds() -> tuple[Bind, ...]:
    """The binds of `present`."""
    return present().binds


def scan(root: str) -> Host:
    """Look at the host whose root directory is `root`. Reads metadata only; never raises for what is not
    there.
    """
    links = []
    binds = [bind for path, _why in TABLE for bind in _matching(root, path)]
    for name in TOP:
        path = os.path.join(root, name)
        if os.path.islink(path):
            if target := _within_root(os.readlink(path)):
                links.append((name, target))
        elif bind := _bind(root, f"/{name}"):
            binds.append(bind)
    return Host(tuple(binds), tuple(links), _zone(root))


def _matching(root: str, pattern: str) -> list[Bind]:
    directory, name = os.path.split(pattern)
    names = [name]
    if "*" in name:
        before, after = name.split("*")
        try:
            names = sorted(
                n
                for n in os.listdir(root + directory)
                if n.startswith(before) and n.endswith(after) and len(n) >= len(before) + len(after)
            )
        except OSError:
            return []
    return [bind for n in names if (bind := _bind(root, os.path.join(directory, n)))]


def _bind(root: str, path: str) -> Bind | None:
    """The bind of `path`, if root owns it and every user of the host may read it."""
    try:
        status = os.stat(root.rstrip("/") + path)
    except OSError:
        return None
    is_dir = stat.S_ISDIR(status.st_mode)
    readable = 0o5 if is_dir else 0o4
    if not (is_dir or stat.S_ISREG(status.st_mode)):
        return None
    if status.st_uid != 0 or status.st_mode & readable != readable:
        return None
    return Bind(path, path, is_dir)


def _within_root(target: str) -> str | None:
    """A top link's target as a relative path without `..`: usr/bin for /usr/bin, ./usr/bin and usr/bin."""
    plain = os.path.normpath(target.lstrip("/"))
    return None if plain.startswith("..") or plain == "." else plain


def _zone(root: str) -> str | None:
    try:
        target = os.readlink(os.path.join(root, "etc/localtime"))
    except OSError:
        return None  # no link, or none there: UTC
    path = os.path.normpath(os.path.join("/etc", target))
    return path if path.startswith("/usr/") else None
