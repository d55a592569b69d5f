"""Events as they come over HTTP: of `dkrctl events` and of the Python client."""

from common.errors import ProtocolError, from_wire
from common.frames import loads_object
from dkrctl.json_lines import Splitter

_TEXTS = ("time", "type", "action", "id", "name", "image")


def parse(text: bytes) -> dict[str, object]:
    """The event that `text`, JSON, tells. Raises ProtocolError, and the DkrError that a last line tells of."""
    try:
        said = loads_object(text)
    except ValueError as err:
        raise ProtocolError(f"cannot understand the daemon: an event is {err}") from err
    if said.get("type") == "error":
        raise from_wire(said.get("error"))
    if (
        not all(isinstance(said.get(key), str) for key in _TEXTS)
        or type(said.get("uid")) is not int
        or not isinstance(said.get("labels"), dict)
    ):
        raise ProtocolError("cannot understand the daemon: an event has another form")
    return said


def splitter() -> Splitter[dict[str, object]]:
    """Cuts an answer into events."""
    return Splitter("the events", parse)
