"""The gateway: what an event costs it, against the same route done plainly and against reading and answering alone.

All servers stand at the same time and are measured in turns, several rounds each, so that whatever changes on the
machine or in Kafka meanwhile falls on all of them alike.
"""

import http.client
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, reduce
from typing import NamedTuple

import msgspec

from deploy.process import Process
from tests.bench.bed import Bed, environment, wait_until
from tests.bench.cpu import Spent, beside, memory_mb
from tests.bench.generator import Generator
from tests.bench.load import Order, Outcome, Target
from tests.bench.report import Goal, Row
from tests.bench.sizes import Sizes

PART = "gateway"
BATCH = 100
_CONNECTIONS = {BATCH: 12, 1: 32}
_NUMBERS_EACH = 10**9  # every server gets event numbers of its own: all of them are new
_MB_MAX = 150.0


class Round(NamedTuple):
    """One turn of a server: what it was asked, and what that took."""

    outcome: Outcome
    spent: Spent


class Server(msgspec.Struct):
    """One of the servers that are compared, with a load generator of its own, and what its rounds came to."""

    name: str
    process: Process
    generator: Generator
    rounds: list[Round] = []

    @property
    def events(self) -> int:
        """Events of all rounds."""
        return sum(each.outcome.events for each in self.rounds)

    @property
    def spent(self) -> Spent:
        """What all rounds took."""
        return reduce(Spent.plus, [each.spent for each in self.rounds])

    def us(self, name: str) -> float:
        """CPU µs an event of one of the processes, over all rounds."""
        return self.spent.us_per_event(self.events)[name]

    @property
    def process_us(self) -> list[float]:
        """What each round cost its process, an event."""
        return [each.spent.us_per_event(each.outcome.events)["process"] for each in self.rounds]


def measure(bed: Bed, sizes: Sizes) -> Iterator[Row]:
    """The rows of this part."""
    with _servers(bed) as servers:
        for batch in (BATCH, 1):
            _rounds(bed, list(servers.values()), sizes, batch)
            yield from _rows(servers, batch)
        peak = max(memory_mb(servers[name].process.pid)[1] for name in ("strict", "deferred"))
        yield Row("gateway, memory", PART, goals=[Goal("peak RSS", peak, _MB_MAX, "MB")])


@contextmanager
def _servers(bed: Bed) -> Iterator[dict[str, Server]]:
    database = bed.new_database()
    servers: dict[str, Server] = {}
    with ExitStack() as ends:
        stacks = {name: bed.stack(database, name) for name in ("strict", "deferred", "plain", "bare")}
        for name, stack in stacks.items():
            if name in {"strict", "deferred"}:
                process = stack.start_gateway(wait=False, idempotency_check=name)
            else:
                process = bed.start(name, ["-m", f"tests.bench.{name}_gateway"], environment(stack))
            ends.callback(process.stop)
            target = Target("127.0.0.1", stack.port, bed.api_key, first=len(servers) * _NUMBERS_EACH)
            servers[name] = Server(name, process, ends.enter_context(Generator(target)))
        for name, stack in stacks.items():
            wait_until(partial(_ready, stack.port), f"{name} ready")
        bed.checkpoint()
        yield servers


def _ready(port: int) -> bool:
    """Whether a server answers, and does not say that it is not ready; those of the suite's have no such route."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status in {200, 404}
    except OSError:
        return False
    finally:
        connection.close()


def _rounds(bed: Bed, servers: Sequence[Server], sizes: Sizes, batch: int) -> None:
    for server in servers:
        server.rounds = []
        server.generator.carry_out(Order(sizes.warm_s, batch, _CONNECTIONS[batch]))
    for _ in range(sizes.rounds):
        for server in servers:
            meter = bed.meter(process=server.process.pid, load=server.generator.pid)
            outcome = server.generator.carry_out(Order(sizes.round_s, batch, _CONNECTIONS[batch]))
            server.rounds.append(Round(outcome, meter.spent()))


def _rows(servers: dict[str, Server], batch: int) -> Iterator[Row]:
    said = "batches of 100" if batch > 1 else "single events"
    goals = {
        ("strict", BATCH): [("process", 12.0, "process"), ("Postgres", 12.0, "postgres")],
        ("deferred", BATCH): [("process", 9.0, "process")],
        ("strict", 1): [("process", 70.0, "process")],
    }
    names = {
        "strict": f"gateway, {said}, strict",
        "deferred": f"gateway, {said}, deferred",
        "plain": f"baseline: the route done plainly, {said}",
        "bare": f"limit: read and answer only, {said}",
    }
    for name, what in names.items():
        server = servers[name]
        row = _row(server, what)
        row.settings = _settings(name, batch)
        if name in {"strict", "deferred"}:
            row.to_baseline = beside(server.process_us, servers["plain"].process_us)
            row.to_limit = beside(server.process_us, servers["bare"].process_us)
            wanted = goals.get((name, batch), [])
            row.goals += [Goal(f"µs {label}", server.us(key), bound, "µs") for label, bound, key in wanted]
        yield row


def _row(server: Server, what: str) -> Row:
    outcomes = [each.outcome for each in server.rounds]
    failed = sum(outcome.failed for outcome in outcomes)
    return Row(
        what,
        PART,
        goals=[Goal("refused", failed, 0, "events")] if failed else [],
        events_per_s=server.events / server.spent.seconds,
        process_us=server.us("process"),
        postgres_us=server.us("postgres"),
        kafka_us=server.us("kafka"),
        load_us=server.us("load"),
        details={
            "events": server.events,
            "failed": failed,
            "first_failure": next((outcome.wrong for outcome in outcomes if outcome.wrong), ""),
            "process_us": server.process_us,
            "request_p50_ms": [outcome.post.get("p50_ms", 0.0) for outcome in outcomes],
            "request_p99_ms": [outcome.post.get("p99_ms", 0.0) for outcome in outcomes],
        },
    )


def _settings(name: str, batch: int) -> dict[str, str | int]:
    claims = {"strict": "strict", "deferred": "none", "plain": "none", "bare": "none"}[name]
    acks = "no Kafka" if name == "bare" else "all"
    return {"acks": acks, "claims": claims, "batch": batch, "connections": _CONNECTIONS[batch], "processes": 1}
