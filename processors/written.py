"""What a committed chunk leaves to be told."""

import msgspec

from processors.ports import Entry, Outgoing
from processors.records import BadRecord


class Written(msgspec.Struct):
    """Entries for the dedupe table, by partition; statuses and dead letters for Kafka; what there was to count."""

    entries: dict[int, list[Entry]] = msgspec.field(default_factory=dict)
    statuses: list[Outgoing] = msgspec.field(default_factory=list)
    letters: list[BadRecord] = msgspec.field(default_factory=list)
    duplicates: int = 0
    conflicts: int = 0
    retries: int = 0

    def add(self, other: "Written") -> None:
        """Take in what another part of the same chunk left."""
        for partition, entries in other.entries.items():
            self.entries.setdefault(partition, []).extend(entries)
        self.statuses += other.statuses
        self.letters += other.letters
        self.duplicates += other.duplicates
        self.conflicts += other.conflicts
        self.retries += other.retries
