"""Events for the tests, as the bytes of their JSON."""

import json

PROGRAM = "0e9c1d3a-5c3f-4f5e-9a57-1c9f1e2d3c4b"

GOOD = {
    "program_id": json.dumps(PROGRAM),
    "idempotency_key": '"order-1"',
    "event_timestamp": '"2024-01-15T10:30:00Z"',
    "external_id": '"user-1"',
    "event_data": '{"amount":1}',
}


def event_text(**fields: str | None) -> bytes:
    """A good event, with these fields' JSON texts instead; None leaves a field out."""
    members = {**GOOD, **fields}
    text = ",".join(f"{json.dumps(name)}:{value}" for name, value in members.items() if value is not None)
    return f"{{{text}}}".encode("utf-8", "surrogatepass")
