"""`dkrctl create`: make a container that is started later."""

from common.errors import BadRequest, ProtocolError, from_wire
from common.options import Command
from common.restarts import policy_from
from dkrctl import output
from dkrctl.daemon import Daemon
from dkrctl.parse import Parsed, utf8
from dkrctl.request import asks, build, restart_wish
from dkrctl.run import Cidfile
from dkrctl.session import Session
from dkrctl.signals import Signals
from dkrctl.verbs import Call


def run(call: Call) -> int:
    """`dkrctl create`; the exit status. Raises DkrError."""
    request = request_of(call.parsed, call.command)
    # From here on a signal takes the way out that removes the file of --cidfile.
    Signals()
    container = create(call.daemon(), request, call.parsed.last("cidfile"))
    output.emit(f"{container}\n")
    return 0


def request_of(parsed: Parsed, command: Command) -> dict[str, object]:
    """The request by the options of `command`. Raises BadRequest."""
    request = build(parsed, command)
    for option, key in (("interactive", "openStdin"), ("tty", "terminal")):
        if parsed.flag(option):
            request[key] = True
    policy = parsed.last("restart")
    if policy is not None:
        request["restart"] = policy_from(utf8(policy, "--restart"))
    wish = restart_wish(parsed)
    if request.get("rm") and wish:
        raise BadRequest(
            f"cannot {command.name} with --rm and --{wish}: nothing would be left to be restarted",
            hint="leave out one of the two",
        )
    return request


def create(daemon: Daemon, request: dict[str, object], cidfile: str | None) -> str:
    """Have a container made; its id, also in the file `cidfile`. Raises DkrError."""
    file = None if cidfile is None else Cidfile(cidfile)
    try:
        container = _made(daemon, request)
        if file is not None:
            file.fill(container)
    finally:
        if file is not None:
            file.withdraw()
    return container


def _made(daemon: Daemon, request: dict[str, object]) -> str:
    _, descriptor = daemon.session("/v1/containers", request)
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
