"""``headrace keys``: made, listed, revoked; what a key may do is what the gateway lets it do."""

import json
import time
import uuid
from datetime import UTC, datetime, timedelta

import httpx2 as httpx
import pytest
from click.testing import CliRunner

from deploy.commands.keys import keys
from schemas.keys import is_well_formed
from tests.deploy import letters
from tests.stack import Stack


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(keys, arguments)
    assert result.exit_code == 0, result.output
    return result.output.strip()


def _status(stack: Stack, key: str, path: str = "/v1/events?limit=1") -> int:
    return httpx.get(stack.url + path, headers={"X-API-Key": key}).status_code


def test_a_key_does_what_it_was_made_for_until_it_is_revoked(stack: Stack) -> None:
    database = ("--database-url", stack.database_url)
    key = _run("create", "--name", "reader", "--scope", "read", *database)
    assert is_well_formed(key)
    assert _status(stack, key) == 200
    refused = httpx.post(f"{stack.url}/v1/events", headers={"X-API-Key": key}, json={})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    listed = [each for each in json.loads(_run("list", "--json", *database))["keys"] if each["name"] == "reader"]
    assert [each["scopes"] for each in listed] == [["read"]]
    assert key not in json.dumps(listed)
    _run("revoke", key, *database)
    deadline = time.monotonic() + 5
    while _status(stack, key) != 401:
        assert time.monotonic() < deadline, "a revocation is seen within five seconds"
        time.sleep(0.1)


def test_expiry_rate_and_programs(stack: Stack) -> None:
    database = ("--database-url", stack.database_url)
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    assert _status(stack, _run("create", "--name", "late", "--expires-at", past, *database)) == 401
    ours, theirs = str(uuid.uuid4()), str(uuid.uuid4())
    # So slow that nothing is refilled between two requests, however long they take.
    key = _run("create", "--name", "limited", "--rate", "0.01", "--program", ours, *database)
    event = {
        "program_id": theirs,
        "idempotency_key": "k",
        "event_timestamp": "2024-01-15T10:30:00Z",
        "external_id": "u",
        "event_data": {},
    }
    url, headers = f"{stack.url}/v1/events", {"X-API-Key": key}
    refused = httpx.post(url, headers=headers, json=event)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_program_id")
    accepted = httpx.post(url, headers=headers, json=event | {"program_id": ours})
    assert accepted.status_code == 200
    assert accepted.headers["x-ratelimit-limit"] == "100"
    assert int(accepted.headers["x-ratelimit-remaining"]) in {98, 99}
    batch = {"events": [event | {"program_id": ours, "idempotency_key": str(n)} for n in range(100)]}
    too_many = httpx.post(f"{url}/batch", headers=headers, json=batch)
    assert (too_many.status_code, too_many.json()["code"]) == (429, "too_many_requests")
    assert int(too_many.headers["retry-after"]) >= 1
    again = httpx.post(
        url, headers=headers, json=event | {"program_id": ours, "idempotency_key": "7", "event_data": {"other": 1}}
    )
    assert again.status_code == 200, "what was refused for its rate burns no key"


@pytest.mark.parametrize("never", ["infinity", "12345-01-01"])
def test_a_key_that_never_expires_is_listed(database_url: str, never: str) -> None:
    name = str(uuid.uuid4())
    _run("create", "--name", name, "--scope", "read", "--database-url", database_url)
    letters.rows(database_url, "update headrace.api_keys set expires_at = %s where name = %s returning 1", never, name)
    listed = json.loads(_run("list", "--json", "--database-url", database_url))["keys"]
    assert [key["expires_at"] for key in listed if key["name"] == name] == [None]


def test_mistakes_are_one_clear_line(stack: Stack) -> None:
    result = CliRunner().invoke(
        keys, ["create", "--name", "x", "--expires-at", "tomorrow", "--database-url", stack.database_url]
    )
    assert result.exit_code == 2
    assert "must be RFC 3339 with an offset" in result.output
