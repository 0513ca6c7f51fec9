"""The whole pipeline: one gateway, one worker, Kafka, Postgres and the load generator on the machine's cores together.

Load is open: requests go out at their moments whatever the answers do, and times count from those moments. COMPLETED
is when the event's status record, which is written after the commit, reaches the load generator.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.bench.bed import Bed
from tests.bench.cpu import Spent, memory_mb
from tests.bench.generator import Generator
from tests.bench.load import Order, Outcome, Target
from tests.bench.report import Goal, Row
from tests.bench.sizes import Sizes
from tests.stack import Stack

PART = "pipeline"
_BATCH = 100
_CONNECTIONS = 128
_WARM_RATE = 2_000.0
_LATENCY_RATE = 1_000.0
_COMPLETED_P99_MS = 1_000.0
_DRAIN_S = 3.0
_CLEAR_S = 60.0  # for the backlog that a rate too high leaves
_SLOWER = 0.85  # than the best step, and than a try that could not be held
_TRIES = 3
_MB_MAX = 150.0


class Pipeline(NamedTuple):
    """The running processes."""

    bed: Bed
    stack: Stack
    generator: Generator

    def carry_out(self, order: Order) -> tuple[Outcome, Spent]:
        """Carry out an order; what came of it, and what it took."""
        pids = {name: process.pid for name, process in self.stack.processes.items()}
        meter = self.bed.meter(load=self.generator.pid, gateway=pids["gateway-0"], worker=pids["worker-0"])
        return self.generator.carry_out(order), meter.spent()


def measure(bed: Bed, sizes: Sizes) -> Iterator[Row]:
    """The rows of this part."""
    bed.new_topics()
    database = bed.new_database()
    stack = bed.stack(database, "pipeline")
    try:
        stack.start_worker()
        gateway = stack.start_gateway()
        target = Target("127.0.0.1", stack.port, bed.api_key, first=0, kafka=bed.kafka)
        with Generator(target) as generator:
            pipeline = Pipeline(bed, stack, generator)
            generator.carry_out(_order(_WARM_RATE, sizes.step_s, _BATCH))
            bed.checkpoint()
            _clear(pipeline)
            for batch in (10, 1):
                yield _latency(pipeline, sizes, batch)
            yield _sustained(pipeline, sizes)
        peak = {name: memory_mb(process.pid)[1] for name, process in stack.processes.items()}
        yield Row(
            "whole pipeline, memory",
            PART,
            goals=[Goal("gateway's peak RSS", memory_mb(gateway.pid)[1], _MB_MAX, "MB")],
            details={"peak_mb": peak},
        )
    finally:
        stack.stop()


def _order(rate: float, seconds: float, batch: int, drain_s: float = _DRAIN_S) -> Order:
    return Order(seconds, batch, _CONNECTIONS, rate, drain_s)


def _latency(pipeline: Pipeline, sizes: Sizes, batch: int) -> Row:
    outcome, spent = pipeline.carry_out(_order(_LATENCY_RATE, sizes.latency_s, batch, _CLEAR_S))
    said = "single events" if batch == 1 else f"batches of {batch}"
    row = _row(f"latency at 1,000 events/s, {said}", outcome, spent, batch)
    never_ms = _CLEAR_S * 1000
    row.goals = [
        Goal("POST p99", outcome.post.get("p99_ms", never_ms), 15, "ms"),
        Goal("COMPLETED p50", outcome.completed.get("p50_ms", never_ms), 25, "ms"),
        Goal("p99", outcome.completed.get("p99_ms", never_ms), 100, "ms"),
    ]
    if outcome.failed or outcome.incomplete:
        row.goals.append(Goal("refused or not completed", outcome.failed + outcome.incomplete, 0, "events"))
    return row


def _sustained(pipeline: Pipeline, sizes: Sizes) -> Row:
    """The highest rate that can be held: steps upwards, then for long, from a little below the best of them.

    That itself was never held for a minute, and a try takes one.
    """
    steps = {}
    best = sizes.step_rates[0]
    for rate in sizes.step_rates:
        outcome, _ = pipeline.carry_out(_order(rate, sizes.step_s, _BATCH))
        steps[f"{rate:.0f}/s"] = _completed(outcome)
        if not _held(outcome):
            break
        best = rate
    held: dict[str, dict[str, float]] = {}
    for _ in range(_TRIES):
        _clear(pipeline)
        best *= _SLOWER
        outcome, spent = pipeline.carry_out(_order(best, sizes.hold_s, _BATCH))
        held[f"{best:.0f}/s"] = _completed(outcome)
        if _held(outcome):
            break
    row = _row("whole pipeline, highest rate held", outcome, spent, _BATCH)
    row.goals = [Goal("events/s", best if _held(outcome) else 0.0, 20_000, "per s", at_least=True)]
    row.details |= {"steps": steps, "held": held, "held_s": sizes.hold_s}
    return row


def _held(outcome: Outcome) -> bool:
    p99_ms = outcome.completed.get("p99_ms", _COMPLETED_P99_MS)
    return not outcome.failed and not outcome.incomplete and p99_ms < _COMPLETED_P99_MS


def _clear(pipeline: Pipeline) -> None:
    """Let the pipeline come to rest: what a last, small order sends is completed after all that came before."""
    pipeline.carry_out(_order(_BATCH * 10, 1.0, _BATCH, _CLEAR_S))


def _completed(outcome: Outcome) -> dict[str, float]:
    return outcome.completed | {"failed": outcome.failed, "incomplete": outcome.incomplete}


def _row(what: str, outcome: Outcome, spent: Spent, batch: int) -> Row:
    cost = spent.us_per_event(outcome.events)
    return Row(
        what,
        PART,
        events_per_s=outcome.events / outcome.seconds,
        process_us=cost["gateway"] + cost["worker"],
        postgres_us=cost["postgres"],
        kafka_us=cost["kafka"],
        load_us=cost["load"],
        settings={"acks": "all", "claims": "strict", "batch": batch, "gateways": 1, "workers": 1},
        details={
            "gateway_us": cost["gateway"],
            "worker_us": cost["worker"],
            "post": outcome.post,
            "completed": outcome.completed,
            "failed": outcome.failed,
            "incomplete": outcome.incomplete,
            "first_failure": outcome.wrong,
        },
    )
