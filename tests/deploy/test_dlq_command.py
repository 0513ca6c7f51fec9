"""`headrace dlq`: letters listed, shown and replayed, on the real Kafka, Postgres and worker."""

import asyncio
import json
import uuid
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deploy.cli import cli
from deploy.dead_letters import Filter
from deploy.replay import Replay, Wanted
from schemas.settings import Settings
from tests.deploy import letters
from tests.deploy.letters import Record, await_status, event, failed_event, publish, stored
from tests.stack import Stack, wait_until


@pytest.fixture
def stack(failing_stack: Stack) -> Stack:
    """Gateway and worker, with a handler that refuses what it is told to."""
    if "worker-0" not in failing_stack.processes:
        failing_stack.start_worker(handlers=letters.HANDLERS)
    return failing_stack


def dlq(stack: Stack, *arguments: str, answer: str | None = None) -> Result:
    environment = {name: value for name, value in stack.environment().items() if name.startswith("HEADRACE_")}
    return CliRunner().invoke(cli, ["dlq", *arguments], env=environment, input=answer)


def replayed(stack: Stack, *arguments: str) -> dict[str, Any]:
    done = dlq(stack, "replay", "--json", *arguments)
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def audits(stack: Stack, by: str) -> list[dict[str, Any]]:
    query = """select replayed_by, filter, events, records, letters from headrace.dead_letter_replays
               where replayed_by = %s order by number"""
    return letters.rows(stack.database_url, query, by)


def unplanned(row: dict[str, Any]) -> dict[str, Any]:
    """What two plans have in common whenever they were made."""
    return {name: value for name, value in row.items() if name not in {"not_before", "sent_at"}}


def test_failed_event_is_tried_again_once_and_succeeds(stack: Stack, program_id: str) -> None:
    event_id = failed_event(stack, program_id, "k", then="succeed")
    by = f"tester {program_id}"
    number = letters.letters(stack.database_url, program_id)[0]["number"]
    first = replayed(stack, "--program", program_id, "--by", by)
    detail = f"another attempt at event {event_id}"
    letter = {"number": number, "code": "not_wanted", "action": "event", "detail": detail}
    assert first == {"dry_run": False, "event": 1, "record": 0, "skipped": 0, "letters": [letter]}
    row = await_status(stack.database_url, event_id, "COMPLETED")
    assert (row["attempts"], row["error_code"], row["result"]) == (1, None, {"handle": {"second": "chance"}})
    marked = letters.letters(stack.database_url, program_id)
    assert [(one["number"], one["replayed_by"], one["replayed_at"] is not None) for one in marked] == [
        (number, by, True)
    ]
    assert replayed(stack, "--program", program_id, "--by", by)["letters"] == []
    assert audits(stack, by) == [
        {
            "replayed_by": by,
            "filter": {"codes": [], "programs": [program_id], "numbers": [], "limit": None, "again": False},
            "events": 1,
            "records": 0,
            "letters": 1,
        }
    ]


def test_attempt_is_planned_as_the_retry_route_plans_it(stack: Stack, program_id: str) -> None:
    data = {"amount": 12345678901234567890123, "nested": {"b": [1.50, "ü\n"], "a": None}}
    ids = [failed_event(stack, program_id, key, **data) for key in ("by-route", "by-replay")]
    stack.stop_worker()
    letters.post(stack, f"/v1/events/{ids[0]}/retry", None)
    assert replayed(stack, "--program", program_id, "--code", "not_wanted", "--again")["event"] == 1
    by_route, by_replay = (stored(stack.database_url, id_) for id_ in ids)
    own = {"id", "idempotency_key", "fingerprint", "kafka_offset", "counted_offset", "received_at"}
    differing = own | {"created_at", "updated_at"}
    assert {name for name in by_route if by_route[name] != by_replay[name]} <= differing
    assert by_replay["failed_before"] is True
    query = "select * from headrace.retries where id = %s"
    plans = [unplanned(letters.rows(stack.database_url, query, id_)[0]) for id_ in ids]
    assert plans[0]["record"].replace(b"by-route", b"by-replay") == plans[1]["record"]
    common = {"id", "record"}
    assert [{name: plan[name] for name in plan if name not in common} for plan in plans] == [
        {"kafka_partition": by_route["kafka_partition"], "program_id": uuid.UUID(program_id), "attempt": 1}
    ] * 2


def test_letters_of_events_that_went_on_are_left_alone(stack: Stack, program_id: str) -> None:
    event_id = failed_event(stack, program_id, "k", then="succeed")
    letters.post(stack, f"/v1/events/{event_id}/retry", None)
    await_status(stack.database_url, event_id, "COMPLETED")
    told = replayed(stack, "--program", program_id)
    assert [(one["action"], one["detail"]) for one in told["letters"]] == [
        ("skipped", f"its event {event_id} is COMPLETED by now")
    ]
    assert letters.letters(stack.database_url, program_id)[0]["replayed_at"] is None


def test_record_with_a_wrong_key_gets_the_right_one(stack: Stack, program_id: str) -> None:
    value = json.dumps(event(program_id, "k", n=1), indent=1).encode()
    publish(stack.kafka, Record(b"wrong", value, [("trace", b"\x00\xff"), ("trace", b"2")]))
    wait_until(lambda: letters.letters(stack.database_url, program_id) != [], "the dead letter", 20)
    (letter,) = letters.letters(stack.database_url, program_id)
    assert letter["code"] == "key_mismatch"
    assert replayed(stack, "--number", str(letter["number"]))["record"] == 1
    row = await_status(stack.database_url, str(uuid.uuid5(uuid.UUID(program_id), "k")), "COMPLETED")
    assert (row["event_data"], row["event_type"], row["duplicate_count"]) == ({"n": 1}, "SYSTEM", 0)
    once_more = replayed(stack, "--number", str(letter["number"]))
    assert [(one["action"], one["detail"].split(",")[0]) for one in once_more["letters"]] == [
        ("skipped", "replayed already")
    ]
    # What a crash after Kafka's acknowledgement leads to: published again, and no second event.
    assert replayed(stack, "--number", str(letter["number"]), "--again")["record"] == 1
    wait_until(
        lambda: stored(stack.database_url, str(row["id"]))["duplicate_count"] == 1, "the repetition is a duplicate", 20
    )


def test_unreadable_record_comes_back_byte_by_byte_and_no_loop_begins(stack: Stack) -> None:
    before = letters.last_number(stack.database_url)
    sent = [
        Record(b"\x80key", b"\xff\x00not json", [("h", b"\x01"), ("h", b"two"), ("ü", b"")]),
        Record(None, b"x" * 1_500_000),
        Record(b"k", None),
    ]
    publish(stack.kafka, *sent)
    wait_until(lambda: len(letters.unreadable_since(stack.database_url, before)) == 3, "three dead letters", 20)
    # Other tests leave unreadable records too.
    numbers = [f"--number={row['number']}" for row in letters.unreadable_since(stack.database_url, before)]
    told = replayed(stack, "--code", "unreadable_record", "--by", "bytes", *numbers)
    assert told["record"] == 3
    wait_until(lambda: len(letters.unreadable_since(stack.database_url, before)) == 6, "three more dead letters", 20)
    first, second = (
        sorted(
            ([row["record_key"], row["record_value"], row["record_headers"]] for row in part),
            key=lambda record: len(record[1] or b""),
        )
        for part in (
            letters.unreadable_since(stack.database_url, before)[:3],
            letters.unreadable_since(stack.database_url, before)[3:],
        )
    )
    assert first == second
    assert second[1] == [sent[0].key, sent[0].value, [["h", "01"], ["h", b"two".hex()], ["ü", ""]]]
    assert (len(second[2][1]), second[0][1]) == (1_500_000, None)


def test_conflict_is_published_again_and_loses_again(stack: Stack, program_id: str) -> None:
    """Although its event is FAILED, and even with the same code: the letter is of another payload."""
    event_id = failed_event(stack, program_id, "k", code="idempotency_conflict", then="succeed")
    other = json.dumps(event(program_id, "k", other=True)).encode()
    publish(stack.kafka, Record(program_id.encode(), other))
    wait_until(lambda: len(letters.letters(stack.database_url, program_id)) == 2, "the conflict", 20)
    told = replayed(stack, "--program", program_id, "--code", "idempotency_conflict")
    assert [one["action"] for one in told["letters"]] == ["event", "record"]
    wait_until(lambda: len(stored(stack.database_url, event_id)["conflicts"]) == 2, "a second conflict", 20)
    await_status(stack.database_url, event_id, "COMPLETED")


def test_letters_of_records_that_fail_again_are_for_another_run(
    stack: Stack, program_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, own = "idempotency_conflict", Replay._publish  # noqa: SLF001 - to be done by the patch as well
    letters.post(stack, "/v1/events", event(program_id, "k"))
    publish(stack.kafka, Record(program_id.encode(), json.dumps(event(program_id, "k", other=True)).encode()))
    wait_until(lambda: len(letters.letters(stack.database_url, program_id)) == 1, "the conflict", 20)

    async def publish_and_wait(run: Replay, records: list[Any]) -> None:
        wanted = len(letters.letters(stack.database_url, program_id)) + len(records)
        await own(run, records)
        wait_until(lambda: len(letters.letters(stack.database_url, program_id)) == wanted, "it fails again", 20)

    monkeypatch.setattr(Replay, "_publish", publish_and_wait)
    assert replayed(stack, "--program", program_id, "--code", code, "--limit", "3")["record"] == 1


def test_dry_run_tells_and_changes_nothing(stack: Stack, program_id: str) -> None:
    event_id = failed_event(stack, program_id, "k")
    publish(stack.kafka, Record(b"wrong", json.dumps(event(program_id, "l")).encode()))
    wait_until(lambda: len(letters.letters(stack.database_url, program_id)) == 2, "the second letter", 20)
    before = letters.letters(stack.database_url, program_id)
    told = dlq(stack, "replay", "--dry-run", "--program", program_id, "--by", program_id)
    assert [line.split(maxsplit=3) for line in told.stdout.splitlines()[:-1]] == [
        [str(before[0]["number"]), "not_wanted", "event", f"another attempt at event {event_id}"],
        [str(before[1]["number"]), "key_mismatch", "record", f"to events with key {program_id}"],
    ]
    assert told.stdout.splitlines()[-1] == (
        "1 events would be tried again, 1 records would be published again, 0 skipped"
    )
    assert letters.letters(stack.database_url, program_id) == before
    assert stored(stack.database_url, event_id)["status"] == "FAILED"
    assert audits(stack, program_id) == []


def test_limit_takes_the_oldest(stack: Stack, program_id: str) -> None:
    ids = [failed_event(stack, program_id, key) for key in "abc"]
    told = replayed(stack, "--program", program_id, "--limit", "2")
    assert [one["detail"] for one in told["letters"]] == [f"another attempt at event {id_}" for id_ in ids[:2]]
    for id_ in ids[:2]:
        wait_until(lambda id_=id_: stored(stack.database_url, id_)["status"] == "FAILED", "failed again", 20)  # type: ignore[misc]
    open_ones = json.loads(dlq(stack, "list", "--open", "--json", "--program", program_id).stdout)["dead_letters"]
    assert ids[2] in [one["event_id"] for one in open_ones]


def test_without_kafka_nothing_is_marked(stack: Stack, program_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(stack.kafka, Record(b"wrong", json.dumps(event(program_id, "l")).encode()))
    wait_until(lambda: len(letters.letters(stack.database_url, program_id)) == 1, "the letter", 20)
    monkeypatch.setattr(stack, "kafka", "127.0.0.1:9")
    told = dlq(stack, "replay", "--program", program_id, "--by", program_id)
    assert told.exit_code == 1
    assert told.stderr.splitlines()[-1].startswith("Error: Kafka at 127.0.0.1:9 does not take the records")
    assert letters.letters(stack.database_url, program_id)[0]["replayed_at"] is None
    assert audits(stack, program_id) == []


def test_crash_after_the_acknowledgement_leaves_the_letter_open(
    stack: Stack, program_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id = failed_event(stack, program_id, "failing", then="succeed")
    publish(stack.kafka, Record(b"wrong", json.dumps(event(program_id, "k")).encode()))
    wait_until(lambda: len(letters.letters(stack.database_url, program_id)) == 2, "the second letter", 20)

    class CrashError(Exception):
        pass

    async def crash(*_: object) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(Replay, "_note", crash)
        assert isinstance(dlq(stack, "replay", "--program", program_id).exception, CrashError)
    await_status(stack.database_url, str(uuid.uuid5(uuid.UUID(program_id), "k")), "COMPLETED")
    assert stored(stack.database_url, event_id)["status"] == "FAILED"
    assert [one["replayed_at"] for one in letters.letters(stack.database_url, program_id)] == [None, None]
    again = replayed(stack, "--program", program_id)
    assert (again["event"], again["record"]) == (1, 1)
    await_status(stack.database_url, event_id, "COMPLETED")
    query = "select count(*) as n from headrace.events where program_id = %s"
    assert letters.rows(stack.database_url, query, program_id) == [{"n": 2}]


def test_two_replays_at_once_take_each_letter_once(stack: Stack, program_id: str) -> None:
    count = 250
    values = [json.dumps(event(program_id, f"k{number}")).encode() for number in range(count)]
    publish(stack.kafka, *(Record(b"wrong", value) for value in values))
    wait_until(lambda: len(letters.letters(stack.database_url, program_id)) == count, "the letters", 20)
    settings = Settings(kafka=stack.kafka, database_url=stack.database_url)

    async def run(by: str) -> list[int]:
        wanted = Wanted(Filter(programs=[uuid.UUID(program_id)]), None, by, dry_run=False)
        return [outcome.number async for outcome in Replay(settings, wanted).outcomes()]

    async def both() -> list[list[int]]:
        return list(await asyncio.gather(run(f"a {program_id}"), run(f"b {program_id}")))

    first, second = asyncio.run(both())
    assert sorted(first + second) == [one["number"] for one in letters.letters(stack.database_url, program_id)]
    audited = [one["records"] for by in "ab" for one in audits(stack, f"{by} {program_id}")]
    assert sorted(audited) == sorted(part for part in (len(first), len(second)) if part)
    wait_until(lambda: completed(stack, program_id) == count, "every event processed", 20)
    query = "select sum(duplicate_count)::int as n from headrace.events where program_id = %s"
    assert letters.rows(stack.database_url, query, program_id) == [{"n": 0}]


def completed(stack: Stack, program_id: str) -> int:
    query = "select count(*) as n from headrace.events where program_id = %s and status = 'COMPLETED'"
    return int(letters.rows(stack.database_url, query, program_id)[0]["n"])


def test_many_letters_are_asked_for_at_a_terminal(
    stack: Stack, program_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed_event(stack, program_id, "k")
    monkeypatch.setattr("deploy.commands.dlq._UNASKED_MAX", 0)
    monkeypatch.setattr("deploy.commands.dlq._at_terminal", lambda: True)
    arguments = ("replay", "--program", program_id, "--by", program_id)
    refused = dlq(stack, *arguments, answer="n\n")
    assert (refused.exit_code, "Replay 1 dead letters? [y/N]" in refused.stderr) == (1, True)
    assert audits(stack, program_id) == []
    assert dlq(stack, *arguments, "--yes").stderr == ""
    assert [one["events"] for one in audits(stack, program_id)] == [1]


def test_show_tells_the_record(stack: Stack, program_id: str) -> None:
    before = letters.last_number(stack.database_url)
    publish(stack.kafka, Record(b"\x80", b'{"a": "\x1b[2J"}\nend', [("trace", b"abc")]))
    wait_until(lambda: letters.unreadable_since(stack.database_url, before) != [], "the letter", 20)
    number = str(letters.unreadable_since(stack.database_url, before)[0]["number"])
    text = dlq(stack, "show", number).stdout
    assert [line.split(maxsplit=1) for line in text.splitlines() if line.startswith(("code", "header", "key"))] == [
        ["code", "unreadable_record"],
        ["header", "trace: abc"],
        ["key", "(hexadecimal) 80"],
    ]
    assert text.endswith('value           {"a": "\\x1b[2J"}\nend\n')
    told = json.loads(dlq(stack, "show", number, "--json").stdout)
    assert (told["key"], told["value"]) == ({"hex": "80"}, {"text": '{"a": "\x1b[2J"}\nend'})
    assert told["headers"] == [{"name": "trace", "text": "abc"}]
    listed = dlq(stack, "list", "--number", number).stdout.splitlines()
    assert len(listed) == 2
    assert listed[1].startswith(number)
    assert max(map(len, listed)) <= 120
    del program_id


def test_unknown_number_is_one_clear_line(stack: Stack) -> None:
    for arguments in (["show", "999999999"], ["replay", "--number", "999999999"]):
        told = dlq(stack, *arguments)
        assert (told.exit_code, told.stderr) == (
            1,
            "Error: there is no dead letter 999999999: see `headrace dlq list`\n",
        )
