"""Requests gather where many events come, and only there; nobody waits long, nor for somebody who does not come."""

import asyncio
from collections.abc import Awaitable, Callable

from gateway import gathering
from gateway.gathering import BUSY_EVENTS_PER_S, ENOUGH_EVENTS, PAUSE_S, Gathering

WINDOW_S = gathering._WINDOW_S  # noqa: SLF001 - as long as it takes to notice that many events come


async def after_rush(test: Callable[[Gathering], Awaitable[None]], requests_at_once: int) -> None:
    """Run `test` where many events have come for a while, from so many requests at once."""
    here = Gathering()
    rush = [asyncio.create_task(here.join(BUSY_EVENTS_PER_S)) for _ in range(requests_at_once)]
    await asyncio.wait(rush)
    for _ in rush:
        here.leave()
    await asyncio.sleep(WINDOW_S * 1.1)
    await test(here)


def joined(here: Gathering, events: int = 1) -> "asyncio.Task[None]":
    return asyncio.create_task(here.join(events))


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_few_events_wait_for_nobody() -> None:
    async def run() -> None:
        here = Gathering()
        requests = [joined(here) for _ in range(20)]
        await turns()
        assert all(request.done() for request in requests)

    asyncio.run(run())


def test_many_events_wait_for_as_many_requests_as_there_were() -> None:
    async def test(here: Gathering) -> None:
        first = [joined(here), joined(here)]
        await turns()
        assert not any(request.done() for request in first)
        last = joined(here)
        await turns()
        assert all(request.done() for request in [*first, last])

    asyncio.run(after_rush(test, requests_at_once=3))


def test_a_producer_that_sends_one_request_after_the_other_is_not_held_up() -> None:
    async def test(here: Gathering) -> None:
        for _ in range(5):
            request = joined(here, 100)
            await turns()
            assert request.done()
            here.leave()

    asyncio.run(after_rush(test, requests_at_once=1))


def test_enough_events_wait_for_nobody_else() -> None:
    async def test(here: Gathering) -> None:
        requests = [joined(here, ENOUGH_EVENTS // 2) for _ in range(2)]
        await turns()
        assert all(request.done() for request in requests)

    asyncio.run(after_rush(test, requests_at_once=10))


def test_nobody_waits_longer_than_the_pause() -> None:
    async def test(here: Gathering) -> None:
        began = asyncio.get_running_loop().time()
        await here.join(1)
        assert asyncio.get_running_loop().time() - began >= PAUSE_S * 0.9

    asyncio.run(asyncio.wait_for(after_rush(test, requests_at_once=10), timeout=2))


def test_a_request_that_is_given_up_takes_nobody_with_it() -> None:
    async def test(here: Gathering) -> None:
        first, other = joined(here), joined(here)
        await turns()
        first.cancel()
        await asyncio.wait([other], timeout=5)
        assert other.done()
        assert other.exception() is None

    asyncio.run(after_rush(test, requests_at_once=10))


def test_the_rush_is_forgotten() -> None:
    async def test(here: Gathering) -> None:
        await asyncio.sleep(WINDOW_S * 2)
        request = joined(here)
        await turns()
        assert request.done()

    asyncio.run(after_rush(test, requests_at_once=10))
