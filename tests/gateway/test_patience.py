"""Requests wait for Kafka with one timer for all, each for its own time."""

import asyncio
from time import monotonic

import pytest

from gateway.outgoing import Batch
from gateway.patience import Patience
from gateway.producer import NotAcknowledgedError

pytestmark = pytest.mark.anyio

TIMEOUT_S = 1.2
SLACK_S = 0.9  # less than what a timer begun anew by the last of them would add


def batch() -> Batch:
    return Batch(1_000)


async def seconds_of(patience: Patience, *batches: Batch) -> float:
    begun_at = monotonic()
    await patience.settled(batches)
    return monotonic() - begun_at


async def test_it_ends_with_the_last_batch_acknowledged_or_lost() -> None:
    one, other = batch(), batch()
    waiting = asyncio.create_task(seconds_of(Patience(30.0), one, other))
    await asyncio.sleep(0.01)
    one.acknowledged.set_result(None)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    other.acknowledged.set_exception(NotAcknowledgedError())
    assert await waiting < 1
    assert await seconds_of(Patience(30.0), one, other) < 1  # both have ended already


async def test_each_has_its_own_time() -> None:
    patience = Patience(TIMEOUT_S)
    ended = batch()
    ended.acknowledged.set_result(None)
    waiting = []
    for _ in range(4):
        waiting.append(asyncio.create_task(seconds_of(patience, batch())))
        await asyncio.sleep(TIMEOUT_S / 3)
        assert await seconds_of(patience, ended) < TIMEOUT_S / 2
    for seconds in await asyncio.gather(*waiting):
        assert TIMEOUT_S - 0.01 < seconds < TIMEOUT_S + SLACK_S
    assert TIMEOUT_S - 0.01 < await seconds_of(patience, batch()) < TIMEOUT_S + SLACK_S  # after a rest


async def test_a_request_that_leaves_takes_nobody_along() -> None:
    patience = Patience(TIMEOUT_S)
    leaving, staying = [asyncio.create_task(seconds_of(patience, batch())) for _ in range(2)]
    await asyncio.sleep(0.01)
    leaving.cancel()
    assert TIMEOUT_S - 0.05 < await staying < TIMEOUT_S + SLACK_S


async def test_what_has_ended_is_not_kept() -> None:
    patience = Patience(30.0)
    for _ in range(100):
        ended = batch()
        ended.acknowledged.set_result(None)
        await patience.settled([ended])
    assert len(patience._waiting) <= 1  # noqa: SLF001
