"""``GET /v1/programs/{program_id}/stats``: what a program's events come to."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.database import Database
from gateway.key import Key
from gateway.problems import ApiError
from gateway.reading import json_response
from schemas.errors import NOT_FOUND
from schemas.identity import program
from schemas.timestamps import timestamp_text

HOURS_MAX = 24 * 31

_TOTALS = """
select count(*), coalesce(sum(duplicate_count), 0)::bigint,
       coalesce(sum(jsonb_array_length(conflicts)), 0)::bigint, min(event_timestamp), max(event_timestamp)
from headrace.events where program_id = %s::uuid
"""
_BY_STATUS = "select status::text, count(*) from headrace.events where program_id = %s::uuid group by 1"
_BY_HOUR = """
select hour, status::text, events from headrace.hourly
where program_id = %s::uuid and events > 0 order by hour desc, status limit %s
"""


class HourCount(msgspec.Struct):
    """Events of one hour of ``event_timestamp`` (its start, UTC) with one final status."""

    hour: str
    status: str
    events: int


class Stats(msgspec.Struct):
    """A program's events; the hours are the latest first."""

    program_id: str
    total: int
    by_status: dict[str, int]
    by_hour: list[HourCount]
    duplicates: int
    conflicts: int
    first_event_at: str | None
    last_event_at: str | None


async def get_stats(request: Request) -> Response:
    """Answer the route."""
    key: Key = await request.app.state.keys.require(request, "read")
    owner = program(request.path_params["program_id"])
    if owner is None or not key.may_use(owner.packed):
        raise ApiError(NOT_FOUND, "there is no such program, or not for this key")
    database: Database = request.app.state.database
    ((total, duplicates, conflicts, first, last),) = await database.read(_TOTALS, [owner.text])
    statuses = await database.read(_BY_STATUS, [owner.text])
    hours = await database.read(_BY_HOUR, [owner.text, HOURS_MAX])
    stats = Stats(
        owner.text,
        total,
        dict(statuses),
        [HourCount(timestamp_text(hour), status, events) for hour, status, events in hours],
        duplicates,
        conflicts,
        None if first is None else timestamp_text(first),
        None if last is None else timestamp_text(last),
    )
    return json_response(stats)


def routes() -> list[Route]:
    """The routes of this module."""
    return [Route("/v1/programs/{program_id}/stats", get_stats, methods=["GET"])]
