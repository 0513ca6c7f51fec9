"""Postgres gone for a while: the worker waits, stays a member of its group, and catches up; no event suffers.

``HEADRACE_TEST_OUTAGE_S`` says for how long, in all (``make outage``: more than ten minutes).
"""

import contextlib
import logging
import os
import signal
import time

import psutil
import psycopg
import pytest

from deploy.process import Process
from tests.crash.world import World
from tests.stack import Stack, wait_until

OUTAGE_S = float(os.environ.get("HEADRACE_TEST_OUTAGE_S", "15"))
SESSION_MS = 6_000
BACK_WITHIN_S = 20.0

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(2 * OUTAGE_S + 180)]


def test_an_outage_of_postgres_is_waited_out(bare_stack: Stack) -> None:
    """First deaf (its processes are stopped), then down (killed); both last longer than a session of the group."""
    if "postgres" not in bare_stack.backend.processes:
        pytest.fail("this test stops the tests' own Postgres: it needs HEADRACE_TEST_BACKEND=local")
    world = World(bare_stack, seed=1_618)
    worker = world.start_worker(session_timeout_ms=str(SESSION_MS))
    world.publish(200)
    world.wait()
    said = worker.spec.log.stat().st_size
    for name, share, begin, end in (("deaf", 0.5, _stop, _go_on), ("down", 0.5, _kill, _start)):
        world.publish(300)
        begin(bare_stack)
        try:
            _publish_for(world, share * OUTAGE_S)
        finally:
            end(bare_stack)
        back = time.monotonic()
        world.wait(BACK_WITHIN_S + OUTAGE_S / 10)
        log.info("caught up %.1f s after a Postgres %s for %.0f s", time.monotonic() - back, name, share * OUTAGE_S)
    world.check()
    assert worker.exit_code() is None
    lines = worker.spec.log.read_text()[said:]
    assert "waiting for postgres" in lines or "error connecting" in lines
    assert "ready: generation" not in lines, "it lost its membership and joined again"


def _publish_for(world: World, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        world.publish(20)
        time.sleep(min(2.0, max(0.0, until - time.monotonic())))


def _stop(stack: Stack) -> None:
    """Make it deaf: its connections stay open, and nothing answers."""
    _signal_all(stack, signal.SIGSTOP)


def _go_on(stack: Stack) -> None:
    _signal_all(stack, signal.SIGCONT)


def _signal_all(stack: Stack, number: signal.Signals) -> None:
    server = psutil.Process(stack.backend.processes["postgres"].pid)
    for process in [server, *server.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _kill(stack: Stack) -> None:
    stack.backend.processes["postgres"].kill()


def _start(stack: Stack) -> None:
    """Start it again on what it had; the first tries may find the killed one's children still there."""

    def up() -> bool:
        if stack.backend.processes["postgres"].exit_code() is not None:
            stack.backend.processes["postgres"] = Process(stack.backend.processes["postgres"].spec)
        try:
            psycopg.connect(stack.database_url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    wait_until(up, "Postgres is up again", 60)
