"""Proof that the verifier can see: with one step of the way broken, the checker says so, each time.

The faults are not left to chance here: each is the one that brings the breach to light.
"""

import signal
import time
from collections.abc import Iterator
from functools import partial

import psycopg
import pytest

from processors import failpoints
from tests.chaos import broken, faults_workers, rounds
from tests.chaos.checker import explain
from tests.chaos.faults import Fault, Field, Hit, ready, wait_for
from tests.chaos.schedule import Deck
from tests.chaos.system import KAFKA_OF_GATEWAYS, System

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

ROW = "every acknowledged event has exactly one row"
ONCE = "each event has its effect once"
LOG = "what is acknowledged is in the log"

_UNIQUE = "alter table headrace.events add constraint events_pkey primary key (id)"
_NOT_UNIQUE = "alter table headrace.events drop constraint if exists events_pkey"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One broker, one gateway, one worker: what is looked for is not a matter of replicas."""
    with System(tmp_path_factory.mktemp("breaches"), brokers=1, gateways=1, workers=1) as started:
        yield started


def _start_over(system: System, *, worker: str | None = None, gateway: str | None = None) -> None:
    """Start gateway and worker again, broken or mended, on empty tables."""
    for role, breach in (("worker", worker), ("gateway", gateway)):
        system.set_breach(role, breach)
        system.signal(f"{role}-0", signal.SIGKILL)
    with psycopg.connect(system.database_url) as connection:
        # A killed worker's transaction may live on for a moment.
        connection.execute("set lock_timeout = '20s'")
        connection.execute("truncate headrace.events, headrace.claims, headrace.retries")
        connection.execute(_NOT_UNIQUE)
        if worker != broken.FORGETFUL:
            connection.execute(_UNIQUE)
    for role in ("worker", "gateway"):
        wait_for(lambda name=f"{role}-0": system.is_ready(name), f"{role} up")  # type: ignore[misc]


def _lose_what_kafka_has_not(field: Field, name: str) -> Hit:
    """Kafka goes deaf, the gateway goes on for a moment, and is killed with what it holds."""
    began = time.monotonic()
    field.system.proxies.set_deaf(KAFKA_OF_GATEWAYS, deaf=True)
    time.sleep(1.5)
    field.system.signal(name, signal.SIGKILL)
    field.system.proxies.set_deaf(KAFKA_OF_GATEWAYS, deaf=False)
    ended = time.monotonic()
    field.flow.until_accepted(field.system.urls, ended)
    ready(field, name)
    return Hit(name, began, ended)


def _at(point: str) -> Fault:
    return faults_workers.FAIL_POINTS[failpoints.NAMES.index(point)]


KILLED_BEFORE_COMMIT = Deck("worker", [_at(failpoints.BEFORE_COMMIT)], ["worker-0"])
KILLED_AFTER_COMMIT = Deck("worker", [_at(failpoints.AFTER_COMMIT)], ["worker-0"])
GATEWAY_LOSES_KAFKA = Deck(
    "gateway", [Fault("gateway loses Kafka and its life", _lose_what_kafka_has_not)], ["gateway-0"]
)

# Only new events: a chunk that is lost or done twice can then be no repeat, whose loss would break another promise.
_run = partial(rounds.run, failing=False, only_new=True)


def _broken_promises(result: rounds.Result) -> set[str]:
    print(explain(result.problems))  # noqa: T201 - for whoever sees this test fail
    return {problem.promise for problem in result.problems}


def test_nothing_broken_is_nothing_said(system: System) -> None:
    """The same faults on the program as it is: what the tests below see is not the faults' doing."""
    _start_over(system)
    result, _ = _run(system, 1, [KILLED_BEFORE_COMMIT], [KILLED_AFTER_COMMIT, GATEWAY_LOSES_KAFKA])
    assert explain(result.problems) == ""
    assert result.records > 200
    assert len(result.outcomes) == 3


def test_acknowledging_before_postgres_commits_is_seen(system: System) -> None:
    _start_over(system, worker=broken.ACKNOWLEDGED_FIRST)
    result, _ = _run(system, 2, [KILLED_BEFORE_COMMIT])
    assert {ROW, ONCE} <= _broken_promises(result)


@pytest.mark.long
def test_forgetting_who_owns_a_key_is_seen(system: System) -> None:
    _start_over(system, worker=broken.FORGETFUL)
    result, _ = _run(system, 3, [KILLED_AFTER_COMMIT])
    assert {ROW, ONCE} <= _broken_promises(result)
    assert any("has 2 rows" in problem.detail for problem in result.problems)


@pytest.mark.long
def test_committing_what_is_fetched_is_seen(system: System) -> None:
    _start_over(system, worker=broken.COMMITS_WHAT_IS_FETCHED)
    result, _ = _run(system, 4, [KILLED_BEFORE_COMMIT])
    assert {ROW, ONCE} <= _broken_promises(result)


@pytest.mark.long
def test_answering_without_acknowledgement_is_seen(system: System) -> None:
    _start_over(system, gateway=broken.WAITS_FOR_NO_ACKS)
    result, _ = _run(system, 5, [GATEWAY_LOSES_KAFKA])
    assert _broken_promises(result) >= {LOG}
