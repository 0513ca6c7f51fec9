"""The reading routes: one event, and pages of events.

A key that is limited to programs sees no others: not in lists, and not by the difference between two errors.
"""

import math
from typing import LiteralString
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.cursors import Position, Signer
from gateway.database import Database
from gateway.events import COLUMNS, FINAL_STATUSES, EventAnswer, EventPage, Pagination, from_claim, from_row
from gateway.key import Key
from gateway.pages import page_sql
from gateway.paths import event_id_in, no_such_event
from gateway.problems import ApiError, field_error, in_one_line, unavailable
from gateway.queries import read_query, sort_instant
from gateway.waiting import WAIT_S_MAX
from schemas.errors import INVALID_REQUEST
from schemas.identity import program

_SELECT_EVENT: LiteralString = f"select {COLUMNS} from headrace.events where id = %s::uuid"  # noqa: S608 - of literals
_SELECT_CLAIM: LiteralString = "select record, claimed_at from headrace.claims where id = %s::uuid"
_SELECT_SECRET: LiteralString = "select value from headrace.meta where name = 'cursor_secret'"  # noqa: S105 - a query
_PAGE_COLUMNS: LiteralString = f"{COLUMNS}, created_at, event_timestamp, uuid_send(id)"
_EXTRA_COLUMNS = 3

_HEADERS = {"Cache-Control": "no-store"}

_encode = msgspec.json.Encoder().encode


def json_response(content: object) -> Response:
    """A 200 with `content` as JSON."""
    return Response(_encode(content), headers=_HEADERS, media_type="application/json")


class CursorSigner:
    """The installation's signer, made from its secret in Postgres at first need and then kept."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._signer: Signer | None = None

    async def get(self) -> Signer:
        """The signer. Raises ApiError `unavailable`."""
        if self._signer is None:
            rows = await self._database.read(_SELECT_SECRET, [])
            if not rows:
                raise unavailable("the database has no cursor secret: run `headrace migrate`")
            self._signer = Signer(bytes(rows[0][0]))
        return self._signer


async def get_event(request: Request) -> Response:
    """Answer ``GET /v1/events/{id}``."""
    key = await request.app.state.keys.require(request, "read")
    seconds = _wait_seconds(request.scope["query_string"])
    event_id = event_id_in(request)
    database: Database = request.app.state.database
    event = await _find(database, key, event_id)
    # Without claims an accepted event is unknown until it is processed: then waiting is for that as well.
    may_appear = event is None and request.app.state.settings.idempotency_check == "deferred"
    if seconds > 0 and (may_appear or (event is not None and event.status not in FINAL_STATUSES)):
        await request.app.state.waiting.until_final(event_id, seconds)
        event = await _find(database, key, event_id)
    if event is None:
        raise no_such_event()
    return json_response(event)


async def _find(database: Database, key: Key, event_id: str) -> EventAnswer | None:
    """The event, as far as the key may see it. Raises ApiError `unavailable`."""
    event = None
    rows = await database.read(_SELECT_EVENT, [event_id])
    if rows:
        event = from_row(rows[0])
    else:  # a claim outlives the moment at which its event is written, so that none is missed between the two
        claims = await database.read(_SELECT_CLAIM, [event_id])
        if claims:
            event = from_claim(event_id, *claims[0])
    if event is None:
        return None
    owner = program(event.program_id)
    return event if owner is not None and key.may_use(owner.packed) else None


def _wait_seconds(query_string: bytes) -> float:
    """The value of ``wait``, 0 where it is not given. Raises ApiError `invalid_request`."""
    if not query_string:
        return 0.0
    pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    wrong = [field_error(name, "is not a parameter of this route") for name, _ in pairs if name != "wait"]
    seconds = 0.0
    for text in [text for name, text in pairs if name == "wait"]:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= WAIT_S_MAX:
            wrong.append(field_error("wait", f"must be a number of seconds from 0 to {WAIT_S_MAX:g}"))
    if wrong:
        raise ApiError(INVALID_REQUEST, in_one_line(wrong), wrong)
    return seconds


async def list_events(request: Request) -> Response:
    """Answer ``GET /v1/events``."""
    key = await request.app.state.keys.require(request, "read")
    signer = await request.app.state.cursors.get()
    query = read_query(request.scope["query_string"], signer)
    statement, params = page_sql(query, _PAGE_COLUMNS, key.program_ids)
    # Planned anew each time: which index is best depends on the filters' values.
    rows = await request.app.state.database.read(statement, params, prepare=False)
    has_more = len(rows) > query.limit
    del rows[query.limit :]
    next_cursor = None
    if has_more:
        created_at, event_timestamp, packed = rows[-1][-_EXTRA_COLUMNS:]
        position = Position(sort_instant(query, created_at, event_timestamp), bytes(packed))
        next_cursor = signer.encode(position, query.digest)
    page = EventPage([from_row(row[:-_EXTRA_COLUMNS]) for row in rows], Pagination(has_more, next_cursor))
    return json_response(page)


def routes() -> list[Route]:
    """The reading routes."""
    return [
        Route("/v1/events", list_events, methods=["GET"]),
        Route("/v1/events/{id:event_id}", get_event, methods=["GET"]),
    ]
