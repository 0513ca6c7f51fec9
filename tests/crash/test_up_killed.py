"""`headrace up` with every process of its stack killed at once, under load, and started again on the same data."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from tests.processors.lab import rows
from tests.stack import wait_until

SENDERS = 4
LOAD_S = 2.0

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.long]


def _headrace(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    command = [sys.executable, "-m", "deploy.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)


def _up(data: Path) -> dict[str, Any]:
    done = _headrace("up", "--detach", "--json", "--port", "0", "--partitions", "4", "--data", str(data))
    assert done.returncode == 0, done.stderr
    stack: dict[str, Any] = json.loads(done.stdout)
    return stack


def _kill_everything(data: Path, stack: dict[str, Any]) -> None:
    """Supervisor first, so that it starts nothing again; the others have no time to notice."""
    supervisor = json.loads((data / "stack.json").read_bytes())["supervisor"][0]
    roots = [psutil.Process(pid) for pid in (supervisor, *(found["pid"] for found in stack["processes"]))]
    everyone = {process.pid: process for root in roots for process in [root, *root.children(recursive=True)]}
    for process in everyone.values():
        with contextlib.suppress(psutil.NoSuchProcess):  # some end by themselves when their parent is gone
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(list(everyone.values()), timeout=10)


def _send(stack: dict[str, Any], program_id: str, sender: int, stop: threading.Event) -> list[tuple[str, int]]:
    """Send one batch after the other until nobody answers; the accepted ids, each with what it is worth."""
    accepted: list[tuple[str, int]] = []
    with httpx.Client(headers={"X-API-Key": stack["api_key"]}, timeout=10) as client:
        for number in range(100_000):
            events = [
                {
                    "program_id": program_id,
                    "idempotency_key": f"{sender}-{number}-{index}",
                    "event_timestamp": "2024-01-15T10:30:00Z",
                    "external_id": "somebody",
                    "event_data": {"cents": number * 100 + index},
                }
                for index in range(20)
            ]
            try:
                answer = client.post(f"{stack['url']}/v1/events/batch", json={"events": events})
            except httpx.HTTPError:
                return accepted
            if answer.status_code != 200:  # Kafka dies before the gateway does
                return accepted
            for event, found in zip(events, answer.json()["results"], strict=True):
                if found["status"] == "accepted":
                    accepted.append((found["event"]["id"], event["event_data"]["cents"]))  # type: ignore[index]
            if stop.is_set():
                return accepted
    return accepted


def test_what_was_acknowledged_is_there_after_everything_was_killed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    program_id = str(uuid.uuid4())
    stop = threading.Event()
    try:
        stack = _up(data)
        with ThreadPoolExecutor(SENDERS) as pool:
            sending = [pool.submit(_send, stack, program_id, sender, stop) for sender in range(SENDERS)]
            time.sleep(LOAD_S)
            _kill_everything(data, stack)
            stop.set()
            accepted = dict(pair for future in sending for pair in future.result())
        assert len(accepted) > 200
        again = _up(data)
        query = """select id::text, (event_data->>'cents')::int from headrace.events
                   where program_id = %s and status = 'COMPLETED'"""

        def found() -> dict[str, int]:
            return dict(rows(again["database_url"], query, program_id))

        wait_until(lambda: accepted.items() <= found().items(), "every event that was acknowledged", 40)
    finally:
        assert _headrace("down", "--data", str(data)).returncode == 0
