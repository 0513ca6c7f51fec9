"""Latency of reading: one event, and the first and the 100th page of every list, through the gateway's HTTP."""

import itertools
import time
from collections.abc import Iterator
from datetime import timedelta
from http.client import HTTPConnection
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
import psycopg

from tests.bench.growth.world import World, participant, program, recipient

LIMIT = 50
_PAGE = 100
_STRIDE = 200  # events a page on the way to the 100th: a cursor holds whatever the limit
ORDERS = tuple(itertools.product(("created_at", "event_timestamp"), ("desc", "asc")))


class Case(NamedTuple):
    """A list: what it is called in the report, and its filters."""

    name: str
    filters: dict[str, str]


class Latency(NamedTuple):
    """Milliseconds of some requests, and how many events they had on a page."""

    p50: float
    p99: float
    events: int


class Client:
    """One connection to the gateway."""

    def __init__(self, world: World) -> None:
        self._connection = HTTPConnection("127.0.0.1", world.stack.port, timeout=60)
        self._headers = world.stack.headers

    def get(self, path: str) -> tuple[int, float, Any]:
        """Status, milliseconds and JSON of a GET."""
        begun = time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        return answer.status, (time.perf_counter() - begun) * 1e3, msgspec.json.decode(body)


def cases(world: World) -> Iterator[Case]:
    """Every filter of the list route with common, rare and absent values, alone and with a program."""
    middle, newest, key = _landmarks(world)
    common, rare, absent = program(0), program(990), program(10**6)
    windows = {
        "10 minutes": (middle, middle + timedelta(minutes=10)),
        "half": (middle, newest),
        "to the middle": (middle - timedelta(days=3650), middle),
        "empty": (newest + timedelta(days=365), newest + timedelta(days=366)),
    }
    alone: list[Case] = [
        Case("all", {}),
        *(Case(f"status {status}", {"status": status}) for status in ("COMPLETED", "FAILED", "PENDING")),
        *(Case(f"event_type {kind}", {"event_type": kind}) for kind in ("EXTERNAL", "SYSTEM")),
        *(Case(f"participant_id {name}", {"participant_id": participant(n)}) for name, n in _PEOPLE.items()),
        *(Case(f"external_id {name}", {"external_id": f"user-{n}"}) for name, n in _PEOPLE.items()),
        *(Case(f"recipient_id {name}", {"recipient_id": recipient(n)}) for name, n in _PEOPLE.items()),
        Case("idempotency_key there", {"idempotency_key": key}),
        Case("idempotency_key absent", {"idempotency_key": "absent"}),
        *(
            Case(f"{first}, {last}: {name}", {first: begin.isoformat(), last: end.isoformat()})
            for name, (begin, end) in windows.items()
            for first, last in (("from", "to"), ("event_from", "event_to"))
        ),
    ]
    yield from alone
    yield from (Case(f"program {name}", {"program_id": p}) for name, p in (("rare", rare), ("absent", absent)))
    yield from (Case(f"program common + {each.name}", {"program_id": common, **each.filters}) for each in alone)
    yield Case("program rare + FAILED", {"program_id": rare, "status": "FAILED"})
    yield Case("participant common + FAILED", {"participant_id": participant(0), "status": "FAILED"})
    yield Case("FAILED SYSTEM", {"status": "FAILED", "event_type": "SYSTEM"})


_PEOPLE = {"common": 0, "usual": 20_000, "absent": 10**7}


def _landmarks(world: World) -> tuple[Any, Any, str]:
    """An instant in the middle of the filled events, the newest, and some event's key."""
    with psycopg.connect(world.url) as connection:
        connection.execute("set timezone = 'UTC'")
        row = connection.execute(
            """select first + (last - first) / 2, last,
                      (select idempotency_key from headrace.events where kafka_partition = 3 limit 1)
               from (select min(created_at) as first, max(created_at) as last from headrace.events
                     where created_at < timestamptz '2026-02-01') filled"""
        ).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


def measure(world: World, repeats: int, part: int, parts: int) -> dict[str, dict[str, Any]]:
    """By list: milliseconds of its first and its 100th page. Of all lists, the `part`-th of `parts`."""
    client = Client(world)
    found: dict[str, dict[str, Any]] = {}
    for case in list(cases(world))[part::parts]:
        for sort_by, sort_dir in ORDERS:
            query = urlencode({**case.filters, "sort_by": sort_by, "sort_dir": sort_dir})
            pages = {"first": _latency(client, f"{query}&limit={LIMIT}", repeats)}
            cursor = _cursor(client, query)
            if cursor is not None:
                pages["100th"] = _latency(client, f"{query}&limit={LIMIT}&cursor={cursor}", repeats)
            found[f"{case.name}, {sort_by} {sort_dir}"] = {name: page._asdict() for name, page in pages.items()}
    return found


def _cursor(client: Client, query: str) -> str | None:
    """The cursor of the 100th page, None where the list is shorter."""
    path = f"/v1/events?{query}&limit={_STRIDE}"
    cursor = ""
    for left in range(LIMIT * (_PAGE - 1), 0, -_STRIDE):
        status, _, body = client.get(f"/v1/events?{query}&limit={min(left, _STRIDE)}{cursor}")
        assert status == 200, f"{path}: {status} {body}"
        if not body["pagination"]["has_more"]:
            return None
        cursor = f"&cursor={body['pagination']['next_cursor']}"
    return cursor.removeprefix("&cursor=")


def _latency(client: Client, query: str, repeats: int) -> Latency:
    times, events = [], 0
    for _ in range(repeats):
        status, milliseconds, body = client.get(f"/v1/events?{query}")
        assert status == 200, f"{query}: {status} {body}"
        times.append(milliseconds)
        events = len(body["data"])
    return Latency(quantile(times, 0.5), quantile(times, 0.99), events)


def get_one(world: World, count: int) -> dict[str, float]:
    """Milliseconds of ``GET /v1/events/{id}`` over `count` events picked from everywhere."""
    with psycopg.connect(world.url) as connection:
        share = min(100.0, 300 * count / max(1, world.ask("select count(*) from headrace.events")[0]))
        rows = connection.execute(
            f"select id::text from headrace.events tablesample bernoulli ({share}) limit {count}".encode()  # noqa: S608
        ).fetchall()
    client = Client(world)
    times = []
    for (event_id,) in rows:
        status, milliseconds, _ = client.get(f"/v1/events/{event_id}")
        assert status == 200, event_id
        times.append(milliseconds)
    return {"p50": quantile(times, 0.5), "p99": quantile(times, 0.99), "events": len(times)}


def quantile(values: list[float], share: float) -> float:
    """The nearest-rank quantile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
