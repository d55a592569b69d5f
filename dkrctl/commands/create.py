"""`dkrctl create`: make a container that is started later."""

from common.errors import ProtocolError, from_wire
from dkrctl import output
from dkrctl.request import asks, build
from dkrctl.run import Cidfile
from dkrctl.session import Session
from dkrctl.signals import Signals
from dkrctl.verbs import Call


def run(call: Call) -> int:
    """`dkrctl create`; the exit status. Raises DkrError."""
    request = build(call.parsed, call.command)
    for option, key in (("interactive", "openStdin"), ("tty", "terminal")):
        if call.parsed.flag(option):
            request[key] = True
    path = call.parsed.last("cidfile")
    # From here on a signal takes the way out that removes the file.
    Signals()
    cidfile = None if path is None else Cidfile(path)
    try:
        container = _create(call, request)
        if cidfile is not None:
            cidfile.fill(container)
    finally:
        if cidfile is not None:
            cidfile.withdraw()
    output.emit(f"{container}\n")
    return 0


def _create(call: Call, request: dict[str, object]) -> str:
    """The id of the new container."""
    _, descriptor = call.daemon().session("/v1/containers", request)
    session = Session(descriptor)
    session.first({"type": "create", "request": request, "asks": asks(request)}, [])
    got = session.receive()
    session.close()
    if got is None:
        raise ProtocolError(
            "cannot tell whether the container was made: lost its guardian", hint="see `dkrctl ps -a`"
        )
    frame, _ = got
    if frame.get("type") == "error":
        raise from_wire(frame.get("error"))
    container = frame.get("id")
    if frame.get("type") != "created" or not isinstance(container, str):
        raise ProtocolError(f"cannot understand the container's guardian: a frame {frame.get('type')!a}")
    return container
