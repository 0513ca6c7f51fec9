"""Which faults strike when: decks, shuffled from the seed, each dealt by a lane of its own beside the others.

A lane strikes one part of the system, waits until events flow again, and goes on. Each deck is dealt to its end in
every round, so that every fault strikes in every round.
"""

import random
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import psycopg

from tests.chaos import faults, faults_around, faults_workers
from tests.chaos.faults import Fault, Field, Outcome
from tests.chaos.flow import Flow, NoFlowError
from tests.chaos.journal import Journal
from tests.chaos.kafka_view import KafkaError
from tests.chaos.system import System

FLOW_LIMIT_S = 120.0


class Deck(NamedTuple):
    """A lane's faults and whom they may strike."""

    lane: str
    faults: Sequence[Fault]
    targets: Sequence[str]


_ONE_WORKER = [
    faults_workers.SIGKILL,
    faults_workers.ZOMBIE,
    faults_workers.DISK_FULL,
    faults_workers.FAIL_POINTS[0],
    faults_workers.FAIL_POINTS[2],
    faults_workers.TABLES[0],
    faults_workers.TABLES[2],
]
_OTHER_WORKER = [
    faults_workers.SIGTERM,
    faults_workers.AWAY,
    faults_workers.FAIL_POINTS[1],
    faults_workers.FAIL_POINTS[3],
    faults_workers.FAIL_POINTS[4],
    faults_workers.TABLES[1],
]
LAST = Deck("all", [faults_workers.BOTH, faults_around.EVERYTHING], ["all"])
"""What strikes so widely that it comes alone, when all lanes are done."""


def decks(number: int) -> list[Deck]:
    """The lanes of round `number`; the two workers change roles from round to round."""
    one, other = ("worker-0", "worker-1") if number % 2 == 0 else ("worker-1", "worker-0")
    gateways = ["gateway-0", "gateway-1"]
    return [
        Deck("worker", _ONE_WORKER, [one]),
        Deck("other worker", _OTHER_WORKER, [other]),
        Deck("gateways", [*faults_around.GATEWAYS, *faults_around.GATEWAYS], gateways),
        Deck("postgres", faults_around.DATABASE, ["postgres-0"]),
        Deck("kafka", faults_around.KAFKA, ["kafka"]),
    ]


def names() -> list[str]:
    """Every fault that a whole round has."""
    return list(dict.fromkeys(fault.name for deck in [*decks(0), LAST] for fault in deck.faults))


class Lane(threading.Thread):
    """Deals one deck, in an order from the seed. `error` is what it could not go on after."""

    def __init__(self, deck: Deck, system: System, journal: Journal, seed: int) -> None:
        super().__init__(name=f"lane-{deck.lane}", daemon=True)
        self.outcomes: list[Outcome] = []
        self.error: str | None = None
        self.stopping = threading.Event()
        self._deck = deck
        rng = random.Random(f"{seed} {deck.lane}")  # noqa: S311 - repeatable, not secret
        self._field = Field(system, Flow(system.database_url, journal, FLOW_LIMIT_S), journal, rng)

    def run(self) -> None:
        """Deal."""
        rng, dealt = self._field.rng, list(self._deck.faults)
        rng.shuffle(dealt)
        try:
            for fault in dealt:
                self.stopping.wait(rng.uniform(0.2, 2.0))
                if self.stopping.is_set():
                    return
                self.outcomes.append(faults.run(fault, self._field, rng.choice(self._deck.targets)))
                _tell(self.outcomes[-1])
        except (NoFlowError, KafkaError, psycopg.Error, TimeoutError, OSError) as error:
            self.error = f"after {fault.name}: {type(error).__name__}: {error}"
        finally:
            self._field.flow.close()


def _tell(outcome: Outcome) -> None:
    clock = time.strftime("%H:%M:%S", time.localtime(outcome.began_at))
    print(f"  {clock} {outcome.fault:40} {outcome.target:18} {outcome.recovery_s:6.1f} s", flush=True)  # noqa: T201 - what the operator watches
