"""Migrations and topics: applied once, whoever runs them and however often."""

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from psycopg import sql

from deploy import migrate, topics
from deploy.errors import DeployError
from deploy.migrate import Migration
from schemas.settings import Settings
from schemas.topics import all_topics
from tests.conftest import PARTITIONS
from tests.gateway.rows import event_row, insert_events

ALL = [f"{migration.version:04}_{migration.name}" for migration in migrate.read()]


@pytest.fixture
def empty_database(database_url: str) -> str:
    """A database of its own on the tests' server."""
    name = f"empty_{uuid.uuid4().hex}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return psycopg.conninfo.make_conninfo(database_url, dbname=name)


def _applied(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("select version, name from headrace.migrations order by version").fetchall()
    return [f"{version:04}_{name}" for version, name in rows]


def test_second_run_changes_nothing(empty_database: str) -> None:
    assert migrate.migrate_database(empty_database) == ALL
    assert migrate.migrate_database(empty_database) == []
    assert _applied(empty_database) == ALL


def test_two_at_once_apply_each_file_once(empty_database: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(migrate.migrate_database, [empty_database] * 4))
    assert sorted(name for run in runs for name in run) == ALL
    assert _applied(empty_database) == ALL


def test_changed_file_is_refused(empty_database: str) -> None:
    first = Migration(1, "first", "create table headrace.one (n int)")
    migrate.migrate_database(empty_database, [first])
    with pytest.raises(DeployError, match=r"0001_first\.sql was changed after it was applied"):
        migrate.migrate_database(empty_database, [first._replace(sql="create table headrace.two (n int)")])


def test_failing_file_leaves_no_trace(empty_database: str) -> None:
    good = Migration(1, "good", "create table headrace.one (n int)")
    bad = Migration(2, "bad", "create table headrace.two (n int); select 1 / 0")
    with pytest.raises(DeployError, match="division by zero"):
        migrate.migrate_database(empty_database, [good, bad])
    assert _applied(empty_database) == ["0001_good"]
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("select to_regclass('headrace.two')").fetchone() == (None,)


def test_newer_database_is_refused(empty_database: str) -> None:
    two = [Migration(1, "a", "select 1"), Migration(2, "b", "select 2")]
    migrate.migrate_database(empty_database, two)
    with pytest.raises(DeployError, match=r"newer than this version \(migration 0002\)"):
        migrate.migrate_database(empty_database, two[:1])


@pytest.mark.parametrize("events", [0, 1])
def test_of_events_from_before_fresh_spans_it_is_known_that_nothing_is_told(empty_database: str, events: int) -> None:
    migrate.migrate_database(empty_database, [each for each in migrate.read() if each.version < 7])
    for _ in range(events):
        insert_events(empty_database, [event_row()])
    migrate.migrate_database(empty_database)
    with psycopg.connect(empty_database) as connection:
        rows = connection.execute(
            """select event_min = '-infinity' and event_max = 'infinity',
                      created_from between now() + interval '59 minutes' and now() + interval '1 hour'
               from headrace.fresh_spans where created_from > '-infinity'"""
        ).fetchall()
    assert rows == [(True, True)] * events


def test_topics_are_made_as_specified(kafka: str) -> None:
    group = f"g{uuid.uuid4().hex}"
    settings = Settings(kafka=kafka, partitions=PARTITIONS, group=group)
    created = topics.create(settings)
    assert len(created) == 1  # the shared ones are there already
    assert topics.create(settings) == []
    wanted = {topic.name: topic.config for topic in all_topics(group)}
    assert asyncio.run(_configs(kafka, wanted)) == wanted


async def _configs(kafka: str, wanted: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in wanted]
        found = {}
        responses: list[Any] = await admin.describe_configs(resources)
        for response in responses:
            for _, _, _, name, entries in response.resources:
                values = {entry[0]: entry[1] for entry in entries}
                found[name] = {key: values[key] for key in wanted[name]}
        return found
    finally:
        await admin.close()


def test_other_partition_count_is_refused(kafka: str) -> None:
    with pytest.raises(DeployError, match=rf"events has {PARTITIONS}.*order within programs"):
        topics.create(Settings(kafka=kafka, partitions=PARTITIONS + 1))


def test_no_kafka_is_one_clear_line() -> None:
    with pytest.raises(DeployError, match=r"Kafka at 127\.0\.0\.1:9 does not create the topics") as caught:
        topics.create(Settings(kafka="127.0.0.1:9"))
    assert "\n" not in str(caught.value)
