"""Pages of events: what they hold, whom they are for, and that paging is exact while the table changes."""

import asyncio
import base64
import random
import uuid
from collections import Counter
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from starlette.applications import Starlette

from gateway.cursors import Position, Signer
from tests.gateway.asgi import Client
from tests.gateway.rows import T0, event_row, execute, insert_events, insert_key

pytestmark = pytest.mark.anyio

EXISTING = 20_000
COLUMNS = list(event_row())


def copy_events(url: str, rows: list[dict[str, Any]]) -> None:
    with (
        psycopg.connect(url) as connection,
        connection.cursor() as cursor,
        cursor.copy(f"copy headrace.events ({', '.join(COLUMNS)}) from stdin") as copy,
    ):
        for row in rows:
            copy.write_row([row[column] for column in COLUMNS])


async def pages(client: Client, query: str) -> list[str]:
    """Ids of all pages, in order."""
    found: list[str] = []
    cursor = ""
    while True:
        answer = await client.get(f"/v1/events?{query}{cursor}")
        assert answer.status == 200, answer.body
        found += [event["id"] for event in answer.json["data"]]
        pagination = answer.json["pagination"]
        assert pagination["has_more"] == (pagination["next_cursor"] is not None)
        if not pagination["has_more"]:
            return found
        cursor = f"&cursor={pagination['next_cursor']}"


async def test_an_empty_list(client: Client) -> None:
    answer = await client.get(f"/v1/events?program_id={uuid.uuid4()}")
    assert (answer.status, answer.json) == (200, {"data": [], "pagination": {"has_more": False, "next_cursor": None}})


async def test_items_are_what_get_answers(client: Client, database_url: str) -> None:
    program = str(uuid.uuid4())
    rows = [event_row(program_id=program, event_data='{"n": 1.50}', result='{"r": 1}') for _ in range(3)]
    insert_events(database_url, rows)
    listed = (await client.get(f"/v1/events?program_id={program}")).json["data"]
    single = [(await client.get(f"/v1/events/{event['id']}")).json for event in listed]
    assert listed == single
    assert {event["id"] for event in listed} == {row["id"] for row in rows}


@pytest.mark.parametrize(("count", "limit", "sizes"), [(4, 2, [2, 2]), (5, 2, [2, 2, 1]), (2, 200, [2])])
async def test_page_sizes(client: Client, database_url: str, count: int, limit: int, sizes: list[int]) -> None:
    program = str(uuid.uuid4())
    insert_events(database_url, [event_row(program_id=program) for _ in range(count)])
    found, cursor = [], ""
    for _ in sizes:
        answer = await client.get(f"/v1/events?program_id={program}&limit={limit}{cursor}")
        found.append(len(answer.json["data"]))
        cursor = f"&cursor={answer.json['pagination']['next_cursor']}"
    assert found == sizes
    assert answer.json["pagination"]["has_more"] is False


async def test_a_limited_key_sees_its_programs_only(app: Starlette, database_url: str) -> None:
    mine, foreign = [[event_row(program_id=str(uuid.uuid4())) for _ in range(5)] for _ in range(2)]
    insert_events(database_url, mine + foreign)
    programs = [row["program_id"] for row in mine]
    client = Client(app, {"X-API-Key": insert_key(database_url, programs=programs)})
    assert sorted(await pages(client, "limit=2")) == sorted(row["id"] for row in mine)
    assert await pages(client, f"program_id={programs[0]}") == [mine[0]["id"]]
    assert await pages(client, f"program_id={foreign[0]['program_id']}") == []
    assert await pages(client, f"idempotency_key={foreign[0]['idempotency_key']}") == []
    nobody = Client(app, {"X-API-Key": insert_key(database_url, programs=[])})
    assert await pages(nobody, "limit=2") == []


async def test_another_keys_cursor_shows_nothing_of_its_programs(app: Starlette, database_url: str) -> None:
    rows = [event_row() for _ in range(4)]
    insert_events(database_url, rows)
    everything = Client(app, {"X-API-Key": insert_key(database_url)})
    answer = await everything.get("/v1/events?limit=1")
    limited = Client(app, {"X-API-Key": insert_key(database_url, programs=[rows[0]["program_id"]])})
    seen = await limited.get(f"/v1/events?limit=1&cursor={answer.json['pagination']['next_cursor']}")
    assert {event["id"] for event in seen.json["data"]} <= {rows[0]["id"]}


async def test_forged_and_foreign_cursors(client: Client, database_url: str) -> None:
    insert_events(database_url, [event_row() for _ in range(2)])
    cursor = (await client.get("/v1/events?limit=1")).json["pagination"]["next_cursor"]
    packed = bytearray(base64.urlsafe_b64decode(cursor))
    packed[20] ^= 1
    digest = bytes(packed[1:17])
    for forged in (
        base64.urlsafe_b64encode(packed).decode(),
        Signer(b"guessed").encode(Position(T0, bytes(16)), digest),
        cursor[:-1],
        cursor + "A",
        "x" * 76,
    ):
        answer = await client.get(f"/v1/events?limit=1&cursor={forged}")
        assert (answer.status, answer.code) == (400, "invalid_request")
        assert answer.json["errors"][0]["field"] == "cursor"
    answer = await client.get(f"/v1/events?limit=1&cursor={cursor}&status=FAILED")
    assert (answer.status, answer.json["errors"][0]["field"]) == (400, "cursor")


@pytest.mark.slow
@pytest.mark.parametrize("sort_by", ["created_at", "event_timestamp"])
@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
async def test_paging_is_exact_while_events_arrive_and_change(
    client: Client, database_url: str, sort_by: str, sort_dir: str
) -> None:
    program, chance = str(uuid.uuid4()), random.Random(1)  # noqa: S311 - a test's own dice

    def some_event(number: int) -> dict[str, Any]:
        return event_row(
            program_id=program,
            created_at=T0 + timedelta(milliseconds=number // 7),  # several share an instant, as in one transaction
            event_timestamp=T0 + timedelta(seconds=chance.randrange(2_000)),
            status="PROCESSING",
        )

    existing = [some_event(number) for number in range(EXISTING)]
    await asyncio.to_thread(copy_events, database_url, existing)
    done = asyncio.Event()

    async def disturb() -> int:
        added = 0
        while not done.is_set():
            fresh = [some_event(EXISTING + added + number) for number in range(50)]
            await asyncio.to_thread(copy_events, database_url, fresh)
            added += len(fresh)
            finish = "update headrace.events set status = 'COMPLETED', updated_at = now() where id = any(%s::uuid[])"
            some = [row["id"] for row in chance.sample(existing, 200)]
            await asyncio.to_thread(execute, database_url, finish, [some])
        return added

    disturbing = asyncio.create_task(disturb())
    found = await pages(client, f"program_id={program}&limit=200&sort_by={sort_by}&sort_dir={sort_dir}")
    done.set()
    assert await disturbing > 0
    counted = Counter(found)
    assert max(counted.values()) == 1
    assert {row["id"] for row in existing} <= counted.keys()
    by_position = sorted(existing, key=lambda row: (row[sort_by], row["id"]), reverse=sort_dir == "desc")
    ids = {row["id"] for row in existing}
    assert [event_id for event_id in found if event_id in ids] == [row["id"] for row in by_position]
    await asyncio.to_thread(execute, database_url, "delete from headrace.events where program_id = %s", [program])
