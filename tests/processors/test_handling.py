"""Handlers that misbehave: what becomes of their events, and that nobody else's suffer."""

import asyncio
import time
import uuid
from typing import Any

import pytest

from processors.handling import HandlersError, describe, load_handlers
from tests import handlers_for_tests
from tests.processors.lab import ACT, LEDGER, WATCHING, Partition, bench, ledger_of, rows, statuses_of

pytestmark = pytest.mark.anyio

BOTH = f"{LEDGER},{ACT}"
GOOD: dict[str, Any] = {}

FAULTS = {
    "raise": "ValueError: told to raise",
    "error": "ValueError: returned as an error",
    "too_few": "HandlersError: handler act returned 0 results for 1 events",
    "too_many": "HandlersError: handler act returned 2 results for 1 events",
    "number": "HandlersError: handler act returned int, not a list with one result per event",
    "letters": "HandlersError: handler act returned str, not a list with one result per event",
    "object": "TypeError: Encoding objects of type object is unsupported",
    "surrogate": "UnicodeEncodeError: ",
    "nul": "ValueError: a handler's result contains a NUL character, which cannot be stored",
    "no_json": "InvalidTextRepresentation: ",
    "no_number": "NumericValueOutOfRange: ",
    "nested": "RecursionError: ",
    "swallow": "HandlersError: a handler caught an error of its SQL",
    "late": "UniqueViolation: ",
    "too_long": "ProgramLimitExceeded: ",
    "cancelled": "CancelledError",
    "exit": "SystemExit: 3",
    "unspeakable": "Unspeakable",
}
SQL_FAULTS = {
    "select 1 / 0": "DivisionByZero: ",
    "insert into tests.words values (null)": "NotNullViolation: ",
    "insert into tests.words values ('a'), ('a')": "UniqueViolation: ",
    "select nothing from nowhere": "UndefinedTable: ",
    "select 'x'::int": "InvalidTextRepresentation: ",
    "commit": "TransactionEndedError: ",
    "rollback": "TransactionEndedError: ",
}


@pytest.mark.parametrize(
    ("data", "message"),
    [({"do": do}, message) for do, message in FAULTS.items()]
    + [({"do": "sql", "sql": sql}, message) for sql, message in SQL_FAULTS.items()],
    ids=[*FAULTS, *SQL_FAULTS],
)
async def test_an_event_that_fails_is_tried_again_and_costs_nobody_else(
    tables: str, program_id: str, data: dict[str, Any], message: str
) -> None:
    partition = Partition()
    ids = partition.put_events(program_id, [GOOD, GOOD, data, GOOD, GOOD])
    async with bench(tables, BOTH) as lab:
        await asyncio.wait_for(lab.process(partition), 20)
    good = [id_ for at, id_ in enumerate(ids) if at != 2]
    assert statuses_of(tables, program_id) == dict.fromkeys(good, "COMPLETED") | {ids[2]: "PROCESSING"}
    # A handler that ends the transaction itself makes what came before it stand: that is its own doing.
    if data.get("sql") != "commit":
        assert ledger_of(tables, program_id) == good
    ((code, found, attempts, processed_at),) = rows(
        tables, "select error_code, error_message, attempts, processed_at from headrace.events where id = %s", ids[2]
    )
    assert (code, attempts, processed_at) == ("handler_failed", 1, None)
    assert found.startswith(message)
    ((attempt, delay_s),) = rows(
        tables, "select attempt, extract(epoch from not_before - now()) from headrace.retries where id = %s", ids[2]
    )
    assert attempt == 2
    assert 0 < delay_s <= 2
    assert [status["id"] for status in lab.producer.statuses()] == [str(id_) for id_ in good]
    assert lab.producer.letters() == []


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        ({"do": "reject"}, "not_wanted", "told to reject"),
        ({"do": "raise_reject"}, "not_wanted", "told to reject"),
        ({"do": "reject", "text": ""}, "not_wanted", ""),
        ({"do": "odd_reject"}, "404", "a\\0b"),
    ],
)
async def test_a_rejected_event_fails_at_once_with_its_code(
    tables: str, program_id: str, data: dict[str, Any], code: str, message: str
) -> None:
    partition = Partition()
    ids = partition.put_events(program_id, [GOOD, data, GOOD])
    async with bench(tables, f"{BOTH},{WATCHING}") as lab:
        await lab.process(partition)
    assert statuses_of(tables, program_id) == {ids[0]: "COMPLETED", ids[1]: "FAILED", ids[2]: "COMPLETED"}
    assert ledger_of(tables, program_id) == [ids[0], ids[2]]
    assert rows(
        tables,
        "select error_code, error_message, attempts, processed_at is not null from headrace.events where id = %s",
        ids[1],
    ) == [(code, message, 1, True)]
    assert rows(tables, "select attempt from headrace.retries where id = %s", ids[1]) == []
    told = {status["id"]: (status["status"], status["error_code"]) for status in lab.producer.statuses()}
    assert told[str(ids[1])] == ("FAILED", code)
    (letter,) = lab.producer.letters()
    assert (letter.key, letter.value) == (program_id.encode(), partition.log[1].value)
    assert dict(letter.headers)["code"] == code.encode()
    assert rows(
        tables,
        "select code, reason, event_id, kafka_offset from headrace.dead_letters where program_id = %s",
        program_id,
    ) == [(code, message, ids[1], 1)]
    assert dict(rows(tables, "select event_id, status from tests.finished where event_id = any(%s)", ids)) == {
        ids[0]: "COMPLETED",
        ids[1]: "FAILED",
        ids[2]: "COMPLETED",
    }


async def test_results_are_kept_by_handler(tables: str, program_id: str) -> None:
    values = [{"a": 1}, [], "", 0, False, "\\u0000", 10**30]
    partition = Partition()
    ids = partition.put_events(program_id, [{"do": "return", "value": value} for value in values])
    async with bench(tables, BOTH) as lab:
        await lab.process(partition)
    found = dict(rows(tables, "select id, result from headrace.events where program_id = %s", program_id))
    assert [found[id_] for id_ in ids] == [{"act": value} for value in values]


async def test_a_bad_event_does_not_cost_a_chunk_of_2000_its_speed(tables: str, program_id: str) -> None:
    async def took(datas: list[dict[str, Any]], program: str) -> float:
        partition = Partition()
        partition.put_events(program, datas)
        handlers_for_tests.calls.clear()
        started = time.perf_counter()
        await lab.process(partition)
        return time.perf_counter() - started

    async with bench(tables, BOTH) as lab:
        await took([GOOD], str(uuid.uuid4()))
        clean_s = min([await took([GOOD] * 2_000, str(uuid.uuid4())) for _ in range(3)])
        raised_s = await took([GOOD] * 1_234 + [{"do": "raise"}] + [GOOD] * 765, program_id)
        raised = list(handlers_for_tests.calls)
        returned_s = await took([GOOD] * 1_234 + [{"do": "error"}] + [GOOD] * 765, other := str(uuid.uuid4()))
        returned = list(handlers_for_tests.calls)
    for program in (program_id, other):
        assert len(ledger_of(tables, program)) == len(set(ledger_of(tables, program))) == 1_999
        assert sorted(statuses_of(tables, program).values())[:1_999] == ["COMPLETED"] * 1_999
    assert returned == [2_000, 1_999]
    assert len(raised) <= 2 * 11 + 1
    assert sum(raised) <= 3 * 2_000
    # Generous: other processes share these cores.
    assert raised_s < 4 * clean_s + 1.5
    assert returned_s < 3 * clean_s + 1.5


@pytest.mark.parametrize("data", [{"do": "hang"}, {"do": "sql", "sql": "select pg_sleep(3600)"}])
async def test_a_hanging_event_is_found_within_a_few_limits(tables: str, program_id: str, data: dict[str, Any]) -> None:
    partition = Partition()
    ids = partition.put_events(program_id, [GOOD] * 7 + [data] + [GOOD] * 8)
    async with bench(tables, BOTH, handler_timeout_s=1.0) as lab:
        started = time.perf_counter()
        await lab.process(partition)
        took_s = time.perf_counter() - started
    good = [id_ for at, id_ in enumerate(ids) if at != 7]
    assert ledger_of(tables, program_id) == good
    assert statuses_of(tables, program_id) == dict.fromkeys(good, "COMPLETED") | {ids[7]: "PROCESSING"}
    assert rows(tables, "select error_message from headrace.events where id = %s", ids[7]) == [("TimeoutError",)]
    assert took_s < 8
    assert lab.beats > 0


async def test_events_that_all_hang_hold_their_partition_for_a_bounded_time(tables: str, program_id: str) -> None:
    partition = Partition()
    partition.put_events(program_id, [{"do": "hang"}] * 400)
    async with bench(tables, BOTH, handler_timeout_s=0.3) as lab:
        started = time.perf_counter()
        await lab.process(partition)
        assert time.perf_counter() - started < 3
    assert list(statuses_of(tables, program_id).values()) == ["PROCESSING"] * 400
    assert ledger_of(tables, program_id) == []


@pytest.mark.parametrize("raised", [True, False])
async def test_a_transient_fault_in_a_handler_is_waited_out(tables: str, program_id: str, *, raised: bool) -> None:
    handlers_for_tests.met.clear()
    partition = Partition()
    ids = partition.put_events(program_id, [GOOD, {"do": "transient", "times": 3, "raised": raised}, GOOD])
    async with bench(tables, BOTH) as lab:
        await asyncio.wait_for(lab.process(partition), 20)
    assert statuses_of(tables, program_id) == dict.fromkeys(ids, "COMPLETED")
    assert ledger_of(tables, program_id) == ids
    assert handlers_for_tests.met["transient"] == 4
    assert lab.beats >= 3
    assert rows(tables, "select max(attempts) from headrace.events where program_id = %s", program_id) == [(1,)]


@pytest.mark.parametrize("finish", ["raise", "sql"])
async def test_a_hook_that_fails_at_one_finished_event_is_shown_the_others(
    tables: str, program_id: str, finish: str
) -> None:
    partition = Partition()
    ids = partition.put_events(program_id, [GOOD, {"finish": finish}, GOOD, GOOD])
    async with bench(tables, f"{LEDGER},{WATCHING}") as lab:
        await asyncio.wait_for(lab.process(partition), 20)
    assert statuses_of(tables, program_id) == dict.fromkeys(ids, "COMPLETED")
    seen = rows(tables, "select event_id from tests.finished where event_id = any(%s)", ids)
    assert sorted(seen) == sorted((id_,) for id_ in ids if id_ != ids[1])


async def test_a_request_to_stop_is_not_taken_for_a_failure(tables: str, program_id: str) -> None:
    partition = Partition()
    partition.put_events(program_id, [GOOD, {"do": "hang"}])
    async with bench(tables, BOTH) as lab:
        working = asyncio.ensure_future(lab.process(partition))
        await asyncio.sleep(0.3)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
    assert statuses_of(tables, program_id) == {}
    assert ledger_of(tables, program_id) == []


@pytest.mark.parametrize(
    "setting", ["nowhere:x", "tests.handlers_for_tests:none", "tests.handlers_for_tests:GOOD", "json:dumps", "x"]
)
def test_a_setting_that_names_no_handler_is_refused(setting: str) -> None:
    with pytest.raises(HandlersError, match="handler"):
        load_handlers(setting)


def test_a_handler_that_is_not_async_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sync:
        def handle(self, jobs: object, connection: object) -> None: ...

    monkeypatch.setattr(handlers_for_tests, "sync", Sync(), raising=False)
    with pytest.raises(HandlersError, match="neither"):
        load_handlers("tests.handlers_for_tests:sync")


def test_exceptions_are_described_storably_and_shortly() -> None:
    assert describe(ValueError("a\0b\ud800")) == "ValueError: a\\0b?"
    assert len(describe(ValueError("x" * 10_000))) == 1_000
    assert describe(handlers_for_tests.Unspeakable()) == "Unspeakable"
