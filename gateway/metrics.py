"""What the gateway counts, for Prometheus.

Children are looked up once and kept: `labels()` takes a lock and builds a key each time.
With `PROMETHEUS_MULTIPROC_DIR` set, one scrape shows the processes of one gateway together.
"""

import os
from functools import cache

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter("headrace_http_requests_total", "Requests answered", ["method", "route", "status"])
LATENCY = Histogram(
    "headrace_http_request_duration_seconds",
    "Time from headers to answer; requests with ?wait= are left out",
    ["method", "route"],
    buckets=_LATENCY_BUCKETS_S,
)
IN_FLIGHT = Gauge("headrace_http_requests_in_flight", "Requests being served", multiprocess_mode="livesum")
EVENTS_ACCEPTED = Counter("headrace_events_accepted_total", "Events answered as accepted")
EVENTS_REJECTED = Counter("headrace_events_rejected_total", "Events answered as errors", ["code"])
WAITING = Gauge("headrace_waiting_requests", "Requests held by ?wait=", multiprocess_mode="livesum")
POSTGRES_UP = Gauge("headrace_gateway_postgres_up", "1 where Postgres answers this process", multiprocess_mode="min")
KEY_LOOKUPS = Counter("headrace_key_lookups_total", "API keys looked up in Postgres, not found in memory")


@cache
def _requests(method: str, route: str, status: int) -> Counter:
    return REQUESTS.labels(method, route, str(status))


@cache
def _latency(method: str, route: str) -> Histogram:
    return LATENCY.labels(method, route)


def observe_request(method: str, route: str, status: int, seconds: float | None) -> None:
    """Count one answered request; `seconds` is None where the time says nothing."""
    method = method if method in _METHODS else "other"
    _requests(method, route, status).inc()
    if seconds is not None:
        _latency(method, route).observe(seconds)


def exposition() -> bytes:
    """All metrics in Prometheus's text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # as the library has it
    return generate_latest(registry)
