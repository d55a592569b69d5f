"""The description of the API against the daemon that gives it: requests made from the schemas, answers held against them.

schemathesis makes requests that the description allows, which must be taken, and others, which must be refused; each answer
must be one that the description tells.
"""

from __future__ import annotations

import socket
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

from dkrd.api.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkrd.api.route import Route
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

EXAMPLES = 60  # of each operation and kind
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
    pattern they cost the library seconds for each.
    """
    if isinstance(node, dict):
        high = [
            k
            for k in ("maxLength", "maxItems", "maxProperties")
            if isinstance(node.get(k), int) and node[k] > 100
        ]
        return {key: without_bounds(value) for key, value in node.items() if key not in high}
    return [without_bounds(item) for item in node] if isinstance(node, list) else node


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table to be driven; `body`: which kind of body, where its operation has two."""

    method: str
    path: str
    body: str | None = None
    upgrade: bool = False

    def operation(self, document: dict[str, Any]) -> Any:
        """Its operation. Which kind of body a request has is told by its headers, which OpenAPI says in words only: here each
        kind is an operation of its own.
        """
        own = without_bounds(document)
        described = own["paths"][self.path][self.method.lower()]
        if self.body is not None:
            described["requestBody"]["content"]["application/json"]["schema"] = {
                "$ref": f"#/components/schemas/{self.body}"
            }
            headers = [p for p in described["parameters"] if p["in"] == "header"]
            for header in headers:
                header["required"] = True
                if not self.upgrade:
                    described["parameters"].remove(header)
        schema = schemathesis.openapi.from_dict(own, config=SchemathesisConfig.from_dict(CONFIG))
        return schema[self.path][self.method]

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.body or ''}".strip()


def _line(route: Route) -> Line:
    both = route.path == "/v1/run"
    return Line(
        route.method,
        route.path,
        route.body.__name__ if route.body and both else None,
        route.upgrade is not None,
    )


LINES = [_line(route) for route in ROUTES]
WITH_INPUT = [_line(route) for route in ROUTES if route.query or route.body or route.upgrade]


def drive(line: Line, document: dict[str, Any], mode: GenerationMode, session: requests.Session) -> set[int]:
    """Ask; the statuses that came."""
    statuses = set()

    # What of an upgrade is missing makes another request of it, no bad one.
    headers = {"Connection": "Upgrade", "Upgrade": "dkr-session/1"} if line.upgrade and line.body else None
    cases = line.operation(document).as_strategy(generation_mode=mode, headers=headers)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, real=st.booleans())
    def ask(case: Any, real: bool) -> None:
        if real and mode is GenerationMode.POSITIVE and line.body == "PlainRun":
            case.body["args"] = ["/bin/cat"]
        response = case.call_and_validate(
            base_url="http://dkr", session=session, checks=MEANT, timeout=SECONDS
        )
        statuses.add(response.status_code)

    ask()
    return statuses


@pytest.mark.parametrize("line", LINES, ids=str)
def test_what_is_described_is_taken(document: dict[str, Any], session: requests.Session, line: Line) -> None:
    statuses = drive(line, document, GenerationMode.POSITIVE, session)
    if line.body is not None:
        assert (101 if line.upgrade else 200) in statuses


@pytest.mark.parametrize("line", WITH_INPUT, ids=str)
def test_what_is_not_described_is_refused(
    document: dict[str, Any], session: requests.Session, line: Line
) -> None:
    drive(line, document, GenerationMode.NEGATIVE, session)
