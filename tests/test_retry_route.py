"""What FAILED can be sent through processing again, once per request; and what a program's events come to."""

from typing import Any

import httpx2 as httpx
import psycopg
import pytest

from tests.stack import Stack
from tests.switch_handler import SCHEMA

HANDLERS = "processors.handlers.rollups:rollups,tests.switch_handler:switch"


@pytest.fixture
def switched(bare_stack: Stack) -> Stack:
    """A stack whose events fail until their switch is opened."""
    with psycopg.connect(bare_stack.database_url) as connection:
        connection.execute(SCHEMA)
    bare_stack.start_worker(handlers=HANDLERS)
    bare_stack.start_gateway()
    return bare_stack


def _post(stack: Stack, program_id: str, key: str) -> str:
    event = {
        "program_id": program_id,
        "idempotency_key": key,
        "event_timestamp": "2024-01-15T10:30:00.5+02:00",
        "external_id": "user-1",
        "event_data": {"amount": 0.1000000000000000055, "text": "ä"},
    }
    response = httpx.post(f"{stack.url}/v1/events", headers=stack.headers, json=event)
    assert response.status_code == 200, response.text
    id_: str = response.json()["id"]
    return id_


def _get(stack: Stack, path: str) -> dict[str, Any]:
    response = httpx.get(f"{stack.url}{path}", headers=stack.headers, timeout=30)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def _retry(stack: Stack, id_: str) -> httpx.Response:
    return httpx.post(f"{stack.url}/v1/events/{id_}/retry", headers=stack.headers)


def _open(stack: Stack, id_: str) -> None:
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("insert into tests.open_switches values (%s)", (id_,))


def _switched(stack: Stack, id_: str) -> int:
    with psycopg.connect(stack.database_url) as connection:
        row = connection.execute("select count(*) from tests.switched where event_id = %s", (id_,)).fetchone()
    assert row is not None
    return int(row[0])


def test_a_failed_event_is_processed_again_and_counted_once(switched: Stack, program_id: str) -> None:
    failed, other = _post(switched, program_id, "a"), _post(switched, program_id, "b")
    event = _get(switched, f"/v1/events/{failed}?wait=20")
    assert (event["status"], event["error_code"]) == ("FAILED", "closed")
    assert event["error_message"] == "the switch is closed"
    _get(switched, f"/v1/events/{other}?wait=20")

    assert _retry(switched, failed).status_code == 202
    event = _get(switched, f"/v1/events/{failed}?wait=20")
    assert (event["status"], event["attempts"]) == ("FAILED", 1), "its switch is still closed"

    _open(switched, failed)
    answers = [_retry(switched, failed) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 409, 409]
    assert answers[0].json() == {"id": failed, "status": "PENDING"}
    assert answers[1].json()["code"] == "not_retryable"
    event = _get(switched, f"/v1/events/{failed}?wait=20")
    assert (event["status"], event["error_code"], event["attempts"]) == ("COMPLETED", None, 1)
    assert _retry(switched, failed).status_code == 409
    assert _switched(switched, failed) == 1

    stats = _get(switched, f"/v1/programs/{program_id}/stats")
    hour = "2024-01-15T08:00:00Z"
    assert stats == {
        "program_id": program_id,
        "total": 2,
        "by_status": {"COMPLETED": 1, "FAILED": 1},
        "by_hour": [
            {"hour": hour, "status": "COMPLETED", "events": 1},
            {"hour": hour, "status": "FAILED", "events": 1},
        ],
        "duplicates": 0,
        "conflicts": 0,
        "first_event_at": "2024-01-15T08:30:00.5Z",
        "last_event_at": "2024-01-15T08:30:00.5Z",
    }


def test_what_cannot_be_retried(bare_stack: Stack, program_id: str) -> None:
    bare_stack.start_gateway()
    pending = _post(bare_stack, program_id, "waiting for a worker")
    answer = _retry(bare_stack, pending)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_retryable")
    for unknown in ("00000000-0000-5000-8000-000000000000", "no-uuid"):
        answer = _retry(bare_stack, unknown)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    stranger = httpx.post(f"{bare_stack.url}/v1/events/{pending}/retry", headers={"X-API-Key": "hr_nobody"})
    assert stranger.status_code == 401


def test_only_registered_programs_where_that_is_asked(bare_stack: Stack, program_id: str) -> None:
    with psycopg.connect(bare_stack.database_url) as connection:
        connection.execute("insert into headrace.programs (program_id, name) values (%s, 'ours')", (program_id,))
    bare_stack.start_gateway(programs="registered")
    _post(bare_stack, program_id, "registered")
    stranger = "11111111-2222-4333-8444-555555555555"
    event = {
        "program_id": stranger,
        "idempotency_key": "k",
        "event_timestamp": "2024-01-15T10:30:00Z",
        "external_id": "u",
        "event_data": {},
    }
    answer = httpx.post(f"{bare_stack.url}/v1/events/batch", headers=bare_stack.headers, json={"events": [event]})
    result = answer.json()["results"][0]
    assert (result["error"], result["code"]) == ("invalid program_id", "invalid_program_id")
