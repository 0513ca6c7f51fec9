"""The one way from bytes to an event that can be trusted: what the gateway accepts the processors do too.

Almost every event is of plain spelling and is read in one pass by `schemas/_scan.c`. The others, those with a fault
among them, are read by :mod:`schemas.careful`, which gives the same for what both can read. Where an installation has
no compiled part, that one reads all: slower, not otherwise.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import cast

from schemas.careful import CarefulReader
from schemas.event import Event, InvalidEventError
from schemas.identity import PROGRAMS, id_hash

try:
    from schemas import _scan
except ImportError:  # built without a C compiler, or without Python's headers
    _scan = None  # type: ignore[assignment]

IS_COMPILED = _scan is not None
"""Whether events of plain spelling are read by the compiled part."""


class EventReader:
    """Reads events whose serialized `event_data` is at most `max_event_bytes` long. Not for use by several threads."""

    def __init__(self, max_event_bytes: int) -> None:
        self._careful = CarefulReader(max_event_bytes)
        self._scan = _scan.Reader(Event, PROGRAMS, id_hash, sha256, max_event_bytes) if IS_COMPILED else None

    def read(self, raw: bytes) -> Event:
        """The event that the JSON object `raw` holds. Raises :class:`InvalidEventError`."""
        event = self._scan.read(raw) if self._scan else None
        return event or self._careful.read(raw)

    def read_batch(self, raw: bytes) -> list[Event] | None:
        """The events of the JSON object ``{"events": [...]}``, or None where they must be read one by one.

        That is where `raw` is no such object, or one of its events is not sure to be good.
        """
        events = self._scan.read_batch(raw) if self._scan else None
        return events or self._careful.read_batch(raw)

    def read_many(self, raws: Sequence[bytes]) -> list[Event | InvalidEventError]:
        """What :meth:`read` gives for each of the JSON objects `raws`, or raises."""
        if not self._scan:
            return self._careful.read_many(raws)
        scanned = self._scan.read_many(raws)
        others = [raw for raw, event in zip(raws, scanned, strict=True) if event is None]
        rest = iter(self._careful.read_many(others) if others else ())
        return [event or next(rest) for event in scanned] if others else cast(list[Event | InvalidEventError], scanned)
