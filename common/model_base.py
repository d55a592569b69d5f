"""What all models of the HTTP border are made of, and the types that many of them have in common. See common/models.py."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, TypeAdapter, WithJsonSchema
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    from pydantic_core import CoreSchema


class About:
    """What a field is for, as the API's description tells it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "description": self._text}


class Model(BaseModel):
    """A closed, unchangeable object with the keys of the wire (camelCase)."""

    model_config = ConfigDict(
        defer_build=True,  # until it is used: half a millisecond each that the daemon's start does without
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,  # for our own code; what comes over the wire is read by alias alone
        validate_by_alias=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    def to_wire(self) -> dict[str, Any]:
        """The object as JSON's types, with the keys of the wire and without what is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


Some = TypeVar("Some", bound=Model)


@functools.cache
def _list_of(kind: type[Model]) -> TypeAdapter[list[Any]]:
    return TypeAdapter(list[kind])  # type: ignore[valid-type]  # a class known at run time


def list_of(kind: type[Some]) -> TypeAdapter[list[Some]]:
    """What reads and writes many of `kind` at once: half of what it takes one by one."""
    return _list_of(kind)


Id = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Time = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "description": "RFC 3339, nanoseconds",
            "examples": ["2026-01-31T12:00:00.010000000Z"],
        }
    ),
]
