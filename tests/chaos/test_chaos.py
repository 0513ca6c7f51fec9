"""A few minutes of what `make chaos` does for long, with fixed seeds. The limits are for a busy machine."""

from collections.abc import Iterator

import pytest

from tests.chaos import faults_around, faults_workers, rounds, schedule
from tests.chaos.checker import explain
from tests.chaos.schedule import Deck
from tests.chaos.system import System

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(600)]

TAKEOVER_S = 20.0


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Three brokers, two gateways, two workers."""
    with System(tmp_path_factory.mktemp("chaos")) as started:
        yield started


@pytest.mark.long
def test_a_killed_workers_partitions_are_taken_over_within_20_s(system: System) -> None:
    """One fault alone: the worker is not started again before the other one must have its partitions."""
    result, _ = rounds.run(system, 20_001, [Deck("worker", [faults_workers.AWAY], ["worker-0"])], failing=False)
    assert explain(result.problems) == ""
    assert [outcome.fault for outcome in result.outcomes] == [faults_workers.AWAY.name]
    assert result.outcomes[0].recovery_s < TAKEOVER_S


def test_nothing_lost_nothing_twice_whatever_fails(system: System) -> None:
    """Faults of each part at the same time; in the end everything is killed at once."""
    decks = [
        Deck("worker", [faults_workers.ZOMBIE, faults_workers.FAIL_POINTS[1]], ["worker-0"]),
        Deck("other worker", [faults_workers.TABLES[0], faults_workers.FAIL_POINTS[3]], ["worker-1"]),
        Deck("gateways", faults_around.GATEWAYS, ["gateway-0", "gateway-1"]),
        Deck("postgres", [faults_around.DATABASE[0], faults_around.DATABASE[4]], ["postgres-0"]),
        Deck("kafka", [faults_around.KAFKA[2], faults_around.KAFKA[4]], ["kafka"]),
    ]
    last = Deck("all", [faults_around.EVERYTHING], ["all"])
    result, _ = rounds.run(system, 20_002, decks, [last])
    assert explain(result.problems) == ""
    assert len(result.outcomes) == sum(len(deck.faults) for deck in [*decks, last])
    assert result.records > 1_000


def test_each_round_has_every_fault_once() -> None:
    wanted = sorted(schedule.names())
    assert len(wanted) == len(set(wanted)) == 28
    for number in range(4):
        dealt = [fault.name for deck in [*schedule.decks(number), schedule.LAST] for fault in deck.faults]
        assert sorted(set(dealt)) == wanted
        assert len(dealt) == len(wanted) + len(faults_around.GATEWAYS)  # gateways' twice
