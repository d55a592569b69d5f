"""What one line of the API says: dkrd/api/routes.py is the table, binding.py binds handlers to it, openapi.py describes it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from common.errors import DkrError
    from common.model_base import Model

    Handler = Callable[..., Awaitable[Any]]

T = TypeVar("T")


class Who(StrEnum):
    """Who may use a route."""

    ANYONE = "anyone"  # who can connect
    ADMIN = "admin"  # uid 0 and members of the admin group
    OWNER = "owner"  # a user of the host, and for what is theirs; uid 0 and admins for everyone's


class Switched:
    """In place of an answer: 101, and the connection speaks another protocol from there on."""


class Plain:
    """In place of a model: an answer that is text."""


class Json:
    """In place of a model: an answer that is JSON of a schema of its own."""


class Tar:
    """In place of a model: an archive, as it comes; of a HEAD its headers alone."""


class Lines(Generic[T]):
    """In place of a model: lines, each the JSON of a T, for as long as there are any."""


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the API.

    query    model of the query; None: it has none
    body     model of the body; None: it has none
    answer   type of the answer: a Model, list[Model], None (204), Switched, Plain, Json, Tar, Lines[Model]
    summary  one line for people
    upgrade  the protocol that the client must ask for (`Upgrade:`); None: it must not ask for any. Lines may
             differ in this alone, and have each their own query and body
    stream   its body is an archive, which the handler reads as it comes
    optional the body may be left out: its keys have defaults
    made     what is answered was made by this: 201, and its place below `path` in the header Location
    errors   what it may answer besides what every route may (openapi.py), by class
    about    more for people
    example  of an answer that has no model, or whose model has none
    """

    method: str
    path: str
    who: Who
    query: type[Model] | None
    body: type[Model] | None
    answer: Any
    handler: Handler
    summary: str
    upgrade: str | None = None
    stream: bool = False
    optional: bool = False
    made: bool = False
    errors: tuple[type[DkrError], ...] = ()
    about: str = ""
    example: Any = None

    @property
    def name(self) -> str:
        """The line for people: `POST /v1/run (dkr-session/1)`."""
        return f"{self.method} {self.path}" + (f" ({self.upgrade})" if self.upgrade else "")

    @property
    def status(self) -> int:
        """The status of an answer that went well."""
        if self.answer is Switched:
            return 101
        return 204 if self.answer is None else 201 if self.made else 200
