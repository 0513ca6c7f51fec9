"""The Kafka topics: names, partitions, retention. Created beforehand, never by a broker's default."""

from typing import NamedTuple

EVENTS = "events"
STATUS = "events.status"
RETRY = "events.retry"
DEAD_LETTERS = "events.dlq"

_TOO_FEW_TO_LOSE_ONE = 2
_DAY_MS = 24 * 3600 * 1000


class Topic(NamedTuple):
    """A topic to create: its `name`, and its broker-side `config` as Kafka spells it."""

    name: str
    config: dict[str, str]


def _deleted_after(days: int) -> dict[str, str]:
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(days * _DAY_MS),
        "max.message.bytes": "2097152",
        # Retention goes by the brokers' clock: a producer that stamps old times must not have its records deleted.
        "message.timestamp.type": "LogAppendTime",
    }


def changelog(group: str) -> str:
    """Name of the dedupe table's changelog topic, as Faust derives it from its app and table."""
    return f"{group}-{DEDUPE_TABLE}-changelog"


DEDUPE_TABLE = "dedupe"
DEDUPE_DAYS = 14
"""How long the dedupe table knows a key: twice as long as records stay in ``events``."""


def all_topics(group: str) -> list[Topic]:
    """Every topic that Headrace uses, the changelog of `group`'s dedupe table included."""
    return [
        Topic(EVENTS, _deleted_after(7)),
        Topic(STATUS, _deleted_after(7)),
        Topic(RETRY, _deleted_after(7)),
        Topic(DEAD_LETTERS, _deleted_after(30)),
        # Postgres knows for ever; the table has to while a record can be read again from Kafka.
        Topic(changelog(group), {"cleanup.policy": "compact,delete", "retention.ms": str(DEDUPE_DAYS * _DAY_MS)}),
    ]


def overrides(replication_factor: int) -> dict[str, str]:
    """Settings that depend on the replication: of three replicas, two must have a record before it counts."""
    return {"min.insync.replicas": "2" if replication_factor > _TOO_FEW_TO_LOSE_ONE else "1"}
