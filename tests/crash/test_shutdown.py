"""SIGTERM under load: within ten seconds, with nothing lost, nothing done again, and the others at work at once."""

import json
import re
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import pytest

from schemas import topics
from tests.conftest import PARTITIONS
from tests.crash import world as worlds
from tests.crash.world import World
from tests.stack import Stack, frozen

STOP_WITHIN_S = 10.0
TAKEN_OVER_WITHIN_S = 20.0
SENDERS = 6

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


def _stopped(stack: Stack, name: str) -> float:
    """Stop a process in order; how long that took."""
    process = stack.processes.pop(name)
    begun = time.monotonic()
    process.signal(signal.SIGTERM)
    assert process.wait(STOP_WITHIN_S + 5), f"{name} does not end"
    took_s = time.monotonic() - begun
    assert process.exit_code() == 0, process.failure()
    assert took_s < STOP_WITHIN_S
    return took_s


def test_a_gateway_answers_what_it_has_and_every_200_is_in_kafka(bare_stack: Stack, program_id: str) -> None:
    bare_stack.start_gateway()
    starts = worlds.ends(bare_stack.kafka, topics.EVENTS)
    stop = threading.Event()

    def send(sender: int) -> tuple[list[str], int]:
        accepted: list[str] = []
        refused = 0
        with httpx.Client(headers=bare_stack.headers, timeout=STOP_WITHIN_S + 5) as client:
            for number in range(10_000):
                if stop.is_set() and refused:
                    break
                body = {"events": [_event(program_id, f"{sender}-{number}-{index}") for index in range(20)]}
                try:
                    answer = client.post(f"{bare_stack.url}/v1/events/batch", json=body)
                except httpx.TimeoutException:
                    raise
                except httpx.TransportError:  # closed, or nobody listens any more
                    refused += 1
                    continue
                results = answer.json()["results"] if answer.status_code == 200 else []
                accepted += [found["event"]["id"] for found in results if found["status"] == "accepted"]
        return accepted, refused

    with ThreadPoolExecutor(SENDERS) as pool:
        sending = [pool.submit(send, number) for number in range(SENDERS)]
        time.sleep(1.5)
        _stopped(bare_stack, "gateway-0")
        stop.set()
        outcomes = [future.result() for future in sending]
    accepted = {id_ for ids, _ in outcomes for id_ in ids}
    assert len(accepted) > 500
    assert all(refused for _, refused in outcomes), "it was not under load when it stopped"
    records = worlds.read(bare_stack.kafka, topics.EVENTS, starts)
    kept = [json.loads(value) for value in records if program_id.encode() in value]
    ids = {str(uuid.uuid5(uuid.UUID(program_id), event["idempotency_key"])) for event in kept}
    assert accepted <= ids


def _event(program_id: str, key: str) -> dict[str, Any]:
    return {
        "program_id": program_id,
        "idempotency_key": key,
        "event_timestamp": "2024-01-15T10:30:00Z",
        "external_id": "somebody",
        "event_data": {"cents": 1},
    }


def test_a_worker_leaves_nothing_to_do_again_and_another_takes_over(bare_stack: Stack) -> None:
    world = World(bare_stack, seed=2_236)
    for number in (0, 1):
        world.start_worker(number, chunk_events_max="20")
    world.publish(3_000, do=())
    _stopped(bare_stack, "worker-0")
    stopped = time.monotonic()
    assert not world.settled(), "it was not under load when it stopped"
    world.wait()
    assert time.monotonic() - stopped < TAKEN_OVER_WITHIN_S / 2, "waited for the session of one that has left"

    world.start_worker(0)
    world.publish(300, do=())
    assert _held(bare_stack, 0), "it got no partitions back"
    bare_stack.kill_worker(0)
    killed = time.monotonic()
    world.wait()
    assert time.monotonic() - killed < TAKEN_OVER_WITHIN_S
    world.check()


def _held(stack: Stack, number: int) -> str:
    log = (stack.folder / "logs" / f"worker-{number}.log").read_text()
    return str(re.findall(r"ready: generation \d+, partitions \[(.*)\]", log)[-1])


def test_a_worker_alone_has_committed_exactly_what_it_has_done(bare_stack: Stack) -> None:
    world = World(bare_stack, seed=2_645)
    world.start_worker(chunk_events_max="20")
    world.publish(3_000, do=())
    _stopped(bare_stack, "worker-0")
    assert not world.settled(), "it was not under load when it stopped"
    noted = world.rows("select kafka_partition, next_offset from headrace.progress where topic = %s", topics.EVENTS)
    assert world.committed() == dict.fromkeys(range(PARTITIONS), 0) | dict(noted)
    world.start_worker()
    world.wait()
    world.check()


def test_a_gateway_that_waits_for_kafka_in_vain_still_answers_each_request(bare_stack: Stack, program_id: str) -> None:
    """Kafka is deaf when the gateway is told to stop: what waits is told to come back, in JSON, and nothing hangs."""
    kafka = bare_stack.backend.processes.get("kafka")
    if kafka is None:
        pytest.fail("this test stops the tests' own Kafka: it needs HEADRACE_TEST_BACKEND=local")
    bare_stack.start_gateway()

    def send(number: int) -> httpx.Response:
        body = {"events": [_event(program_id, f"{number}")]}
        return httpx.post(
            f"{bare_stack.url}/v1/events/batch", json=body, headers=bare_stack.headers, timeout=3 * STOP_WITHIN_S
        )

    with frozen(kafka.pid), ThreadPoolExecutor(SENDERS) as pool:
        sending = [pool.submit(send, number) for number in range(SENDERS)]
        time.sleep(0.5)
        assert not any(future.done() for future in sending)
        _stopped(bare_stack, "gateway-0")
        answers = [future.result() for future in sending]
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    log = (bare_stack.folder / "logs" / "gateway-0.log").read_text()
    assert "Traceback" not in log
