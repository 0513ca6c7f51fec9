"""What `headrace doctor` asks Kafka: brokers, topics, their replicas, and the workers' group."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code

from deploy.checks import FAIL, OK, WARN, Check
from deploy.database import one_line
from schemas import kafka, topics
from schemas.settings import Settings

_TIMEOUT_S = 20.0
_REQUEST_TIMEOUT_MS = 8_000
_LAG_SOUND = 100_000
# A topic with another policy loses what it must keep, or keeps for ever what it must forget.
_VITAL = frozenset({"cleanup.policy"})
_MIGRATE = "run `headrace migrate`"
_START_WORKERS = "start workers with `headrace worker`, all with the same HEADRACE_GROUP"


async def checks(settings: Settings) -> list[Check]:
    """All about Kafka; a single failing check where it cannot be reached."""
    try:
        async with asyncio.timeout(_TIMEOUT_S), _admin(settings) as admin:
            brokers = len((await admin.describe_cluster())["brokers"])
            found: list[Check] = [_brokers(brokers, settings)]
            described = {topic["topic"]: topic for topic in await admin.describe_topics()}
            wanted = topics.all_topics(settings.group)
            present = [topic for topic in wanted if topic.name in described]
            configs = await _configs(admin, [topic.name for topic in present]) if present else {}
            for topic in wanted:
                found += topic_checks(topic, described.get(topic.name), configs.get(topic.name, {}), settings)
            return [*found, *await _workers(admin, settings, topics.EVENTS in described)]
    except (KafkaError, TimeoutError, OSError) as error:
        advice = "is it up, and HEADRACE_KAFKA (with TLS and SASL where it has them) its address?"
        return [Check("kafka", FAIL, f"{settings.kafka} cannot be used: {one_line(error)}", advice)]


@asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**(kafka.connection(settings) | {"request_timeout_ms": _REQUEST_TIMEOUT_MS}))
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


def _brokers(count: int, settings: Settings) -> Check:
    found = f"{settings.kafka} answers, {count} broker(s)"
    if count < settings.replication_factor:
        advice = f"start all brokers: records are to have {settings.replication_factor} copies"
        return Check("kafka", FAIL, found, advice)
    return Check("kafka", OK, found)


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """The settings of each topic."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found = {}
    responses: list[Any] = await admin.describe_configs(resources)
    for response in responses:
        for _, _, _, name, entries in response.resources:
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def topic_checks(
    topic: topics.Topic, described: dict[str, Any] | None, config: dict[str, str], settings: Settings
) -> Iterator[Check]:
    """What is wrong with a topic, or that nothing is. `described` as the brokers do it, None where there is no such."""
    if described is None:
        yield Check("topic", FAIL, f"{topic.name} does not exist", _MIGRATE)
        return
    partitions = described["partitions"]
    faults = [
        *_count(topic.name, len(partitions), settings),
        *_replicas(topic.name, partitions, config, settings),
        *_settings(topic, config, settings),
    ]
    yield from faults or [Check("topic", OK, f"{topic.name}: {len(partitions)} partitions, all replicas in sync")]


def _count(name: str, count: int, settings: Settings) -> Iterator[Check]:
    if count != settings.partitions:
        found = f"{name} has {count} partitions, HEADRACE_PARTITIONS is {settings.partitions}"
        yield Check(
            "topic", FAIL, found, "set HEADRACE_PARTITIONS to what the topics have, which must be the same for all"
        )


def _replicas(
    name: str, partitions: list[dict[str, Any]], config: dict[str, str], settings: Settings
) -> Iterator[Check]:
    needed = int(config.get("min.insync.replicas", "1"))
    advice = "start the brokers that are down; see their logs"
    if leaderless := sorted(part["partition"] for part in partitions if part["leader"] < 0):
        yield Check("topic", FAIL, f"{name}: no leader for partitions {leaderless}", advice)
    if short := sorted(part["partition"] for part in partitions if len(part["isr"]) < needed):
        yield Check("topic", FAIL, f"{name}: fewer than {needed} replicas in sync for partitions {short}", advice)
    elif behind := sorted(part["partition"] for part in partitions if len(part["isr"]) < len(part["replicas"])):
        yield Check("topic", WARN, f"{name}: not all replicas in sync for partitions {behind}", advice)
    copies = min((len(part["replicas"]) for part in partitions), default=0)
    if copies < settings.replication_factor:
        found = f"{name} has {copies} replica(s), HEADRACE_REPLICATION_FACTOR is {settings.replication_factor}"
        yield Check("topic", WARN, found, "assign more replicas with Kafka's own tools")


def _settings(topic: topics.Topic, config: dict[str, str], settings: Settings) -> Iterator[Check]:
    wanted = topic.config | topics.overrides(settings.replication_factor)
    for name, value in wanted.items():
        if config.get(name) != value:
            level = FAIL if name in _VITAL else WARN
            found = f"{topic.name}: {name} is {config.get(name)}, meant to be {value}"
            yield Check("topic", level, found, "set it with Kafka's own tools, unless you mean it so")


async def _workers(admin: AIOKafkaAdminClient, settings: Settings, has_topic: bool) -> list[Check]:  # noqa: FBT001 - one caller
    state, members = await _group(admin, settings.group)
    if members == 0:
        return [Check("workers", FAIL, f"the group {settings.group} has no members", _START_WORKERS)]
    found = [
        Check("workers", OK, f"the group {settings.group} has {members} member(s)")
        if state == "Stable"
        else Check("workers", WARN, f"the group {settings.group} is {state}", "it is being shared out anew: ask again")
    ]
    return [*found, _lag(await _behind(admin, settings))] if has_topic else found


async def _group(admin: AIOKafkaAdminClient, group: str) -> tuple[str, int]:
    """The group's state and how many members it has."""
    responses: list[Any] = await admin.describe_consumer_groups([group])
    described = responses[0].to_object()["groups"][0]
    if described["error_code"]:
        raise for_code(described["error_code"])(group)
    return described["state"], len(described["members"])


async def _behind(admin: AIOKafkaAdminClient, settings: Settings) -> int:
    """How many records of the topic of events are not yet processed, as far as the group has said."""
    committed = await admin.list_consumer_group_offsets(settings.group)
    given = kafka.connection(settings) | {"request_timeout_ms": _REQUEST_TIMEOUT_MS}
    async with AIOKafkaConsumer(**given) as consumer:
        numbers = consumer.partitions_for_topic(topics.EVENTS) or await _numbers(admin)
        places = [TopicPartition(topics.EVENTS, number) for number in numbers]
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    done = {place: committed[place].offset if place in committed else -1 for place in places}
    return sum(max(0, ends[place] - max(done[place], begins[place])) for place in places)


async def _numbers(admin: AIOKafkaAdminClient) -> list[int]:
    (described,) = await admin.describe_topics([topics.EVENTS])
    return [part["partition"] for part in described["partitions"]]


def _lag(records: int) -> Check:
    found = f"{records} records of {topics.EVENTS} wait to be processed"
    if records > _LAG_SOUND:
        advice = "if it grows, start more workers (as many as there are partitions at the most); see their logs"
        return Check("workers", WARN, found, advice)
    return Check("workers", OK, found)
