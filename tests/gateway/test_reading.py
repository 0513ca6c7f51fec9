"""Reading routes, on the real Postgres."""

import asyncio
import time
import uuid
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from starlette.applications import Starlette

from gateway.waiting import Waiting
from schemas.identity import uuid_text
from schemas.reader import EventReader
from schemas.settings import Settings
from tests.gateway.asgi import Client
from tests.gateway.conftest import serving
from tests.gateway.rows import T0, event_row, execute, insert_claim, insert_events, insert_key

pytestmark = pytest.mark.anyio

# Values that any detour through doubles or 64-bit integers would change. jsonb keeps members in an order of its own.
EXACT_DATA = (
    '{"a": 0.1000000000000000055, "b": 123456789012345678901234567890, "c": 1.10, "d": "\\u20ac \\ud83d\\ude00"}'
)


async def test_event_has_all_fields_of_the_contract(client: Client, database_url: str) -> None:
    conflict = {"received_at": "2026-03-01T12:00:05Z", "fingerprint": str(uuid.uuid4()), "reason": "other payload"}
    row = event_row(
        id=str(uuid.uuid4()).upper(),
        participant_id=str(uuid.uuid4()),
        recipient_external_id="r 1",
        recipient_id=str(uuid.uuid4()),
        event_data='{"amount": 1.50}',
        status="FAILED",
        event_type="SYSTEM",
        error_code="no_stock",
        error_message="nothing left",
        attempts=5,
        duplicate_count=2,
        conflicts=msgspec.json.encode([conflict]).decode(),
        result='{"points": 12}',
        event_timestamp=T0 + timedelta(microseconds=120_000),
    )
    insert_events(database_url, [row])
    answer = await client.get(f"/v1/events/{row['id']}")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == {
        "id": row["id"].lower(),
        "program_id": row["program_id"],
        "idempotency_key": row["idempotency_key"],
        "event_timestamp": "2026-03-01T12:00:00.12Z",
        "external_id": "user_1",
        "participant_id": row["participant_id"],
        "recipient_external_id": "r 1",
        "recipient_id": row["recipient_id"],
        "event_data": {"amount": 1.5},
        "status": "FAILED",
        "event_type": "SYSTEM",
        "error_code": "no_stock",
        "error_message": "nothing left",
        "attempts": 5,
        "duplicate_count": 2,
        "conflicts": [conflict],
        "result": {"points": 12},
        "received_at": "2026-03-01T12:00:00Z",
        "created_at": "2026-03-01T12:00:01Z",
        "updated_at": "2026-03-01T12:00:02Z",
        "processed_at": "2026-03-01T12:00:02Z",
    }


async def test_event_data_is_answered_digit_for_digit(client: Client, database_url: str) -> None:
    row = event_row(event_data=EXACT_DATA)
    insert_events(database_url, [row])
    single = await client.get(f"/v1/events/{row['id']}")
    page = await client.get(f"/v1/events?program_id={row['program_id']}")
    expected = EXACT_DATA.replace("\\u20ac", "\u20ac").replace("\\ud83d\\ude00", "\U0001f600")
    for body in (single.body, page.body):
        assert f'"event_data":{expected},'.encode() in body


async def test_claimed_event_is_pending(client: Client, database_url: str) -> None:
    program = str(uuid.uuid4())
    sent = {
        "program_id": program.upper(),
        "idempotency_key": "k",
        "event_timestamp": "2026-03-01T13:00:00.50+01:00",
        "external_id": "user_2",
    }
    raw = msgspec.json.encode(sent)[:-1] + b',"event_data":{"n": 1e30}}'
    event = EventReader(65_536).read(raw)
    event_id = uuid_text(event.id)
    insert_claim(database_url, event_id, event.record, datetime(2100, 1, 1, tzinfo=UTC))
    answer = await client.get(f"/v1/events/{event_id.upper()}")
    assert answer.status == 200
    assert answer.json == {
        "id": event_id,
        "program_id": program,
        "idempotency_key": "k",
        "event_timestamp": "2026-03-01T12:00:00.5Z",
        "external_id": "user_2",
        "participant_id": None,
        "recipient_external_id": None,
        "recipient_id": None,
        "event_data": {"n": 10**30},
        "status": "PENDING",
        "event_type": "EXTERNAL",
        "error_code": None,
        "error_message": None,
        "attempts": 0,
        "duplicate_count": 0,
        "conflicts": [],
        "result": None,
        "received_at": "2100-01-01T00:00:00Z",
        "created_at": "2100-01-01T00:00:00Z",
        "updated_at": "2100-01-01T00:00:00Z",
        "processed_at": None,
    }


@pytest.mark.parametrize("name", [str(uuid.uuid4()), "no-uuid", uuid.uuid4().hex, "%00", "a%2Fb"])
async def test_what_is_no_event_is_not_found(client: Client, name: str) -> None:
    answer = await client.get(f"/v1/events/{name}?wait=5")
    assert (answer.status, answer.code) == (404, "not_found")


async def test_another_programs_event_looks_like_none(app: Starlette, database_url: str) -> None:
    mine, foreign = event_row(), event_row(status="PROCESSING")
    insert_events(database_url, [mine, foreign])
    claimed = str(uuid.uuid4())
    record = f'{{"program_id":"{foreign["program_id"]}","idempotency_key":"k","event_timestamp":"2026-01-01T00:00:00Z"'
    insert_claim(database_url, claimed, f'{record},"external_id":"u","event_data":{{}}}}'.encode())
    client = Client(app, {"X-API-Key": insert_key(database_url, programs=[mine["program_id"]])})
    assert (await client.get(f"/v1/events/{mine['id']}")).status == 200
    nothing = await client.get(f"/v1/events/{uuid.uuid4()}")
    for hidden in (foreign["id"], claimed):
        answer = await client.get(f"/v1/events/{hidden}?wait=5")
        assert answer.status == 404
        assert {**answer.json, "request_id": ""} == {**nothing.json, "request_id": ""}


async def test_wait_ends_when_the_event_is_final(client: Client, database_url: str) -> None:
    row = event_row(status="PROCESSING", processed_at=None)
    insert_events(database_url, [row])

    async def finish() -> float:
        await asyncio.sleep(0.3)
        finish_event = "update headrace.events set status = 'COMPLETED' where id = %s"
        await asyncio.to_thread(execute, database_url, finish_event, [row["id"]])
        return asyncio.get_running_loop().time()

    finishing = asyncio.create_task(finish())
    answers = await asyncio.gather(*(client.get(f"/v1/events/{row['id']}?wait=20.5") for _ in range(5)))
    answered_at = asyncio.get_running_loop().time()
    assert [answer.json["status"] for answer in answers] == ["COMPLETED"] * 5
    assert answered_at - await finishing < 2, "they waited until it was final, not until their time was over"


async def test_wait_ends_in_time_where_the_event_does_not(client: Client, app: Starlette, database_url: str) -> None:
    row = event_row(status="PROCESSING", processed_at=None)
    insert_events(database_url, [row])
    begun_at = time.monotonic()
    answer = await client.get(f"/v1/events/{row['id']}?wait=0.4")
    assert 0.35 <= time.monotonic() - begun_at < 1.5  # the loop's timers are exact to some milliseconds
    assert (answer.status, answer.json["status"]) == (200, "PROCESSING")
    waiting: Waiting = app.state.waiting
    assert waiting.count == 0


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("wait=31", "wait"),
        ("wait=-1", "wait"),
        ("wait=nan", "wait"),
        ("wait=", "wait"),
        ("wait=1&x=1", "x"),
        ("y", "y"),
    ],
)
async def test_bad_parameters_of_get_are_named(client: Client, query: str, field: str) -> None:
    answer = await client.get(f"/v1/events/{uuid.uuid4()}?{query}")
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert [error["field"] for error in answer.json["errors"]] == [field]


async def test_deferred_checks_wait_for_an_event_to_appear(settings: Settings) -> None:
    deferred = msgspec.structs.replace(settings, idempotency_check="deferred")
    row = event_row()
    async with serving(deferred) as app:
        client = Client(app, {"X-API-Key": insert_key(settings.database_url)})
        request = asyncio.create_task(client.get(f"/v1/events/{row['id']}?wait=20"))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(insert_events, settings.database_url, [row])
        answer = await request
    assert (answer.status, answer.json["status"]) == (200, "COMPLETED")
