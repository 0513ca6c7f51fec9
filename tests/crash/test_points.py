"""A worker killed at each point of a chunk's way, twice, and started again: everything is there, once.

The second kill is in the middle of doing again what the first one cut off.
"""

import signal

import pytest

from processors import failpoints
from tests.crash.world import World
from tests.stack import Stack

RECORDS = 700
KILL_WAIT_S = 40.0

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


@pytest.mark.parametrize("point", failpoints.NAMES)
def test_killed_at_a_point_everything_is_there_once(bare_stack: Stack, point: str) -> None:
    world = World(bare_stack, seed=3_141)
    world.publish(RECORDS)
    for passing in (5, 1):
        _killed(world, f"{point}:{passing}")
        assert not world.settled(), "it was to be killed before the end"
    world.start_worker()
    world.wait()
    world.check()


def _killed(world: World, fail_point: str) -> None:
    worker = world.start_worker(wait=False, test_fail_point=fail_point)
    assert worker.wait(KILL_WAIT_S), f"{fail_point} was not passed (log: {worker.spec.log})"
    assert worker.exit_code() == -signal.SIGKILL, worker.failure()
    world.stack.kill_worker()


def test_a_point_that_does_not_exist_is_refused(bare_stack: Stack) -> None:
    worker = bare_stack.start_worker(wait=False, test_fail_point="before-lunch")
    assert worker.wait(KILL_WAIT_S)
    assert "there is no fail point 'before-lunch'" in worker.failure()
