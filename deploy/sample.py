"""Plays a sample batch: sends it, shows each item's result, then what became of each accepted event."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.errors import DeployError
from deploy.http import Client, Unreachable

_WAIT_S = 5  # of one request, so that Ctrl-C is heeded soon
_TOTAL_S = 30.0
_OK = 200
_FINAL = frozenset({"COMPLETED", "FAILED"})


def play(client: Client, file: Path, echo: Callable[[str], None], check: Callable[[], None]) -> None:
    """Send the batch in `file` and follow it to the end, 30 s at most; `check` is called between the steps.

    Raises :class:`DeployError` when the gateway refuses the batch or does not answer.
    """
    try:
        _play(client, file, echo, check)
    except Unreachable as error:
        raise DeployError(f"the gateway does not answer: {error}") from error
    finally:
        client.close()


def _play(client: Client, file: Path, echo: Callable[[str], None], check: Callable[[], None]) -> None:
    answer = client.post("/v1/events/batch", file.read_bytes())
    if answer.status != _OK:
        raise DeployError(f"the gateway refuses the sample {file}: {answer.error()}")
    told = answer.json()
    echo(f"\nSample batch: {told['total']} events, {told['success_count']} accepted, {told['error_count']} rejected\n")
    for item in told["results"]:
        echo(_line(item))
    echo("\nRead back, once processed:\n")
    deadline = time.monotonic() + _TOTAL_S
    for event in {
        item["event"]["id"]: item["event"] for item in told["results"] if item["status"] == "accepted"
    }.values():
        final = _follow(client, event["id"], deadline, check)
        echo(f"  {event['id']}  {event['idempotency_key']:<28} {final['status']}{_notes(final)}")


def _line(item: dict[str, Any]) -> str:
    key = (item.get("event") or {}).get("idempotency_key") or ""
    if item["status"] == "accepted":
        return f"  [{item['index']}] {key:<28} accepted  {item['event']['id']}"
    return f"  [{item['index']}] {key:<28} error     {item['code']}: {item['error']}"


def _follow(client: Client, event_id: str, deadline: float, check: Callable[[], None]) -> dict[str, Any]:
    """The event once its status is final, or as it is at the deadline."""
    while True:
        check()
        answer = client.get(f"/v1/events/{event_id}?wait={_WAIT_S}")
        event = answer.json()
        if answer.status != _OK:
            raise DeployError(f"event {event_id} cannot be read back: {answer.error()}")
        if event["status"] in _FINAL or time.monotonic() > deadline:
            return event


def _notes(event: dict[str, Any]) -> str:
    notes = []
    if event.get("duplicate_count"):
        notes.append(f"{event['duplicate_count']} duplicate(s)")
    if event.get("conflicts"):
        notes.append(f"{len(event['conflicts'])} conflict(s)")
    if event.get("error_code"):
        notes.append(f"{event['error_code']}: {event['error_message']}")
    return f"  ({', '.join(notes)})" if notes else ""
