"""Events that move money, from a seed: what each should do in the end can be told from its payload alone."""

import random
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

from schemas.kafka import partition_of
from tests.model import Payload, Sent
from tests.traffic import Traffic

ATTEMPTS_MAX = 6
_ACCOUNTS = 20


class Money(Traffic):
    """Traffic whose events move an amount between two accounts; a few fail, now and then or for good."""

    def __init__(
        self,
        seed: int,
        programs: Sequence[str],
        door: Literal["http", "kafka"],
        *,
        failing: bool,
        only_new: bool = False,
    ) -> None:
        """`failing`: whether a few events fail at their first attempts. `only_new`: nothing repeats."""
        super().__init__(seed, programs, door)
        self._failing = failing
        self.only_new = only_new

    def make(self, count: int, duplicates: float, conflicts: float, earlier: Sequence[Sent] = ()) -> list[Sent]:
        """`count` sends; see :class:`tests.traffic.Traffic`."""
        if self.only_new:
            return super().make(count, 0, 0)
        return super().make(count, duplicates, conflicts, earlier)

    def _new(self) -> Payload:
        rng = self._random
        payload = super()._new()
        payer, payee = rng.sample(range(_ACCOUNTS), 2)
        more: dict[str, Any] = {"from": f"a{payer}", "to": f"a{payee}"}
        kind = rng.random()
        if self._failing and kind < 0.01:
            more["do"] = "reject"
        elif self._failing and kind < 0.02:
            more |= {"do": "until", "attempt": rng.choice([2, 2, 3])}
        return payload | {"event_data": data_of(payload) | more}

    def _changed(self, payload: Payload) -> Payload:
        changed = super()._changed(payload)
        data = data_of(changed)
        return changed | {"event_data": data | {"amount": data["amount"] + Decimal("0.01")}}


def data_of(payload: Payload) -> dict[str, Any]:
    """The payload's `event_data`."""
    data = payload["event_data"]
    assert isinstance(data, dict)
    return data


def variant_of(payload: Payload) -> int:
    """What tells payloads of one key apart."""
    order: int = data_of(payload)["order"]
    return order


def spread_programs(seed: int, partitions: int, each: int) -> list[str]:
    """Programs from a seed, `each` in every partition: all partitions are always busy."""
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    by_partition: dict[int, list[str]] = {number: [] for number in range(partitions)}
    while any(len(found) < each for found in by_partition.values()):
        program = str(uuid.UUID(int=rng.getrandbits(128)))
        found = by_partition[partition_of(program.encode(), partitions)]
        if len(found) < each:
            found.append(program)
    return [program for found in by_partition.values() for program in found]
