"""Made-up events of about 400 bytes: an event's number says all of it, so any process can make it again."""

import json
import random
import uuid

PROGRAMS = 1_000
SEED = 20_260_101
_SHAPES = 997  # a prime, so that program and shape do not go together
_KEY_DIGITS = 12
_ITEMS = 3
_USERS = 100  # of each program

KEY_MARK = b'"idempotency_key":"bench-'
"""What stands before the digits of an event's number, in an event and in its status record."""


class Payloads:
    """Events by number, spelled as an ordinary client spells them."""

    def __init__(self, seed: int = SEED) -> None:
        rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self.programs = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(PROGRAMS)]
        self._heads = [b'{"program_id":"%s",%s' % (text.encode(), KEY_MARK) for text in self.programs]
        self._tails = [_tail(rng) for _ in range(_SHAPES)]

    def event(self, number: int) -> bytes:
        """Event `number`."""
        return b"%s%012d%s" % (self._heads[number % PROGRAMS], number, self._tails[number % _SHAPES])

    def batch(self, start: int, count: int) -> bytes:
        """The body of a batch of events `start` … `start + count - 1`."""
        event = self.event
        return b'{"events":[%s]}' % b",".join([event(number) for number in range(start, start + count)])

    def program(self, number: int) -> str:
        """The program of event `number`."""
        return self.programs[number % PROGRAMS]


def key(number: int) -> str:
    """The idempotency key of event `number`."""
    return f"bench-{number:0{_KEY_DIGITS}}"


def number_in(record: bytes) -> int | None:
    """The number of the event that a record is about; None where it is about no event of ours."""
    at = record.find(KEY_MARK)
    if at < 0:
        return None
    start = at + len(KEY_MARK)
    return int(record[start : start + _KEY_DIGITS])


def _tail(rng: random.Random) -> bytes:
    data = {
        "amount": round(rng.uniform(1, 500), 2),
        "currency": rng.choice(["EUR", "USD", "GBP"]),
        "items": [{"quantity": rng.randrange(1, 9), "sku": f"sku-{rng.randrange(10**6):06}"} for _ in range(_ITEMS)],
        "note": "".join(rng.choices("abcdefghij klmnopq", k=24)),
        "order_id": f"order-{rng.randrange(10**8):08}",
    }
    # Within two hours: a stream is sent about when it happens.
    moment = f"2026-01-01T{rng.randrange(10, 12):02}:{rng.randrange(60):02}:{rng.randrange(60):02}"
    members = {
        "event_timestamp": f"{moment}.{rng.randrange(1, 999):03}Z",
        "external_id": f"user-{rng.randrange(_USERS)}",
        "event_data": data,
    }
    return b'",' + json.dumps(members, separators=(",", ":")).encode()[1:]
