"""A chunk of records → what is new, what is a repeat of what, what has been done before. Decisions only, no I/O.

Who owns a key is known from the dedupe table, or from Postgres where the table's word is not enough. The table may lack
anything and may be wrong about nothing that matters: whatever follows from it is checked by the rows that the
transaction touches, and if a single one differs the chunk is decided again from Postgres alone.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from processors.records import Arrival

_OFFSET_BYTES = 8


class Owner(NamedTuple):
    """The record that owns a key: its fingerprint (16 bytes) and offset; repeats are counted up to `counted_offset`."""

    fingerprint: bytes
    offset: int
    counted_offset: int


class Repeat(msgspec.Struct):
    """What further records with one key, of one partition, add to its event."""

    fingerprint: bytes
    partition: int
    first_offset: int
    counted_offset: int
    duplicates: int = 0
    conflicts: list[Arrival] = msgspec.field(default_factory=list)


class Plan(msgspec.Struct):
    """What a chunk comes to.

    `new` in log order; `repeats` by event id, of new and of older events; `replayed` are owners read again, whose row
    stands already; `conflicts` are all arrivals with another payload than their key's owner, counted or read again.
    """

    new: list[Arrival]
    repeats: dict[bytes, Repeat]
    replayed: list[Arrival]
    conflicts: list[Arrival]


def decide(arrivals: Sequence[Arrival], owners: Mapping[bytes, Owner]) -> Plan:
    """Decide each arrival, in log order, by the owners known beforehand and those that `arrivals` themselves bring.

    Offsets are compared, so the arrivals of one key must be of one partition.
    """
    plan = Plan([], {}, [], [])
    new = plan.new.append
    here: dict[bytes, Arrival] = {}
    for arrival in arrivals:
        event = arrival.event
        id_ = event.id
        owner = owners.get(id_)
        if owner is None:
            first = here.setdefault(id_, arrival)
            if first is arrival:
                new(arrival)
                continue
            owner = Owner(first.event.fingerprint, first.offset, first.offset)
        if arrival.offset == owner.offset and event.fingerprint == owner.fingerprint:
            plan.replayed.append(arrival)
        else:
            _repeat(plan, arrival, owner)
    return plan


def _repeat(plan: Plan, arrival: Arrival, owner: Owner) -> None:
    event = arrival.event
    conflicts = event.fingerprint != owner.fingerprint
    if conflicts:
        plan.conflicts.append(arrival)
    if arrival.offset <= owner.counted_offset:
        return
    repeat = plan.repeats.get(event.id)
    if repeat is None:
        repeat = plan.repeats[event.id] = Repeat(
            owner.fingerprint, arrival.record.partition, arrival.offset, arrival.offset
        )
    repeat.counted_offset = arrival.offset
    if conflicts:
        repeat.conflicts.append(arrival)
    else:
        repeat.duplicates += 1


def needs_postgres(arrivals: Sequence[Arrival], owners: Mapping[bytes, Owner]) -> bool:
    """Whether the chunk was read before, in whole or in part: then the table cannot tell what is still to be done."""
    if not owners:
        return False
    for arrival in arrivals:
        owner = owners.get(arrival.event.id)
        if owner is not None and arrival.offset <= owner.offset:
            return True
    return False


def table_value(fingerprint: bytes, offset: int) -> bytes:
    """An owner as the dedupe table keeps it: fingerprint, then offset, big-endian."""
    return fingerprint + offset.to_bytes(_OFFSET_BYTES, "big")


def table_owner(value: bytes) -> Owner:
    """The owner that :func:`table_value` wrote. Up to where repeats are counted only Postgres knows."""
    fingerprint, offset = value[:-_OFFSET_BYTES], int.from_bytes(value[-_OFFSET_BYTES:], "big")
    return Owner(fingerprint, offset, -1)
