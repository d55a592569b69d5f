"""What crosses the HTTP border of copies from and to a container. As common/models.py, for processes that have time."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common import shapes  # pydantic reads the annotations when the program runs
from common.model_base import About, Model

_Path = Annotated[str, Field(min_length=1, max_length=4095, pattern=r"^[^\x00]+$")]


class ArchiveQuery(Model):
    """What is copied from a container."""

    path: Annotated[_Path, About("inside; with /. at its end the contents of a directory")]


class ExtractQuery(Model):
    """Where an archive is laid in a container."""

    path: Annotated[_Path, About("a directory that is there, inside")]
    copy_uidgid: Annotated[
        shapes.Flag,
        Field(alias="copyUIDGID"),
        About("each file belongs to whom the archive says, and not to root"),
    ] = False
