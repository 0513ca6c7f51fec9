"""``POST /v1/events/{id}/retry``: a FAILED event goes through processing again.

The attempt is planned in Postgres, in the transaction that makes the event PENDING again; a worker sends it to the
topic of retries as it does with its own. Two requests at once plan one attempt: the second finds the event PENDING.
"""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.database import DATABASE_FAULTS, Connection
from gateway.key import Key
from gateway.paths import event_id_in, no_such_event
from gateway.problems import ApiError, unavailable
from schemas.errors import NOT_RETRYABLE
from schemas.identity import program
from schemas.reader import EventReader
from schemas.retry_sql import PLAN_ATTEMPTS

_encode = msgspec.json.Encoder().encode

_LOCK = """
select program_id::text, status::text, idempotency_key, event_timestamp, external_id, participant_id::text,
       recipient_external_id, recipient_id::text, event_data::text
from headrace.events where id = %s::uuid for update
"""
_CLAIMED = "select record from headrace.claims where id = %s::uuid"
_FIELDS = (
    "idempotency_key",
    "event_timestamp",
    "external_id",
    "participant_id",
    "recipient_external_id",
    "recipient_id",
)


class RetryAnswer(msgspec.Struct):
    """An event that is going to be processed again."""

    id: str
    status: str = "PENDING"


class _Owner(msgspec.Struct):
    program_id: str


async def post_retry(request: Request) -> Response:
    """Answer ``POST /v1/events/{id}/retry``."""
    key: Key = await request.app.state.keys.require(request, "ingest")
    event_id = event_id_in(request)
    reader: EventReader = request.app.state.intake.reader
    timeout_s = request.app.state.settings.database_timeout_s
    try:
        async with request.app.state.pool.connection(timeout_s) as connection, connection.transaction():
            await _plan(connection, key, event_id, reader)
    except DATABASE_FAULTS as error:
        raise unavailable("Postgres did not answer in time") from error
    return Response(_encode(RetryAnswer(event_id)), 202, media_type="application/json")


async def _plan(connection: Connection, key: Key, event_id: str, reader: EventReader) -> None:
    """Plan an attempt at a FAILED event. Raises ApiError `not_found` or `not_retryable`."""
    row = await (await connection.execute(_LOCK, [event_id])).fetchone()
    if row is None:
        await _refuse_claimed(connection, key, event_id)
        raise no_such_event()
    program_id, status = row[0], row[1]
    if not _may_use(key, program_id):
        raise no_such_event()
    if status != "FAILED":
        raise _not_retryable(status)
    record = reader.read(_encode(_event(row))).record
    await connection.execute(PLAN_ATTEMPTS, {"ids": [event_id], "records": [record]})


async def _refuse_claimed(connection: Connection, key: Key, event_id: str) -> None:
    """An event that is accepted and not yet processed is no unknown one."""
    claim = await (await connection.execute(_CLAIMED, [event_id])).fetchone()
    if claim is not None and _may_use(key, msgspec.json.decode(claim[0], type=_Owner).program_id):
        raise _not_retryable("PENDING")


def _event(row: tuple[Any, ...]) -> dict[str, Any]:
    """The event as it was sent, value for value."""
    fields = {name: value for name, value in zip(_FIELDS, row[2:8], strict=True) if value is not None}
    return {"program_id": row[0], **fields, "event_data": msgspec.Raw(row[8].encode())}


def _may_use(key: Key, program_id: str) -> bool:
    owner = program(program_id)
    return owner is not None and key.may_use(owner.packed)


def _not_retryable(status: str) -> ApiError:
    return ApiError(NOT_RETRYABLE, f"only a FAILED event can be retried; this one is {status}")


def routes() -> list[Route]:
    """The routes of this module."""
    return [Route("/v1/events/{id:event_id}/retry", post_retry, methods=["POST"])]
