"""Removing a tree, in the manner of shutil.rmtree: by descriptors, so that no link is followed, whoever swaps one in meanwhile.

Not by shutil, which loads the compression libraries as well: forty mappings that each fork of the launcher would copy.
"""

from __future__ import annotations

import os

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str, dir_fd: int | None = None) -> None:
    """Remove the directory `path` (below the directory `dir_fd`, where given) and all that is in it. Raises OSError."""
    directory = os.open(path, _DIRECTORY, dir_fd=dir_fd)
    try:
        with os.scandir(directory) as found:
            entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
        for name, is_directory in entries:
            if is_directory:
                remove_tree(name, directory)
            else:
                os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(path, dir_fd=dir_fd)
