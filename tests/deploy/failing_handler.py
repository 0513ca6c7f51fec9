"""A handler that refuses what its events tell it to refuse: it makes dead letters of failed events."""

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from processors.handling import Job, Reject


async def handle(jobs: Sequence[Job], connection: AsyncConnection[Any]) -> list[Any]:
    """Reject events with ``{"reject": true}``; with ``{"then": "succeed"}`` only at the first try."""
    del connection
    return [_outcome(job) for job in jobs]


def _outcome(job: Job) -> dict[str, str] | Reject | None:
    if not job.event_data.get("reject"):
        return None
    if job.failed_before and job.event_data.get("then") == "succeed":
        return {"second": "chance"}
    return Reject(job.event_data.get("code", "not_wanted"), "told to refuse")
