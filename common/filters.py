"""`--filter KEY=VALUE`, as often as one likes: of one key any value, of several keys all, and every label.

For the client and the api; imports nothing of the standard library's.
"""

from common.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Check = Callable[[str], str]
    Matches = Mapping[str, Callable[[str], bool]]

# What happens to containers: `event=` of events.
ACTIONS = (
    *("create", "start", "restart", "attach", "detach", "rename", "update", "pause", "unpause"),
    *("kill", "oom", "die", "stop", "destroy", "exec_create", "exec_start", "exec_die"),
    *("health_status: healthy", "health_status: unhealthy"),
)
# What `event=` takes: as Docker, an action, or its beginning before the colon.
ACTION_WORDS = (*ACTIONS, "health_status")
EVERY = frozenset(("label", "label!", "until"))  # keys of which every value must match


def any_value(value: str) -> str:
    """The check of a key that takes whatever is given."""
    return value


def one_of(key: str, what: str, known: "Iterable[str]") -> "Check":
    """The check of a key that takes these values: `what` they are, in errors."""
    values = tuple(known)

    def check(value: str) -> str:
        if value not in values:
            raise refused(f"{key}={value[:80]}: there is no such {what}", f"known: {', '.join(values)}")
        return value

    return check


def refused(cause: str, hint: str) -> BadRequest:
    """Why one cannot filter so."""
    message = f"cannot filter by {cause}".encode("utf-8", "backslashreplace").decode()
    return BadRequest(message, hint=hint, fields=({"path": "filter", "message": message},))


def has_label(labels: "Mapping[str, str]", value: str) -> bool:
    """Whether there is a label KEY, or KEY=VALUE with this value."""
    key, equals, wanted = value.partition("=")
    return key in labels and (not equals or labels[key] == wanted)


def is_action(action: str, word: str) -> bool:
    """Whether `word` of ACTION_WORDS means `action`."""
    return word in (action, action.partition(":")[0])


class Filters:
    """What was asked for, checked. `keys`: each with the check of its values, which gives the value that is compared."""

    def __init__(self, words: "Iterable[str]", keys: "Mapping[str, Check]") -> None:
        """Raises BadRequest, naming the keys that are known."""
        self.values: dict[str, list[str]] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if key not in keys:
                raise refused(f"{key[:80]!r}: there is no such key", f"known keys: {', '.join(keys)}")
            if not equals or not value:
                raise refused(f"{key}: its value is missing", f"as in --filter {key}=VALUE")
            self.values.setdefault(key, []).append(keys[key](value))

    def match(self, matches: "Matches") -> bool:
        """Whether something is meant. `matches`: for each key whether a value is its own."""
        for key, values in self.values.items():
            hits = map(matches[key], values)
            if not (all(hits) if key in EVERY else any(hits)):
                return False
        return True
