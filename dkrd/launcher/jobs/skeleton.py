"""The skeleton of the built-in roots as data: what depends neither on the host nor on the programs in them.

Names and numbers of users and groups are those of Debian's base-passwd, which every tool expects; nobody has
a password.
"""

from __future__ import annotations

from common import oci
from dkrd.launcher.jobs.layers import Directory, Entry, File, Link

DIRECTORIES = (
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("run/lock", 0o1777),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/mail", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
)

LINKS = (
    ("etc/mtab", "../proc/self/mounts"),
    ("var/lock", "/run/lock"),
    ("var/run", "/run"),
)

# name, uid, gid, what it is, home
_USERS = (
    ("root", 0, 0, "root", "/root"),
    ("daemon", 1, 1, "daemon", "/usr/sbin"),
    ("bin", 2, 2, "bin", "/bin"),
    ("sys", 3, 3, "sys", "/dev"),
    ("sync", 4, 65534, "sync", "/bin"),
    ("games", 5, 60, "games", "/usr/games"),
    ("man", 6, 12, "man", "/var/cache/man"),
    ("lp", 7, 7, "lp", "/var/spool/lpd"),
    ("mail", 8, 8, "mail", "/var/mail"),
    ("news", 9, 9, "news", "/var/spool/news"),
    ("uucp", 10, 10, "uucp", "/var/spool/uucp"),
    ("proxy", 13, 13, "proxy", "/bin"),
    ("www-data", 33, 33, "www-data", "/var/www"),
    ("backup", 34, 34, "backup", "/var/backups"),
    ("list", 38, 38, "mailing lists", "/var/list"),
    ("irc", 39, 39, "ircd", "/run/ircd"),
    ("nobody", 65534, 65534, "nobody", "/nonexistent"),
)

_GROUPS = """
root:0 daemon:1 bin:2 sys:3 adm:4 tty:5 disk:6 lp:7 mail:8 news:9 uucp:10 man:12 proxy:13 kmem:15
dialout:20 fax:21 voice:22 cdrom:24 floppy:25 tape:26 sudo:27 audio:29 dip:30 www-data:33 backup:34
operator:37 list:38 irc:39 src:40 shadow:42 utmp:43 video:44 sasl:45 plugdev:46 staff:50 games:60
users:100 nogroup:65534
"""


def _passwd() -> str:
    return "".join(
        f"{name}:x:{uid}:{gid}:{what}:{home}:{'/bin/sh' if uid == 0 else '/usr/sbin/nologin'}\n"
        for name, uid, gid, what, home in _USERS
    )


def _shadow() -> str:
    return "".join(f"{name}:*:::::::\n" for name, *_ in _USERS)


def _group() -> str:
    return "".join(f"{name}:x:{gid}:\n" for name, gid in (entry.split(":") for entry in _GROUPS.split()))


_NSSWITCH = """\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
ethers: files
rpc: files
"""

_PROFILE = """\
if [ "$(id -u)" -eq 0 ]; then
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  PS1='\\h:\\w# '
else
  PATH=/usr/local/bin:/usr/bin:/bin
  PS1='\\h:\\w$ '
fi
# Only bash knows \\h and \\w.
if [ -z "$BASH" ]; then
  [ "$(id -u)" -eq 0 ] && PS1='# ' || PS1='$ '
fi
export PATH
"""

_SHELLS = """\
/bin/sh
/usr/bin/sh
/bin/bash
/usr/bin/bash
/bin/dash
/usr/bin/dash
"""

FILES = (
    ("etc/group", 0o644, _group()),
    ("etc/nsswitch.conf", 0o644, _NSSWITCH),
    ("etc/passwd", 0o644, _passwd()),
    ("etc/profile", 0o644, _PROFILE),
    ("etc/shadow", 0o640, _shadow()),
    ("etc/shells", 0o644, _SHELLS),
    # As most containers have them; to others their guardian gives their own (shim/container.py).
    *((f"etc/{name}", 0o644, text) for name, text in oci.etc_files(oci.DEFAULT_HOSTNAME).items()),
)


def entries() -> dict[str, Entry]:
    """The skeleton by path, for a root to add to or to replace in."""
    found: dict[str, Entry] = {path: Directory(path, mode) for path, mode in DIRECTORIES}
    found |= {path: File(path, mode, text) for path, mode, text in FILES}
    return found | {path: Link(path, target) for path, target in LINKS}
