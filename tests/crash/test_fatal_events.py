"""An event whose handler ends the worker each time: found, and given up after a bounded number of deaths."""

import signal

import pytest

from processors import exits
from processors.suspects import ALONE_AFTER, GIVEN_UP_AFTER
from tests.crash.world import World
from tests.stack import Stack

STALL_S = 2
WAIT_S = 40.0

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


def _deaths(world: World, code: int, said: str = "") -> int:
    """Start the worker again each time it dies, as its supervisor would; how often it did before all was settled."""
    deaths = 0
    while True:
        worker = world.start_worker(wait=False, stall_timeout_s=str(STALL_S))
        while not worker.wait(0.1):
            if world.settled():
                return deaths
        assert worker.exit_code() == code, worker.failure()
        assert said in worker.failure()
        world.stack.kill_worker()
        deaths += 1
        assert deaths <= ALONE_AFTER + GIVEN_UP_AFTER


def test_an_event_that_kills_its_worker_is_found_among_others(bare_stack: Stack) -> None:
    world = World(bare_stack, seed=577)
    *_, fatal = world.send(*[{}] * 12, {"do": "die"})
    world.send(*[{}] * 12)
    assert _deaths(world, -signal.SIGKILL) == ALONE_AFTER + GIVEN_UP_AFTER
    world.check()
    _assert_given_up(world, fatal)


def test_a_handler_that_blocks_the_event_loop_ends_its_worker_each_time_until_it_is_given_up(bare_stack: Stack) -> None:
    world = World(bare_stack, seed=1_414)
    (fatal,) = world.send({"do": "block"})
    assert _deaths(world, exits.STALLED, "the event loop has not run for") == GIVEN_UP_AFTER
    world.check()
    _assert_given_up(world, fatal)


def _assert_given_up(world: World, fatal: object) -> None:
    found = world.rows("select error_code, error_message, attempts from headrace.events where id = %s", fatal)
    assert found == [
        ("handler_crashed", "3 workers have ended one after the other while they were at this event alone", 1)
    ]
