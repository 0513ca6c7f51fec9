"""`headrace events`: lists, single events and retries, through the real gateway."""

import json
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deploy import reading
from deploy.cli import cli
from deploy.errors import DeployError
from deploy.http import Answer, Client, Unreachable
from gateway.queries import FILTERS
from tests.deploy import letters
from tests.deploy.letters import await_status, event, failed_event
from tests.stack import Stack

BIG = "1234567890123456789012345678901234567890"
EXACT = "0.1000000000000000055"


def run(stack: Stack, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["events", *arguments, "--url", stack.url, "--key", stack.api_key])


@pytest.fixture
def stack(failing_stack: Stack) -> Stack:
    return failing_stack


def send(stack: Stack, program_id: str, keys: list[str], **more: object) -> list[str]:
    """Send events; their ids, once they are processed."""
    sent = [event(program_id, key) | more for key in keys]
    for at in range(0, len(sent), 100):
        answer = letters.post(stack, "/v1/events/batch", {"events": sent[at : at + 100]})
        assert answer["error_count"] == 0, answer
    ids = [str(uuid.uuid5(uuid.UUID(program_id), key)) for key in keys]
    await_status(stack.database_url, ids[-1], "COMPLETED")
    return ids


def listed(stack: Stack, *arguments: str) -> list[dict[str, Any]]:
    done = run(stack, "list", "--json", *arguments)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_all_follows_the_cursors(stack: Stack, program_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAGE_EVENTS_MAX", 10)
    ids = send(stack, program_id, [f"k{number:02}" for number in range(25)])
    where = ("--program-id", program_id, "--sort-dir", "asc")
    found = [one["id"] for one in listed(stack, "--all", *where)]
    assert (sorted(found), len(found)) == (sorted(ids), 25)
    assert [one["id"] for one in listed(stack, "--limit", "12", *where)] == found[:12]
    assert [one["id"] for one in listed(stack, "--all", "--program-id", program_id)] == found[::-1]
    some = run(stack, "list", "--limit", "20", *where)
    assert some.stderr == "… there are more than 20: --limit or --all\n"
    assert run(stack, "list", "--limit", "25", *where).stderr == ""


def test_every_filter_reaches_the_gateway(stack: Stack, program_id: str) -> None:
    participant, recipient = str(uuid.uuid4()), str(uuid.uuid4())
    name = f"Ä & {participant}"
    more = {"external_id": name, "participant_id": participant, "recipient_id": recipient}
    wanted, _ = send(stack, program_id, ["wanted", "other"], **more)
    created = listed(stack, "--program-id", program_id, "--idempotency-key", "wanted")[0]["created_at"]
    given = {
        "program_id": program_id,
        "status": "COMPLETED",
        "event_type": "EXTERNAL",
        "participant_id": participant,
        "external_id": name,
        "recipient_id": recipient,
        "idempotency_key": "wanted",
        "from": created,
        "to": "2100-01-01T00:00:00+02:00",
        "event_from": "2026-01-01T00:00:00Z",
        "event_to": "2026-01-01T00:00:01Z",
    }
    assert given.keys() == FILTERS.keys()
    options = [part for key, value in given.items() for part in (f"--{key.replace('_', '-')}", value)]
    assert [one["id"] for one in listed(stack, *options)] == [wanted]
    against = {
        "status": "FAILED",
        "event_type": "SYSTEM",
        "participant_id": recipient,
        "external_id": "nobody",
        "recipient_id": participant,
        "idempotency_key": "none",
        "from": "2100-01-01T00:00:00Z",
        "to": "2000-01-01T00:00:00Z",
        "event_from": "2026-01-01T00:00:01Z",
        "event_to": "2026-01-01T00:00:00Z",
    }
    for key, value in against.items():
        assert listed(stack, "--program-id", program_id, f"--{key.replace('_', '-')}", value) == [], key


def test_table_fits_and_steers_no_terminal(stack: Stack, program_id: str) -> None:
    key = "長い" * 60 + "\x1b[2J"
    (event_id,) = send(stack, program_id, [key], external_id="\x1b[31m" + "x" * 200)
    failed = failed_event(stack, program_id, "f")
    lines = run(stack, "list", "--program-id", program_id, "--sort-dir", "asc").stdout.splitlines()
    assert lines[0].split() == ["id", "created_at", "status", "idempotency_key", "external_id", "error_code"]
    assert [line.split()[0] for line in lines[1:]] == [event_id, failed]
    assert lines[2].split()[2:] == ["FAILED", "f", "somebody", "not_wanted"]
    assert max(map(len, lines)) <= 120
    assert "\x1b" not in "".join(lines)


def test_get_shows_every_digit(stack: Stack, program_id: str) -> None:
    body = event(program_id, "k") | {"event_data": "DATA"}
    text = json.dumps(body).replace('"DATA"', f'{{"big":{BIG},"exact":{EXACT}}}')
    with closing(Client(stack.url, stack.api_key)) as client:
        event_id = client.post("/v1/events", text.encode()).json()["id"]
    told = run(stack, "get", event_id, "--wait", "20", "--json")
    assert f'"event_data":{{"big":{BIG},"exact":{EXACT}}}' in told.stdout.replace(": ", ":").replace(", ", ",")
    assert json.loads(told.stdout)["status"] == "COMPLETED"
    lines = run(stack, "get", event_id).stdout.splitlines()
    assert f"{'status':<22}COMPLETED" in lines
    assert f'{"":<22}  "exact": {EXACT}' in lines
    assert f"{'error_code':<22}" in lines


def test_unknown_event_is_one_clear_line(stack: Stack) -> None:
    done = run(stack, "get", str(uuid.uuid4()))
    told = "Error: there is no such event, or not for this key (HTTP 404)\n"
    assert (done.exit_code, done.stderr) == (1, told)
    assert run(stack, "get", "../../livez").exit_code == 2


def test_wrong_instant_is_one_clear_line(stack: Stack) -> None:
    done = run(stack, "list", "--from", "yesterday")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: from: must be RFC 3339")
    assert done.stderr.count("\n") == 1


def test_retry_of_a_failed_event_and_of_one_that_is_not(stack: Stack, program_id: str) -> None:
    failed = failed_event(stack, program_id, "f", then="succeed")
    (completed,) = send(stack, program_id, ["c"])
    done = run(stack, "retry", failed, completed)
    assert (done.exit_code, done.stdout) == (1, f"{failed}  PENDING\n")
    refused = "only a FAILED event can be retried; this one is COMPLETED"
    assert done.stderr == f"Error: {completed}: not_retryable: {refused}\n"
    row = await_status(stack.database_url, failed, "COMPLETED")
    assert (row["attempts"], row["failed_before"]) == (1, True)
    told = run(stack, "retry", completed, "--json")
    outcome = {"id": completed, "status": None, "code": "not_retryable", "message": refused}
    assert (told.exit_code, json.loads(told.stdout)) == (1, {"results": [outcome]})


def test_retry_that_works_exits_with_0(stack: Stack, program_id: str) -> None:
    failed = failed_event(stack, program_id, "f")
    done = run(stack, "retry", failed, "--json")
    outcome = {"id": failed, "status": "PENDING", "code": None, "message": None}
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"results": [outcome]})


class Scripted(Client):
    """A client whose answers are given."""

    def __init__(self, answers: Sequence[Answer | Unreachable]) -> None:
        super().__init__("http://127.0.0.1:9", "k")
        self.answers = iter(answers)

    def get(self, path: str) -> Answer:
        del path
        answer = next(self.answers)
        if isinstance(answer, Unreachable):
            raise answer
        return answer


def test_busy_gateway_is_asked_again_within_bounds() -> None:
    pauses: list[float] = []
    busy = Answer(429, b'{"message": "slow down"}', 3.0)
    answers: list[Answer | Unreachable] = [busy, Unreachable("gone"), Answer(200, b"{}", None)]
    assert reading.Reader(Scripted(answers), pauses.append).event("x", 0) == b"{}"
    assert pauses == [3.0, 1.0]
    endless = reading.Reader(Scripted([busy] * 9), pauses.append)
    with pytest.raises(DeployError, match=r"slow down \(HTTP 429\)"):
        endless.event("x", 0)
    assert len(pauses) == 2 + 4


def test_folder_without_a_stack_is_one_clear_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["events", "list", "--key", "k", "--data", str(tmp_path)])
    assert (done.exit_code, done.stderr.startswith(f"Error: nothing runs on {tmp_path}")) == (1, True)
