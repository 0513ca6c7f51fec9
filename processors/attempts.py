"""Attempts at events: what the handlers made of each, and when one that failed is tried again."""

from collections.abc import Sequence
from datetime import timedelta

from processors import store
from processors.handling import Finish, Job, Reject, describe, storable_text
from processors.records import Arrival, BadRecord
from processors.rows import Row
from processors.runner import Outcome, Runner
from schemas.errors import HANDLER_FAILED

ATTEMPTS_MAX = 6
"""The first one in log order, then five aside."""
_FIRST_DELAY_S = 2

COMPLETED = "COMPLETED"
FAILED = "FAILED"
PROCESSING = "PROCESSING"


class Attempted(Row, kw_only=True, gc=False):
    """One attempt's end, as the row of an event that is new. Status PROCESSING: it is to be tried again."""

    job: Job

    @property
    def failed(self) -> bool:
        """Whether the event has failed for good."""
        return self.status == FAILED

    def letter(self) -> BadRecord:
        """The dead letter of an event that has failed for good."""
        event = self.arrival.event
        reason = self.error_message or ""
        return BadRecord(self.error_code or HANDLER_FAILED, reason, self.arrival.record, event.program.packed, event.id)


class Attempts:
    """Runs the handlers and decides what their outcomes mean."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def first(
        self, connection: store.Connection, arrivals: Sequence[Arrival], blame: BaseException | None
    ) -> list[Attempted]:
        """The first attempt at new events."""
        jobs = [Job(arrival.event, 1, arrival.received_at) for arrival in arrivals]
        return await self.run(connection, arrivals, jobs, blame)

    async def run(
        self,
        connection: store.Connection,
        arrivals: Sequence[Arrival],
        jobs: Sequence[Job],
        blame: BaseException | None = None,
    ) -> list[Attempted]:
        """One attempt at each job; where `blame` is given that is its outcome, and the handlers are not called."""
        outcomes = await self._runner.run(jobs, connection) if blame is None else [blame] * len(jobs)
        return [judge(*one) for one in zip(arrivals, jobs, outcomes, strict=True)]

    async def schedule(self, connection: store.Connection, attempted: Sequence[Attempted]) -> None:
        """Plan the next attempt at what is to be tried again."""
        await store.schedule(
            connection,
            [
                (one.arrival, one.job.attempt + 1, delay_after(one.job.attempt))
                for one in attempted
                if one.status == PROCESSING
            ],
        )

    async def finish(self, connection: store.Connection, attempted: Sequence[Attempted]) -> None:
        """Show the handlers what has got a final status."""
        if not self._runner.shows_finished:
            return
        finishes = [Finish(one.job, one.status) for one in attempted if one.final]
        await self._runner.finish(finishes, connection)


def delay_after(attempt: int) -> timedelta:
    """How long to wait after the attempt of that number: 2, 4, 8, 16, 32 s."""
    return timedelta(seconds=_FIRST_DELAY_S * 2 ** (attempt - 1))


def judge(arrival: Arrival, job: Job, outcome: Outcome) -> Attempted:
    """What an outcome means for its event."""
    offset = arrival.offset
    if not isinstance(outcome, BaseException):
        return Attempted(arrival, COMPLETED, True, offset, 0, None, None, None, outcome, job=job)
    if isinstance(outcome, Reject):
        status, code, message = FAILED, storable_text(outcome.code), storable_text(outcome.message)
    else:
        status, code, message = PROCESSING, HANDLER_FAILED, describe(outcome)
        if job.attempt >= ATTEMPTS_MAX:
            status = FAILED
    final = status in store.FINAL
    return Attempted(arrival, status, final, offset, error_code=code, error_message=message, job=job)
