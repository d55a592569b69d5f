"""GET /metrics: counts and durations for Prometheus, of this process's life.

What is counted at each request is a few numbers of our own; the library, which takes longer to load than a start takes, is loaded
by the first scrape, and writes them in the text format.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Any, get_args

from aiohttp import web

from common import start_steps
from common.models import Status
from common.restarts import REASONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aiohttp.typedefs import Handler, Middleware

    from dkrd.api.context import Context
    from dkrd.api.peers import Peer
    from dkrd.state.events import Event

# Upper bounds, seconds: of a start, which takes milliseconds, and of a request, which may follow a log for days.
START_BOUNDS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
REQUEST_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
# Of a step of one: most take microseconds.
STEP_BOUNDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)
METHODS = frozenset(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"))


class Histogram:
    """How many values lay below each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """One more."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def told(self) -> dict[str, Any]:
        """As the library takes it: cumulative counts by bound, and the sum."""
        buckets, total = [], 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return {"buckets": buckets, "sum_value": self._sum}


class Metrics:
    """What is counted since this process began."""

    def __init__(self) -> None:
        self._events: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._starts = Histogram(START_BOUNDS)
        self._restarts: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._steps: dict[str, Histogram] = {}
        self._requests: dict[tuple[str, str, str], Histogram] = {}

    def happened(self, events: Iterable[Event]) -> None:
        """These events have been written down."""
        for event in events:
            self._events[event.action] += 1
            if "restarts" in event.more:  # of a restart that nobody asked for
                self._restarts[str(event.more.get("reason", REASONS[0]))] += 1
            took = event.more.get("took")
            if isinstance(took, float):
                self._starts.add(took)

    def start_failed(self, code: str) -> None:
        """A start came to nothing."""
        self._failures[code] += 1

    def stepped(self, took: object) -> None:
        """How long the steps of a start took, nanoseconds by name: what is done more than once in one is there as its sum."""
        for name, duration in took.items() if isinstance(took, dict) else ():
            if name not in start_steps.NAMES or type(duration) is not int:
                continue  # of another release
            histogram = self._steps.get(name)
            if histogram is None:
                histogram = self._steps[name] = Histogram(STEP_BOUNDS)
            histogram.add(duration / 1e9)

    def answered(self, request: web.Request, status: int, seconds: float) -> None:
        """A request was answered. Its route is that of the table: a path may hold anything."""
        resource = request.match_info.route.resource
        route = "none" if resource is None else resource.canonical
        method = request.method if request.method in METHODS else "other"
        key = route, method, str(status)
        histogram = self._requests.get(key)
        if histogram is None:
            histogram = self._requests[key] = Histogram(REQUEST_BOUNDS)
        histogram.add(seconds)

    def families(self, containers: dict[str, int]) -> Iterator[Any]:
        """The library's objects. `containers`: how many there are, by status."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        starts = CounterMetricFamily("dkr_starts", "Containers whose command was executed")
        starts.add_metric([], self._events["start"])
        yield starts
        failures = CounterMetricFamily(
            "dkr_start_failures",
            "Starts that were refused or came to nothing, by the code of the error",
            labels=["code"],
        )
        for code, count in sorted(self._failures.items()):
            failures.add_metric([code], count)
        yield failures
        durations = HistogramMetricFamily(
            "dkr_start_duration_seconds",
            "From the fork of a container's guardian to the execution of its command",
        )
        durations.add_metric([], **self._starts.told())
        yield durations
        steps = HistogramMetricFamily(
            "dkr_start_step_duration_seconds",
            "Parts of it, by the step: all of one name in one start together; those of several processes overlap",
            labels=["step"],
        )
        for name, histogram in sorted(self._steps.items()):
            steps.add_metric([name], **histogram.told())
        yield steps
        again = CounterMetricFamily(
            "dkr_restarts",
            "Restarts of containers that nobody asked for, by their reason",
            labels=["reason"],
        )
        for reason, count in sorted(self._restarts.items()):
            again.add_metric([reason], count)
        yield again
        there = GaugeMetricFamily("dkr_containers", "Containers that there are, by status", labels=["status"])
        for status in get_args(Status):
            there.add_metric([status], containers.get(status, 0))
        yield there
        kills = CounterMetricFamily("dkr_oom_kills", "Containers that the kernel ended for want of memory")
        kills.add_metric([], self._events["oom"])
        yield kills
        requests = HistogramMetricFamily(
            "dkr_api_request_duration_seconds",
            "From the head of a request to the end of its answer, by the route of the API's table",
            labels=["route", "method", "status"],
        )
        for labels, histogram in sorted(self._requests.items()):
            requests.add_metric(labels, **histogram.told())
        yield requests


def counting(metrics: Metrics) -> Middleware:
    """What counts each request, errors too: behind it stands what makes answers of them."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        begun = time.perf_counter()
        answer = await handler(request)
        metrics.answered(request, answer.status, time.perf_counter() - begun)
        return answer

    return count


async def metrics(context: Context, peer: Peer, request: web.Request) -> web.Response:
    """All of them. Whose starts and requests are counted they do not tell; all users' are."""
    from prometheus_client import CollectorRegistry, exposition

    counts = await context.index.ask(lambda index: index.counts(None))
    collected = list(context.metrics.families(counts))

    class _Collector:
        def collect(self) -> Iterator[Any]:
            return iter(collected)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector())
    return web.Response(
        body=exposition.generate_latest(registry),
        headers={"Content-Type": exposition.CONTENT_TYPE_PLAIN_0_0_4},
    )
