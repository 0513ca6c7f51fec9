"""Events to send, from a seed: new ones, identical repeats in another spelling, and conflicts."""

import json
import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal

from tests.model import Payload, Sent

_START = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)


class Traffic:
    """Makes sends of the `programs`; the same seed makes the same sends."""

    def __init__(self, seed: int, programs: Sequence[str], door: Literal["http", "kafka"]) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._programs = programs
        self._door = door
        self._made: list[Sent] = []

    def make(self, count: int, duplicates: float, conflicts: float, earlier: Sequence[Sent] = ()) -> list[Sent]:
        """`count` sends, of which the given shares repeat one made before, here or `earlier`, or conflict with one."""
        sends = []
        for _ in range(count):
            known = earlier or self._made
            kind = self._random.random()
            if known and kind < duplicates:
                sent = Sent(self._door, dict(self._random.choice(known).payload))
            elif known and kind < duplicates + conflicts:
                sent = Sent(self._door, self._changed(self._random.choice(known).payload))
            else:
                sent = Sent(self._door, self._new())
                self._made.append(sent)
            sends.append(sent)
        return sends

    def _new(self) -> Payload:
        rng = self._random
        payload: Payload = {
            "program_id": rng.choice(self._programs),
            "idempotency_key": str(uuid.UUID(int=rng.getrandbits(128))),
            "event_timestamp": _START + timedelta(milliseconds=rng.randrange(10**8)),
            "event_data": {
                "order": rng.randrange(10**25),
                "amount": Decimal(rng.randrange(10**6)) / 100,
                "text": "".join(rng.choices('abc "\\\n\tä€😀', k=12)),
                "items": [{"sku": f"s{index}", "quantity": rng.randrange(9)} for index in range(rng.randrange(4))],
            },
        }
        if rng.random() < 0.8:
            payload["external_id"] = f"user-{rng.randrange(500)}"
        if "external_id" not in payload or rng.random() < 0.2:
            payload["participant_id"] = str(uuid.UUID(int=rng.getrandbits(128)))
        if rng.random() < 0.1:
            payload["recipient_external_id"] = f"user-{rng.randrange(500)}"
        return payload

    def _changed(self, payload: Payload) -> Payload:
        data = payload["event_data"]
        assert isinstance(data, dict)
        return payload | {"event_data": data | {"order": self._random.randrange(10**25) + 10**26}}

    def spell(self, payload: Payload) -> str:
        """The payload as JSON, spelled at random: order of members, white space, numbers, escapes, time zone."""
        rng = self._random
        zone = timezone(timedelta(minutes=rng.choice([0, 0, 60, -330])))
        instant = payload["event_timestamp"]
        assert isinstance(instant, datetime)
        return _json(payload | {"event_timestamp": instant.astimezone(zone).isoformat()}, rng)


def _json(value: object, rng: random.Random) -> str:
    space = rng.choice(["", "", " "])
    if isinstance(value, dict):
        members = [f"{_json(name, rng)}:{space}{_json(item, rng)}" for name, item in value.items()]
        rng.shuffle(members)
        return "{" + f",{space}".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_json(item, rng) for item in value) + "]"
    if isinstance(value, Decimal):
        return f"{value}{rng.choice(['', 'e0', 'E+00'])}"
    if isinstance(value, int):
        return f"{value}{rng.choice(['', '', '.0', 'e0'])}"
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)


def event(program_id: str, key: str, payload: str = "left") -> dict[str, Any]:
    """The least event, as the JSON that a request carries; another `payload` conflicts with it."""
    return {
        "program_id": program_id,
        "idempotency_key": key,
        "external_id": "user-1",
        "event_timestamp": "2024-01-15T10:30:00Z",
        "event_data": {"payload": payload},
    }
