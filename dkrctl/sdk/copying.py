"""Copies from and to a container, for the client: the same as `dkrctl cp`, in a thread, because files of this side are waited for."""

from __future__ import annotations

import asyncio
import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING

from common.copies import told
from dkrctl.copying import Copy
from dkrctl.daemon import target
from dkrctl.sdk.handover import ask_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrctl.sdk.transport import Transport


class Copying:
    """Part of Client."""

    _path: str
    _transport: Transport

    async def copy_from(
        self,
        container: str,
        path: str,
        where: str | os.PathLike[str],
        *,
        follow_link: bool = False,
        archive: bool = False,
    ) -> list[str]:
        """Copy a file or directory of a container to `where` here, as `dkrctl cp CONTAINER:PATH WHERE`: a line for each kind of
        thing that was left out.

        path         inside; with /. at its end the contents of a directory
        follow_link  of a symbolic link what it points to
        archive      keep uid and gid, which only root can

        What comes is never laid outside of `where`, nor has it setuid bits. Cancelled, it leaves what is whole, and no half of a file.
        Raises NotFound, BadRequest, Conflict (it is paused, or is started or removed meanwhile), LimitReached (as a full disk).
        """
        where = os.fspath(where)
        return await self._copy(
            container, lambda copy: copy.to_path(path, where, follow=follow_link, keep_ids=archive)
        )

    async def copy_to(
        self,
        container: str,
        where: str | os.PathLike[str],
        path: str,
        *,
        follow_link: bool = False,
        archive: bool = False,
    ) -> list[str]:
        """Copy what is at `where` here to `path` in a container, as `dkrctl cp WHERE CONTAINER:PATH`. The rest as of `copy_from`;
        without `archive` all belongs to root inside.
        """
        source = os.fspath(where)
        return await self._copy(
            container, lambda copy: copy.from_path(source, path, follow=follow_link, keep_ids=archive)
        )

    async def _copy(self, container: str, work: Callable[[Copy], dict[str, object]]) -> list[str]:
        self._transport.check()
        _, descriptor = await ask_session(self._path, target(container, "/archive"), b"")
        with contextlib.closing(Copy(descriptor, container)) as copy:
            under_way = asyncio.get_running_loop().run_in_executor(None, partial(work, copy))
            try:
                return told(await asyncio.shield(under_way))
            except asyncio.CancelledError:
                copy.cut()  # its guardian ends it, within 2 s
                with contextlib.suppress(Exception):
                    await under_way
                raise
