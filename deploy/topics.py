"""Creates the Kafka topics, with explicit partitions, replication and settings; safe to run again."""

import asyncio
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from deploy.errors import DeployError
from schemas import kafka, topics
from schemas.settings import Settings

_REQUEST_TIMEOUT_MS = 15_000
_TOTAL_TIMEOUT_S = 60.0
_APPEAR_POLL_S = 0.05


def create(settings: Settings) -> list[str]:
    """Create every topic that is missing; returns the names of those created.

    Raises :class:`DeployError` when Kafka cannot be reached or a topic exists with another number of partitions.
    """
    try:
        return asyncio.run(asyncio.wait_for(_create(settings), _TOTAL_TIMEOUT_S))
    except (KafkaError, TimeoutError, OSError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DeployError(f"Kafka at {settings.kafka} does not create the topics ({said}): is it up?") from error


async def _create(settings: Settings) -> list[str]:
    admin = AIOKafkaAdminClient(**(kafka.connection(settings) | {"request_timeout_ms": _REQUEST_TIMEOUT_MS}))
    try:
        await admin.start()
        wanted = topics.all_topics(settings.group)
        present = await _partitions(admin)
        missing = [topic for topic in wanted if topic.name not in present]
        if missing:
            await _create_missing(admin, missing, settings)
            present = await _appear(admin, missing)
        _check({topic.name: present[topic.name] for topic in wanted}, settings.partitions)
        return [topic.name for topic in missing]
    finally:
        await admin.close()


async def _create_missing(admin: AIOKafkaAdminClient, missing: list[topics.Topic], settings: Settings) -> None:
    copies = settings.replication_factor
    extra = topics.overrides(copies)
    response: Any = await admin.create_topics(
        [NewTopic(t.name, settings.partitions, copies, topic_configs=t.config | extra) for t in missing]
    )
    for name, code, *message in response.topic_errors:
        # Another migration may run at the same moment; what it made is checked like any other topic.
        if code not in {0, TopicAlreadyExistsError.errno}:
            raise for_code(code)(f"{name}: {message[0] if message else ''}")


async def _appear(admin: AIOKafkaAdminClient, missing: list[topics.Topic]) -> dict[str, int]:
    """Wait until the brokers tell of the new topics; the caller bounds the wait."""
    while True:
        present = await _partitions(admin)
        if all(topic.name in present for topic in missing):
            return present
        await asyncio.sleep(_APPEAR_POLL_S)


async def _partitions(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """Number of partitions by topic."""
    return {found["topic"]: len(found["partitions"]) for found in await admin.describe_topics()}


def _check(present: dict[str, int], partitions: int) -> None:
    wrong = [f"{name} has {count}" for name, count in present.items() if count != partitions]
    if wrong:
        raise DeployError(
            f"topics exist with another number of partitions than {partitions} ({', '.join(wrong)}):"
            " set HEADRACE_PARTITIONS (or --partitions) to theirs; more of them would break the order within programs"
        )
