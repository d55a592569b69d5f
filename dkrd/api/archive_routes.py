"""The part of the API's table (routes.py) that copies from and to containers."""

from __future__ import annotations

from common.copy_models import ArchiveQuery, ExtractQuery
from common.errors import StartFailed
from dkrd.api.archive import archive, archive_session, archive_stat, extract
from dkrd.api.route import Route, Switched, Tar, Who
from dkrd.api.upgrade import PROTOCOL

_PATH = "/v1/containers/{container}/archive"
_STAT = "The header X-Docker-Container-Path-Stat is the base64 of a JSON object: name, size, mode (as Go's os.FileMode), mtime, linkTarget."
_RESTS = (
    "Of one that does not run, what is mounted inside is empty and read-only; its start or removal ends what is not done within 1 s "
    "(rule `taken`)."
)
_LEFT_OUT = "Devices, sockets, capabilities of files, and what lies in /proc and /sys are left out."

ARCHIVE = (
    Route(
        "HEAD",
        _PATH,
        Who.OWNER,
        ArchiveQuery,
        None,
        Tar,
        archive_stat,
        "What a path of a container names",
        errors=(StartFailed,),
        about=_STAT,
    ),
    Route(
        "GET",
        _PATH,
        Who.OWNER,
        ArchiveQuery,
        None,
        Tar,
        archive,
        "A tar archive of a file or directory of a container",
        errors=(StartFailed,),
        about=f"{_STAT} {_LEFT_OUT} An answer that is not whole is cut off. {_RESTS}",
    ),
    Route(
        "PUT",
        _PATH,
        Who.OWNER,
        ExtractQuery,
        None,
        None,
        extract,
        "Lay a tar archive below a directory of a container",
        stream=True,
        errors=(StartFailed,),
        about="The archive is not compressed. A file takes the place of a file, never of a directory, nor a directory that of a file. "
        f"{_LEFT_OUT} {_RESTS} Refused in a container that has anything beyond a tenant's defaults (rule `http`), unless the setting "
        "`http_lifts` lets admins.",
    ),
    Route(
        "POST",
        _PATH,
        Who.OWNER,
        None,
        None,
        Switched,
        archive_session,
        "Copy from or to a container by a pipe of the caller's",
        upgrade=PROTOCOL,
        errors=(StartFailed,),
        about="Behind the 101 comes one record, with the client's end of a session socket as descriptor; what is wanted is said there: "
        "docs/protocol.md, section 3.",
    ),
)
