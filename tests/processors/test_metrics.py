"""A worker's metrics, as Prometheus fetches them, held to what was sent."""

import socket
import urllib.request
from pathlib import Path

import pytest

from deploy.local import ports
from processors import exits
from schemas import topics
from tests.crash.world import World
from tests.processors.lab import rows
from tests.stack import Stack, wait_until


def _fetch(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    split = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name.removeprefix("headrace_worker_"): float(value) for name, value in split}


def _all_counted(found: dict[str, float]) -> bool:
    again = 'records_total{topic="events.retry"}'
    idle = found["lag"] == 0 == found["chunks_in_flight"]
    return idle and found.get(again) == found["retries_planned_total"]


def _finish_what_others_left(world: World) -> None:
    """So that the worker that is looked at meets nothing but what this test sends."""
    rows(world.stack.database_url, "delete from headrace.retries")
    worker = world.start_worker()
    for topic in (topics.EVENTS, topics.RETRY):
        wait_until(lambda topic=topic: world.committed(topic) == world.ends(topic), f"{topic} done")  # type: ignore[misc]
    waiting = "select count(*) from headrace.retries"
    wait_until(lambda: world.rows(waiting) == [(0,)], "no attempt left", 90)
    assert worker.exit_code() is None
    world.stack.stop_worker()


@pytest.mark.slow
def test_they_add_up_to_what_was_sent(bare_stack: Stack) -> None:
    world = World(bare_stack, seed=1_732)
    (port,) = ports.pick(1)
    _finish_what_others_left(world)
    world.start_worker(worker_metrics_port=str(port))
    world.publish(300, share=0.1)
    world.wait()
    # A chunk is counted after its commit, at which its events were settled.
    wait_until(lambda: _all_counted(_fetch(port)), "lag 0, every attempt counted", 10)
    found = _fetch(port)
    (counted,) = rows(
        bare_stack.database_url,
        """select sum(duplicate_count), sum(jsonb_array_length(coalesce(conflicts, '[]'))), sum(attempts - 1)
           from headrace.events where program_id = any(%s::uuid[])""",
        world.programs,
    )
    assert (found["duplicates_total"], found["conflicts_total"], found["retries_planned_total"]) == counted
    letters = {name: value for name, value in found.items() if name.startswith("dead_letters_total")}
    assert letters == {f'dead_letters_total{{code="{code}"}}': count for code, count in world.letters().items()}
    assert found['records_total{topic="events"}'] == 300
    assert found['records_total{topic="events.retry"}'] == found["retries_planned_total"] > 0
    assert found["chunks_total"] >= 300 / 40
    assert found["table_entries"] >= 200
    assert found["changelog_seconds_count"] > 0
    assert 0 < found["recovery_seconds"] < 30
    assert (found["postgres_waiting"], found["postgres_waits_total"], found["chunks_in_flight"]) == (0, 0, 0)
    assert found["seconds_since_progress"] < 5


def test_a_port_that_is_taken_is_one_clear_line(bare_stack: Stack, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        worker = bare_stack.start_worker(wait=False, worker_metrics_port=str(port), table_dir=str(tmp_path))
        assert worker.wait(20)
    assert worker.exit_code() == exits.CONFIGURATION
    assert f"metrics cannot be served on 127.0.0.1:{port}: Address already in use" in worker.failure()
