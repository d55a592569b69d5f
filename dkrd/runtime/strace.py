"""Words for system calls, in the manner of strace(1): `call("path", FLAG|FLAG, 0755)`.

Where strace shows the number of a descriptor, that says nothing to a reader, it has a name here: `root`, `tree`. Several calls of
one step are set apart by semicolons; what stands in braces after a call's name, or in place of an argument, is done one by
one: `fsconfig(fs, {size=64m, mode=755})` is a call for each.
"""

from __future__ import annotations

from dkrd.runtime import syscalls

_TEXT_MAX = 200  # characters of a string that are shown
_WORD_MAX = 60  # of one in a list
_WORDS_MAX = 12  # strings of a list that are shown
_NAMES = {name: value for name, value in vars(syscalls).items() if isinstance(value, int)}


def calls(*each: str) -> str:
    """Several calls of one step."""
    return "; ".join(each)


def text(value: str, longest: int = _TEXT_MAX) -> str:
    """`value` in quotes, as in C; the rest of a long one is an ellipsis."""
    shown = "".join(_plain(c) for c in value[:longest])
    return f'"{shown}"' + ("..." if len(value) > longest else "")


def _plain(c: str) -> str:
    if c in '"\\':
        return f"\\{c}"
    # Undecodable bytes of a path are surrogates here, and not printable either.
    return c if c.isprintable() else c.encode("unicode_escape").decode()


def texts(values: tuple[str, ...]) -> str:
    """A list of strings, as argv is shown."""
    shown = [text(value, _WORD_MAX) for value in values[:_WORDS_MAX]]
    return "[" + ", ".join(shown) + (", ..." if len(values) > _WORDS_MAX else "") + "]"


def flags(value: int, prefix: str) -> str:
    """The bits of `value` by the names in syscalls.py that begin with `prefix`; what has none is a number."""
    names = []
    for name, bit in _NAMES.items():
        if name.startswith(prefix) and bit & (bit - 1) == 0 and value & bit:
            names.append(name)
            value &= ~bit
    if value or not names:
        names.append(f"{value:#x}" if value else "0")
    return "|".join(names)


def open_inside(root: str, path: str, *, links: bool) -> str:
    """paths.open_inside()."""
    resolve = "RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS" + ("" if links else "|RESOLVE_NO_SYMLINKS")
    return f"openat2({root}, {text(path.strip('/') or '.')}, {{flags=O_PATH|O_CLOEXEC, resolve={resolve}}})"


def open_tree(path: str, *, recursive: bool = False) -> str:
    """A clone of the mount at `path`."""
    below = "|AT_RECURSIVE" if recursive else ""
    return f"open_tree(AT_FDCWD, {text(path)}, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC{below})"


def clone_tree(descriptor: str, *, recursive: bool = False) -> str:
    """A clone of the mount that a descriptor stands for."""
    below = "|AT_RECURSIVE" if recursive else ""
    return f'open_tree({descriptor}, "", AT_EMPTY_PATH|OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC{below})'


def set_attributes(tree: str, attributes: int, *, recursive: bool = False, more: tuple[str, ...] = ()) -> str:
    """mount_setattr(2) of a detached mount."""
    below = "|AT_RECURSIVE" if recursive else ""
    what = ", ".join((f"attr_set={flags(attributes, 'MOUNT_ATTR_')}", *more))
    return f'mount_setattr({tree}, "", AT_EMPTY_PATH{below}, {{{what}}})'


def attach(tree: str, path: str) -> str:
    """move_mount(2) of a detached mount to a relative path."""
    return f'move_mount({tree}, "", AT_FDCWD, {text(path)}, MOVE_MOUNT_F_EMPTY_PATH)'


def attach_on(tree: str, target: str) -> str:
    """move_mount(2) of a detached mount onto what a descriptor stands for."""
    return f'move_mount({tree}, "", {target}, "", MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH)'


def new_filesystem(type: str, settings: tuple[tuple[str, str | None], ...], attributes: int) -> str:
    """fsopen, fsconfig for each setting and to create, fsmount; fsopen(2). A setting of None is a flag."""
    options = ", ".join(key if value is None else f"{key}={value}" for key, value in settings)
    return (
        f"fsopen({text(type)}, FSOPEN_CLOEXEC); fsconfig(fs, {{{options}}}); "
        f"fsconfig(fs, FSCONFIG_CMD_CREATE); fsmount(fs, FSMOUNT_CLOEXEC, {flags(attributes, 'MOUNT_ATTR_')})"
    )
