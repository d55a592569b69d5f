"""`dkrctl help`: the help of a verb, or of all."""

from common.errors import BadRequest
from dkrctl.help import print_command, print_overview
from dkrctl.verbs import Call, command_named


def run(call: Call) -> int:
    """`dkrctl help [COMMAND]`; the exit status. Raises BadRequest where there is no such command."""
    if not call.words:
        return print_overview()
    if len(call.words) > 1:
        raise BadRequest(f"cannot take {call.words[1]!r}: help takes one command", hint="dkrctl help COMMAND")
    return print_command(command_named(call.words[0]))
