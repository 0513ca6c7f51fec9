"""One round: load and faults from one seed on a running system, then the checker's verdict."""

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import psycopg

from tests.chaos import evidence, money
from tests.chaos.checker import Problem, check
from tests.chaos.evidence import Evidence, Marks
from tests.chaos.faults import Outcome
from tests.chaos.http_sender import HttpSender
from tests.chaos.journal import Journal
from tests.chaos.kafka_view import KafkaError, KafkaView
from tests.chaos.publisher import Publisher
from tests.chaos.schedule import Deck, Lane
from tests.chaos.system import GROUP, PARTITIONS, System

SENDERS = 4
PUBLISHERS = 1
_PROGRAMS_EACH = 2
_WARM_S = 2.0
_ANSWERS_S = 60.0
_DRAIN_S = 150.0
_LANE_S = 900.0


class Result(NamedTuple):
    """What a round came to."""

    seed: int
    problems: list[Problem]
    outcomes: list[Outcome]
    records: int
    answers: int


class Target(Protocol):
    """What is sent to, and looked at in the end."""

    kafka: KafkaView
    api_key: str

    @property
    def bootstrap(self) -> str:
        """Where services publish."""
        ...

    @property
    def database_url(self) -> str:
        """Postgres."""
        ...

    @property
    def urls(self) -> list[str]:
        """The gateways."""
        ...


class Load:
    """The senders of a round."""

    def __init__(
        self, system: Target, journal: Journal, seed: int, *, failing: bool = True, only_new: bool = False
    ) -> None:
        """`failing`: a few events fail at first, or for good. `only_new`: nothing repeats, all can be read."""
        self.programs: list[str] = []
        self._senders: list[HttpSender | Publisher] = []
        for number in range(SENDERS + PUBLISHERS):
            own = seed * 1_000 + number
            programs = money.spread_programs(own, PARTITIONS, _PROGRAMS_EACH)
            self.programs += programs
            door = "http" if number < SENDERS else "kafka"
            traffic = money.Money(
                own, programs, "http" if number < SENDERS else "kafka", failing=failing, only_new=only_new
            )
            self._senders.append(
                HttpSender(number, system.urls, system.api_key, journal, traffic)
                if door == "http"
                else Publisher(own, system.bootstrap, journal, traffic)
            )

    def start(self) -> None:
        """Begin to send."""
        for sender in self._senders:
            sender.start()

    def stop(self) -> None:
        """Send no more; what is not answered within a bound stays unanswered."""
        for sender in self._senders:
            sender.stopping.set()
        deadline = time.monotonic() + _ANSWERS_S
        for sender in self._senders:
            sender.join(max(0.0, deadline - time.monotonic()))
            if isinstance(sender, HttpSender):
                sender.abandoned.set()
        for sender in self._senders:
            sender.join(_ANSWERS_S)
            assert not sender.is_alive(), f"{sender.name} does not end"


def run(
    system: System,
    seed: int,
    decks: Sequence[Deck],
    last: Sequence[Deck] = (),
    *,
    failing: bool = True,
    only_new: bool = False,
) -> tuple[Result, Journal]:
    """Send, strike, wait until all is processed, check."""
    journal = Journal()
    before = evidence.marks(system.kafka, system.database_url)
    load = Load(system, journal, seed, failing=failing, only_new=only_new)
    load.start()
    time.sleep(_WARM_S)
    outcomes, problems = _strike(system, journal, seed, decks)
    for deck in last:
        if not problems:
            more, problems = _strike(system, journal, seed, [deck])
            outcomes += more
    load.stop()
    return verdict(system, journal, load.programs, before, Result(seed, problems, outcomes, 0, 0)), journal


def verdict(system: Target, journal: Journal, programs: Sequence[str], before: Marks, result: Result) -> Result:
    """Wait until all is processed, and check; `result` with what that adds to it."""
    drained, found = _drain(system, programs, before)
    late = [] if drained else [Problem("all is processed in the end", f"not within {_DRAIN_S:.0f} s")]
    problems = [*result.problems, *late, *check(journal, found)]
    return result._replace(problems=problems, records=len(found.records), answers=len(journal.answers))


def _strike(system: System, journal: Journal, seed: int, decks: Sequence[Deck]) -> tuple[list[Outcome], list[Problem]]:
    lanes = [Lane(deck, system, journal, seed) for deck in decks]
    for lane in lanes:
        lane.start()
    deadline = time.monotonic() + _LANE_S
    while any(lane.is_alive() for lane in lanes):
        if any(lane.error for lane in lanes) or time.monotonic() > deadline:
            for lane in lanes:
                lane.stopping.set()
        time.sleep(0.1)
    outcomes = [outcome for lane in lanes for outcome in lane.outcomes]
    return outcomes, [Problem("events flow again", lane.error) for lane in lanes if lane.error]


def _drain(system: Target, programs: Sequence[str], before: Marks) -> tuple[bool, Evidence]:
    """Wait until nothing is left to be done, for a bounded time, then gather what there is."""
    deadline = time.monotonic() + _DRAIN_S
    while not (drained := _is_drained(system)) and time.monotonic() < deadline:
        time.sleep(0.3)
    return drained, evidence.gather(system.kafka, system.database_url, GROUP, programs, before)


def _is_drained(system: Target) -> bool:
    try:
        behind = [at for at in evidence.positions(system.kafka, system.database_url, GROUP) if at.committed < at.end]
        with psycopg.connect(system.database_url, connect_timeout=5) as connection:
            row = connection.execute(
                """select (select count(*) from headrace.events where status not in ('COMPLETED', 'FAILED'))
                        + (select count(*) from headrace.retries)"""
            ).fetchone()
    except (psycopg.Error, KafkaError, TimeoutError):
        return False
    return not behind and row == (0,)
