"""Removing a tree that a container has filled: by descriptors, so that no link is followed, and however deep it is.

    top/a/b/c ─► top/a, top/N0 ─► top/N0, top/N1 ─► …

Directories in directories are moved up beside each other before they are emptied: two descriptors are enough, and no depth of calls.
Not by shutil, which needs both for each level, and loads the compression libraries as well: forty mappings that each fork of the
launcher would copy.
"""

from __future__ import annotations

import os

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str, dir_fd: int | None = None) -> None:
    """Remove the directory `path` (below the directory `dir_fd`, where given) and all that is in it, which nobody changes
    meanwhile. Raises OSError.
    """
    top = os.open(path, _DIRECTORY, dir_fd=dir_fd)
    try:
        prefix = os.urandom(16).hex()  # no name that is there
        waiting = _empty(top)
        count = 0
        while waiting:
            name = waiting.pop()
            directory = os.open(name, _DIRECTORY, dir_fd=top)
            try:
                for below in _empty(directory):
                    moved = f"{prefix}-{count}"
                    count += 1
                    os.rename(below, moved, src_dir_fd=directory, dst_dir_fd=top)
                    waiting.append(moved)
            finally:
                os.close(directory)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path, dir_fd=dir_fd)


def _empty(directory: int) -> list[str]:
    """Remove all but directories; their names."""
    with os.scandir(directory) as found:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    for name, is_directory in entries:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
    return [name for name, is_directory in entries if is_directory]
