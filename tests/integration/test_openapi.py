"""The description of the API against the daemon that gives it: requests made from the schemas, answers held against them.

schemathesis makes requests that the description allows, which must be taken, and others, which must be refused; each answer
must be one that the description tells.
"""

from __future__ import annotations

import socket
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from common.models import PlainRun
from dkrd.api.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dkrd.api.route import Route
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

# How many requests of each operation and kind.
MANY = [
    pytest.param(25, id="some"),
    pytest.param(200, id="many", marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
]
SECONDS = 30
# What a request that is well-formed may meet all the same: a command that is not there, one connection too many, …
TAKEN = ["101", "2xx", "304", "403", "404", "409", "422", "429", "501", "503"]
REFUSED = ["400", "404", "405", "409", "413", "415", "426", "429"]
CONFIG = {
    "checks": {
        "positive_data_acceptance": {"expected-statuses": TAKEN},
        "negative_data_rejection": {"expected-statuses": REFUSED},
        "not_a_server_error": {"expected-statuses": ["101", "2xx", "4xx", "501"]},
    }
}
# There are no credentials that could be ignored, and whose objects are whose is not told by HTTP.
NOT_MEANT = {"ignored_auth", "object_level_authorization"}

load_all_checks()
MEANT: Any = CHECKS.get_by_names([name for name in CHECKS.get_all_names() if name not in NOT_MEANT])


class _Connection(HTTPConnection):
    """To a Unix socket, whatever host is asked for."""

    path = ""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self.path)

    def getresponse(self) -> Any:
        """One that speaks another protocol from here on is not used again."""
        response = super().getresponse()
        if response.status == 101:
            self.close()
        return response


class _Adapter(requests.adapters.HTTPAdapter):
    def __init__(self, path: str) -> None:
        super().__init__()
        kind = type("Connection", (_Connection,), {"path": path})
        self._pool = HTTPConnectionPool("dkr", timeout=SECONDS)
        self._pool.ConnectionCls = kind

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        return self._pool

    def add_headers(self, request: requests.PreparedRequest, **kwargs: Any) -> None:
        # The library has its own mind on this header.
        if "Upgrade" in request.headers:
            request.headers["Connection"] = "Upgrade"

    def close(self) -> None:
        self._pool.close()


@pytest.fixture(scope="module")
def session(daemon: Daemon) -> Iterator[requests.Session]:
    """Speaks HTTP with the daemon, as root."""
    with requests.Session() as made:
        made.mount("http://", _Adapter(str(daemon.socket)))
        yield made


@pytest.fixture(scope="module")
def document(session: requests.Session) -> dict[str, Any]:
    """The description, as the daemon gives it."""
    found = session.get("http://dkr/v1/openapi.json").json()
    assert isinstance(found, dict)
    return found


def without_bounds(node: Any) -> Any:
    """A description without bounds that no request drawn here comes near to (tests/unit/test_api_openapi.py does): beside a
    pattern they cost the library seconds for each. And without what one key needs another for, one case too many for it: `drive`
    sees to that.
    """
    if isinstance(node, dict):
        high = [
            k
            for k in ("maxLength", "maxItems", "maxProperties")
            if isinstance(node.get(k), int) and node[k] > 100
        ]
        high += [k for k in ("dependentRequired",) if k in node]
        return {key: without_bounds(value) for key, value in node.items() if key not in high}
    return [without_bounds(item) for item in node] if isinstance(node, list) else node


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table to be driven. Which of several a request means is told by its headers, which OpenAPI says in words
    only: here each is an operation of its own.
    """

    route: Route
    alone: bool

    def operation(self, document: dict[str, Any]) -> Any:
        """Its operation, without what others of its path have."""
        own, route = without_bounds(document), self.route
        described = own["paths"][route.path][route.method.lower()]
        if not self.alone:
            if route.body is not None:
                content = described["requestBody"]["content"]["application/json"]
                content["schema"] = {"$ref": f"#/components/schemas/{route.body.__name__}"}
            else:
                described.pop("requestBody", None)
            queries = {info.alias for info in route.query.model_fields.values()} if route.query else set()
            described["parameters"] = [
                parameter
                for parameter in described.get("parameters", ())
                if parameter["in"] == "path"
                or (parameter["in"] == "query" and parameter["name"] in queries)
                or (parameter["in"] == "header" and route.upgrade is not None)
            ]
            for parameter in described["parameters"]:
                if parameter["name"] == "Upgrade":
                    parameter["schema"] = {"type": "string", "const": route.upgrade}
                if parameter["in"] == "header":
                    parameter["required"] = True
        schema = schemathesis.openapi.from_dict(own, config=SchemathesisConfig.from_dict(CONFIG))
        return schema[route.path][route.method]

    @property
    def headers(self) -> dict[str, str] | None:
        """What of an upgrade is missing makes another request of it, no bad one."""
        if self.alone or self.route.upgrade is None:
            return None
        return {"Connection": "Upgrade", "Upgrade": self.route.upgrade}

    def __str__(self) -> str:
        return self.route.name


PLACES = Counter((route.method, route.path) for route in ROUTES)
LINES = [Line(route, PLACES[route.method, route.path] == 1) for route in ROUTES]
# No archive is drawn, nor a path that is there: test_cp_http.py has them.
TAKEN_LINES = [line for line in LINES if not (line.route.path.endswith("/archive") and line.route.query)]
WITH_INPUT = [
    line
    for line in LINES
    if (line.route.query and not line.route.stream)
    or line.route.body
    or (line.route.upgrade and line.headers is None)
]


@pytest.fixture(autouse=True)
def nothing_is_left(session: requests.Session) -> Iterator[None]:
    """What was made is removed."""
    yield
    for container in session.get("http://dkr/v1/containers?all=true").json():
        session.delete(f"http://dkr/v1/containers/{container['id']}?force=true")


def drive(
    line: Line,
    document: dict[str, Any],
    mode: GenerationMode,
    session: requests.Session,
    count: int,
    there: str = "",
    execs: Sequence[str] = (),
) -> set[int]:
    """Ask `count` times, half of them of the container that is `there`, and of what is executed in it; the statuses that came."""
    left = list(execs)
    statuses = set()

    cases = line.operation(document).as_strategy(generation_mode=mode, headers=line.headers)

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, real=st.booleans())
    def ask(case: Any, real: bool) -> None:
        if mode is GenerationMode.POSITIVE:
            if isinstance(case.body, dict) and "tmpfs" in case.body:
                # No schema can say of two places that they are the same.
                case.body["tmpfs"] = dict(list(case.body["tmpfs"].items())[:1])
            if isinstance(case.body, dict) and "swap" in case.body:
                case.body.setdefault("memory", 64 * 2**20)
            if line.route.path == "/v1/events":
                case.query = {**(case.query or {}), "until": "2026-01-31T12:00:00Z"}  # else it goes on
            if line.route.path == "/v1/containers/prune":
                # No pattern can say which days there are.
                filters = case.body.get("filter", ())
                case.body["filter"] = [word for word in filters if not word.startswith("until")]
            if real and line.route.body is PlainRun:
                case.body["args"] = ["/bin/cat"]
            if real and "{container}" in line.route.path:
                case.path_parameters["container"] = there
                if "{exec}" in line.route.path and left:
                    case.path_parameters["exec"] = left.pop()
                if line.route.path.endswith("/exec") and isinstance(case.body, dict):
                    # Whether a user or a directory that is drawn is there would be left to chance, as the command.
                    case.body["args"] = ["/bin/cat"]
                    for key in ("user", "cwd"):
                        case.body.pop(key, None)
                if line.route.path.endswith("/wait"):
                    case.query = {
                        "condition": "stopped"
                    }  # it is never removed, and others are not in a hurry
                if line.route.path.endswith("/stats"):
                    case.query = {}  # it does not end
        response = case.call_and_validate(
            base_url="http://dkr", session=session, checks=MEANT, timeout=SECONDS
        )
        statuses.add(response.status_code)

    ask()
    return statuses


# Of one that runs these go on for longer than a test.
OF_ONE_THAT_HAS_ENDED = ("/wait", "/logs", "/start", "/stop", "/restart")


@pytest.fixture
def there(session: requests.Session, request: pytest.FixtureRequest) -> str:
    """The name of a container that suits the test's line: one that runs, or has ended."""
    ends = request.getfixturevalue("line").route.path.endswith(OF_ONE_THAT_HAS_ENDED)
    wanted = {"args": ["/bin/sh", "-c", "echo up" if ends else "echo up; sleep 600"], "name": "there"}
    assert session.post("http://dkr/v1/containers", json=wanted).status_code == 201
    assert session.post("http://dkr/v1/containers/there/start").status_code == 204
    if ends:
        assert session.post("http://dkr/v1/containers/there/wait").status_code == 200
    if request.getfixturevalue("line").route.path.endswith("/unpause"):
        assert session.post("http://dkr/v1/containers/there/pause").status_code == 204
    return "there"


@pytest.mark.parametrize("count", MANY)
@pytest.mark.parametrize("line", TAKEN_LINES, ids=str)
def test_what_is_described_is_taken(
    document: dict[str, Any], session: requests.Session, there: str, line: Line, count: int, daemon: Daemon
) -> None:
    execs = []
    if "{exec}" in line.route.path:
        sleeps = ("exec", "-d", there, "/bin/sleep", "600")
        execs = [daemon.dkrctl(*sleeps, check=True).stdout.strip() for _ in range(3)]
    statuses = drive(line, document, GenerationMode.POSITIVE, session, count, there, execs)
    assert line.route.status in statuses


@pytest.mark.parametrize("count", MANY)
@pytest.mark.parametrize("line", WITH_INPUT, ids=str)
def test_what_is_not_described_is_refused(
    document: dict[str, Any], session: requests.Session, line: Line, count: int
) -> None:
    drive(line, document, GenerationMode.NEGATIVE, session, count)
