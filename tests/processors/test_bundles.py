"""Chunks of several partitions in one transaction: whatever the cuts, replays and keys that stand in two of them."""

import asyncio
import random
import uuid
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors import store
from processors.ports import Part
from schemas import topics
from tests.processors.lab import (
    ACT,
    LEDGER,
    Bench,
    Partition,
    bench,
    ledger_of,
    payload,
    record,
    rows,
    statuses_of,
)

BOTH = f"{LEDGER},{ACT}"
KEYS = 6
BAD = -1
PAYLOADS: list[dict[str, object]] = [{"n": 0}, {"n": 1}, {"n": 2, "do": "reject"}, {"n": 3, "do": "late"}]
STATUSES = ["COMPLETED", "COMPLETED", "FAILED", "PROCESSING"]

logs = st.lists(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, KEYS - 1), st.sampled_from([0, 0, 1, 1, 2])),
            st.tuples(st.integers(0, KEYS - 1), st.integers(0, 3)),
            st.just((BAD, 0)),
        ),
        max_size=12,
    ),
    min_size=2,
    max_size=4,
)


class Cut(NamedTuple):
    """A chunk: of which partition, from where to where."""

    at: int
    start: int
    end: int


def bundles(lengths: Sequence[int], rng: random.Random) -> list[list[Cut]]:
    """Bundles as workers may read them that crash before they acknowledge: each after what it acknowledged."""
    read: list[list[Cut]] = []
    done = [0] * len(lengths)
    while done != list(lengths):
        position = list(done)
        while position != list(lengths):
            bundle = [
                Cut(at, position[at], min(end, position[at] + rng.randint(1, 6)))
                for at, end in enumerate(lengths)
                if position[at] < end and rng.random() < 0.8
            ]
            rng.shuffle(bundle)
            read.append(bundle)
            for cut in bundle:
                position[cut.at] = cut.end
            if rng.random() < 0.3:
                break
            if rng.random() < 0.7:
                done = list(position)
        else:
            done = position
    return read


class Told(NamedTuple):
    """What becomes of a key."""

    payload: int
    partition: int
    offset: int
    duplicates: int
    conflicts: int
    status: str


class World:
    """Partitions of one topic, filled; `shared`: keys stand in several, as with clients that partition otherwise."""

    def __init__(self, log: Sequence[Sequence[tuple[int, int]]], *, shared: bool) -> None:
        self.program = str(uuid.uuid4())
        self.log = log
        self.shared = shared
        self.partitions = [Partition() for _ in log]
        for at, (partition, entries) in enumerate(zip(self.partitions, log, strict=True)):
            partition.topic = self.partitions[0].topic
            for key, number in entries:
                value = b"no event" if key == BAD else payload(self.program, self.key(at, key), PAYLOADS[number])
                partition.put(value, self.program.encode())

    def key(self, at: int, key: int) -> str:
        return f"k{key}" if self.shared else f"k{key} of {at}"

    def model(self, read: Sequence[Sequence[Cut]]) -> dict[str, Told]:
        """Every record once, in the order in which it was first read."""
        told: dict[str, Told] = {}
        seen = set()
        for at, start, end in (cut for bundle in read for cut in bundle):
            for offset in range(start, end):
                key, number = self.log[at][offset]
                if key == BAD or (at, offset) in seen:
                    continue
                seen.add((at, offset))
                name = self.key(at, key)
                first = told.get(name)
                if first is None:
                    told[name] = Told(number, self.partitions[at].number, offset, 0, 0, STATUSES[number])
                elif first.payload == number:
                    told[name] = first._replace(duplicates=first.duplicates + 1)
                else:
                    told[name] = first._replace(conflicts=first.conflicts + 1)
        return told

    def check(self, database_url: str, read: Sequence[Sequence[Cut]], lab: Bench) -> None:
        model = self.model(read)
        found = rows(
            database_url,
            """select idempotency_key, (event_data->>'n')::int, kafka_partition, kafka_offset, duplicate_count,
                      jsonb_array_length(coalesce(conflicts, '[]')), status::text
               from headrace.events where program_id = %s""",
            self.program,
        )
        assert {key: Told(*rest) for key, *rest in found} == model
        names = {uuid.uuid5(uuid.UUID(self.program), key): key for key in model}
        effects = [names[id_] for id_ in ledger_of(database_url, self.program)]
        completed = [key for key, told in model.items() if told.status == "COMPLETED"]
        if self.shared:
            assert sorted(effects) == sorted(completed), "each effect once"
        else:
            assert effects == completed, "each effect once, in log order"
        letters = "select code, count(*) from headrace.dead_letters where topic = %s group by code"
        bad = sum(key == BAD for entries in self.log for key, _ in entries)
        expected = {
            "unreadable_record": bad,
            "idempotency_conflict": sum(told.conflicts for told in model.values()),
            "not_wanted": sum(told.status == "FAILED" for told in model.values()),
        }
        assert dict(rows(database_url, letters, self.partitions[0].topic)) == {k: n for k, n in expected.items() if n}
        progress = "select kafka_partition, next_offset from headrace.progress where topic = %s"
        assert dict(rows(database_url, progress, self.partitions[0].topic)) == {
            partition.number: len(partition.log) for partition in self.partitions if partition.log
        }
        told_final = {(status["id"], status["status"]) for status in lab.producer.statuses()}
        assert told_final == {
            (str(uuid.uuid5(uuid.UUID(self.program), key)), told.status)
            for key, told in model.items()
            if told.status != "PROCESSING"
        }


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("lost", [0.0, 0.5])
def test_bundles_equal_the_log_read_once(tables: str, lost: float, *, shared: bool) -> None:
    async def process(world: World, read: Sequence[Sequence[Cut]], rng: random.Random) -> None:
        async with bench(tables, BOTH) as lab:
            for bundle in read:
                await lab.process_bundle(*(world.partitions[at].part(start, end) for at, start, end in bundle))
                lab.table = {key: value for key, value in lab.table.items() if rng.random() >= lost}
            await asyncio.to_thread(world.check, tables, read, lab)

    @given(logs, st.integers(0, 2**32))
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    def run(log: list[list[tuple[int, int]]], seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
        asyncio.run(process(World(log, shared=shared), bundles([len(entries) for entries in log], rng), rng))

    run()


@pytest.mark.anyio
async def test_a_bundle_is_one_transaction(tables: str) -> None:
    """All rows are written by the same one, and created one after the other."""
    world = World([[(0, 0), (1, 0)], [(2, 0)], [(3, 1), (3, 1)]], shared=False)
    async with bench(tables, BOTH) as lab:
        await lab.process_bundle(*(partition.part() for partition in world.partitions))
    query = """
        select count(distinct xmin::text), count(*), count(distinct created_at), max(created_at) = max(updated_at)
        from headrace.events where program_id = %s
    """
    assert rows(tables, query, world.program) == [(1, 4, 4, True)]


@pytest.mark.anyio
async def test_one_bad_event_costs_the_other_partitions_nothing(tables: str, program_id: str) -> None:
    one, two = Partition(), Partition()
    good = one.put_events(program_id, [{}] * 40)
    other = str(uuid.uuid4())
    bad = two.put_events(other, [{}, {"do": "late"}, {}])
    async with bench(tables, BOTH) as lab:
        await lab.process_bundle(one.part(), two.part())
    assert statuses_of(tables, program_id) == dict.fromkeys(good, "COMPLETED")
    assert statuses_of(tables, other) == dict(zip(bad, ["COMPLETED", "PROCESSING", "COMPLETED"], strict=True))
    assert ledger_of(tables, program_id) == good
    assert ledger_of(tables, other) == [bad[0], bad[2]]


@pytest.mark.anyio
async def test_retries_of_several_partitions_go_together_with_new_events(tables: str, program_id: str) -> None:
    partitions = [Partition(), Partition()]
    events = [
        partition.put_events(program_id, [{"do": "until", "attempt": 2, "at": at}])
        for at, partition in enumerate(partitions)
    ]
    partitions[1].log[0] = record(
        payload(program_id, "other", {"do": "until", "attempt": 2}),
        program_id.encode(),
        0,
        partition=partitions[1].number,
        topic=partitions[1].topic,
    )
    ids = [events[0][0], uuid.uuid5(uuid.UUID(program_id), "other")]
    fresh = Partition()
    new = fresh.put_events(program_id, [{}, {}])
    again = [
        Part(
            topics.RETRY,
            partition.number,
            [
                record(
                    partition.log[0].value,
                    program_id.encode(),
                    0,
                    partition=partition.number,
                    topic=topics.RETRY,
                    headers=[("attempt", b"2")],
                )
            ],
            1,
        )
        for partition in partitions
    ]
    async with bench(tables, BOTH) as lab:
        await lab.process_bundle(*(partition.part() for partition in partitions))
        assert set(statuses_of(tables, program_id).values()) == {"PROCESSING"}
        for _ in range(2):
            await lab.process_bundle(again[0], fresh.part(), again[1])
    assert statuses_of(tables, program_id) == dict.fromkeys([*ids, new[1]], "COMPLETED") | {new[0]: "COMPLETED"}
    assert sorted(ledger_of(tables, program_id)) == sorted({*ids, *new})


@pytest.mark.anyio
async def test_a_chunk_of_markers_only_is_progress(tables: str) -> None:
    """A partition that ends in a transaction's marker has no lag."""
    partition = Partition()
    partition.put(b"no event", None)
    query = "select next_offset, record_at is not null from headrace.progress where topic = %s"
    async with bench(tables, BOTH) as lab:
        await lab.process_bundle(partition.part())
        await lab.process_bundle(Part(partition.topic, partition.number, [], 2))
    assert rows(tables, query, partition.topic) == [(2, True)]


def test_parts_say_no_more_than_they_have_done() -> None:
    """By halves, progress is that of each partition's last event in the half."""
    places = [("events", 1), ("events", 1), ("events", 2)]
    records = [record(b"", None, at, partition=number, topic=topic) for at, (topic, number) in enumerate(places)]
    assert [one[:3] for one in store.progress_up_to(records)] == [("events", 1, 2), ("events", 2, 3)]
    assert store.progress_up_to([]) == []
