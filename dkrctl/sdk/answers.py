"""What the daemon answers, as the models it works by."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from common.errors import ProtocolError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def model(adapter: TypeAdapter[T], body: bytes) -> T:
    """The value of an answer. Raises ProtocolError."""
    try:
        return adapter.validate_json(body, by_alias=True, by_name=False)
    except ValidationError as err:
        raise ProtocolError(
            "cannot understand the daemon: its answer has another form",
            hint="it may be of another release: see `version`",
        ) from err
