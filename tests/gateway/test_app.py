"""The application as uvicorn runs it: what it needs to start, and what it says where it cannot."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from starlette.routing import Route

from deploy.local import ports
from gateway.app import create_app
from schemas.keys import new_key

UVICORN = [sys.executable, "-m", "uvicorn", "gateway.app:app"]
START_S_MAX = 20


def free_port() -> int:
    (port,) = ports.pick(1)
    return port


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return kept | {f"HEADRACE_{name.upper()}": value for name, value in settings.items()}


@contextmanager
def running(log: Path, *options: str, **settings: str) -> Iterator[str]:
    """A gateway as the field's own command starts it; gives its URL."""
    port = free_port()
    with log.open("wb") as output:
        command = [*UVICORN, "--port", str(port), *options]
        process = subprocess.Popen(command, env=environment(**settings), stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_alive(url, process)
        yield url
    finally:
        process.terminate()
        assert process.wait(15) in {0, -signal.SIGTERM}  # uvicorn ends in order, then by the signal itself


def wait_until_alive(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S_MAX
    while True:
        try:
            requests.get(f"{url}/livez", timeout=1).raise_for_status()
        except (requests.ConnectionError, requests.Timeout):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def test_settings_that_cannot_be_used_are_said_plainly() -> None:
    done = subprocess.run(
        [*UVICORN, "--port", str(free_port())],
        env=environment(port="x", colour="red"),
        capture_output=True,
        text=True,
        timeout=START_S_MAX,
        check=False,
    )
    assert done.returncode == 3
    assert "HEADRACE_COLOUR: unknown setting" in done.stderr
    assert "HEADRACE_PORT='x': Expected `int`, got `str`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_it_starts_with_neither_kafka_nor_postgres(tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    log = tmp_path / "gateway.log"
    database_url = f"postgresql://user:hidden@{nobody}/x"
    with running(log, kafka=nobody, database_url=database_url, log_format="json") as url:
        ready = requests.get(f"{url}/readyz", timeout=5)
        assert (ready.status_code, ready.json()["code"]) == (503, "unavailable")
        assert {error["field"] for error in ready.json()["errors"]} == {"kafka", "postgres"}
        key = {"X-API-Key": new_key()[0]}
        for path in ("/v1/events", "/v1/events/550e8400-e29b-41d4-a716-446655440000"):
            begun_at = time.monotonic()
            answer = requests.get(url + path, headers=key, timeout=10)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert time.monotonic() - begun_at < 3, "it waited for the database, which takes five seconds"
        sent = requests.post(f"{url}/v1/events", headers=key, json={}, timeout=10)
        assert (sent.status_code, sent.json()["code"]) == (503, "unavailable")
        assert requests.post(f"{url}/v1/events", json={}, timeout=5).status_code == 401
        own = requests.get(f"{url}/nowhere", headers={"X-Request-Id": "mine"}, timeout=5)
        assert own.json() == {"code": "not_found", "message": "there is no such route", "request_id": "mine"}
    text = log.read_text()
    assert '"request_id": "mine"' in text
    assert "Traceback" not in text
    assert "hidden" not in text


def test_every_route_tells_its_methods() -> None:
    for route in create_app().routes:
        assert isinstance(route, Route)
        assert route.methods
