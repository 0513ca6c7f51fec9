"""`headrace up`, `status`, `down` as a user calls them, on real parts."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import psutil
import pytest
from click.testing import CliRunner

from deploy.cli import cli
from deploy.http import Client
from tests.stack import wait_until

HEADRACE = [sys.executable, "-m", "deploy.cli"]


@pytest.fixture
def environment() -> dict[str, str]:
    """This process's, without settings of Headrace's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}


def headrace(*arguments: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    command = [*HEADRACE, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)


def processes_of(data: Path) -> list[int]:
    """Pids of every process that has `data` in its command line."""
    every = psutil.process_iter(["pid", "cmdline"])
    return [found.pid for found in every if any(str(data) in part for part in found.info["cmdline"] or [])]


def get(stack: dict[str, Any], path: str, api_key: str) -> dict[str, Any]:
    with closing(Client(stack["url"], api_key)) as client:
        answer = client.get(path)
        assert answer.status == 200, answer
        return answer.json()


@pytest.mark.slow
@pytest.mark.chaos
def test_life_of_a_stack(tmp_path: Path, environment: dict[str, str]) -> None:
    data = tmp_path / "data"
    where = ("--data", str(data))
    try:
        first = _comes_up(where, environment)
        event_id = _send_one(first, where, environment)
        _refuses_a_second(data, where, environment)
        _starts_a_killed_worker_again(first, where, environment)
        _dies_with_its_supervisor(data)
        _is_found_again(first, event_id, data, environment)
    finally:
        headrace("down", *where, environment=environment)
    assert processes_of(data) == []
    gone = headrace("status", *where, environment=environment)
    assert (gone.returncode, gone.stderr) == (
        1,
        f"Error: nothing runs on {data}: start it with `headrace up`, or name its folder with --data\n",
    )


def _comes_up(where: tuple[str, str], environment: dict[str, str]) -> dict[str, Any]:
    done = headrace("up", "--detach", "--json", "--port", "0", "--partitions", "4", *where, environment=environment)
    assert done.returncode == 0, done.stderr
    stack: dict[str, Any] = json.loads(done.stdout)
    assert stack.keys() == {"url", "api_key", "kafka", "database_url", "processes"}
    assert [(found["role"], found["restarts"]) for found in stack["processes"]] == [
        ("postgres", 0),
        ("kafka", 0),
        ("worker", 0),
        ("gateway", 0),
    ]
    status = headrace("status", "--json", *where, environment=environment)
    assert json.loads(status.stdout) == {name: value for name, value in stack.items() if name != "api_key"}
    return stack


def _send_one(stack: dict[str, Any], where: tuple[str, str], environment: dict[str, str]) -> str:
    program_id = uuid.uuid4()
    event = {
        "program_id": str(program_id),
        "idempotency_key": "first",
        "event_timestamp": "2026-01-01T00:00:00Z",
        "external_id": "somebody",
        "event_data": {"n": 1},
    }
    command = [*HEADRACE, "send", "-", *where]
    line = json.dumps(event)
    sent = subprocess.run(command, env=environment, input=line, capture_output=True, text=True, timeout=60, check=True)
    assert sent.stdout == "1 accepted, 0 rejected\n"
    event_id = str(uuid.uuid5(program_id, "first"))
    assert get(stack, f"/v1/events/{event_id}?wait=20", stack["api_key"])["status"] == "COMPLETED"
    return event_id


def _refuses_a_second(data: Path, where: tuple[str, str], environment: dict[str, str]) -> None:
    second = headrace("up", "--port", "0", *where, environment=environment)
    told = f"Error: a stack already runs on {data}: see `headrace status`, stop it with `headrace down`\n"
    assert (second.returncode, second.stderr) == (1, told)


def _starts_a_killed_worker_again(stack: dict[str, Any], where: tuple[str, str], environment: dict[str, str]) -> None:
    worker = next(found["pid"] for found in stack["processes"] if found["role"] == "worker")
    os.kill(worker, signal.SIGKILL)

    def restarted() -> bool:
        status = json.loads(headrace("status", "--json", *where, environment=environment).stdout)
        return any(found["role"] == "worker" and found["restarts"] == 1 for found in status["processes"])

    wait_until(restarted, "the worker started again", timeout_s=20)


def _dies_with_its_supervisor(data: Path) -> None:
    supervisor = json.loads((data / "stack.json").read_bytes())["supervisor"][0]
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: processes_of(data) == [], "every process ended after its supervisor", timeout_s=30)


def _is_found_again(first: dict[str, Any], event_id: str, data: Path, environment: dict[str, str]) -> None:
    """A second `up`, this time in the foreground, on what the killed one left; Ctrl-C ends it in order."""
    command = [*HEADRACE, "up", "--json", "--port", "0", "--data", str(data)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as foreground:
        assert foreground.stdout is not None
        second = json.loads(foreground.stdout.readline())
        assert (second["api_key"], second["kafka"]) == (first["api_key"], first["kafka"])
        assert get(second, f"/v1/events/{event_id}", second["api_key"])["status"] == "COMPLETED"
        foreground.send_signal(signal.SIGINT)
        assert foreground.wait(40) == 0
    assert processes_of(data) == []


def test_taken_port_is_one_clear_line(tmp_path: Path, environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for extra in ([], ["--detach"]):
            done = headrace("up", "--data", str(tmp_path), "--port", str(port), *extra, environment=environment)
            assert done.returncode == 1
            told = f"Error: port {port} is taken: stop what uses it, or choose another with --port\n"
            assert (done.stdout, done.stderr) == ("", told)


def test_wrong_settings_are_told_all_at_once(environment: dict[str, str]) -> None:
    wrong = environment | {"HEADRACE_PROT": "1", "HEADRACE_PARTITIONS": "none"}
    done = headrace("migrate", environment=wrong)
    assert done.returncode == 1
    assert re.findall(r"HEADRACE_\w+", done.stderr) == ["HEADRACE_PARTITIONS", "HEADRACE_PROT"]


@pytest.mark.parametrize("command", cli.list_commands(click.Context(cli)))
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
