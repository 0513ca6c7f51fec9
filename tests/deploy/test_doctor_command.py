"""`headrace doctor`: what it finds where all is well, and each fault made on purpose."""

import asyncio
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from click.testing import CliRunner, Result
from psycopg import sql

from deploy import check_kafka, check_postgres, checks, migrate, state
from deploy.checks import Check
from deploy.cli import cli
from deploy.process import identity_of
from deploy.state import ProcessState, StackState
from schemas import reader, topics
from schemas.settings import Settings
from tests.conftest import PARTITIONS
from tests.stack import Stack, wait_until


def doctor(stack: Stack, *arguments: str, **settings: str) -> Result:
    environment = {name: value for name, value in stack.environment().items() if name.startswith("HEADRACE_")}
    environment |= {f"HEADRACE_{name.upper()}": value for name, value in settings.items()}
    return CliRunner().invoke(cli, ["doctor", *arguments], env=environment)


def found(done: Result) -> list[Check]:
    return [Check(**check) for check in json.loads(done.stdout)["checks"]]


def faults(done: Result) -> list[tuple[str, str, str]]:
    """What is not well; a test's Postgres may be one without fsync, or on a full disk."""
    return [
        (check.level, check.name, check.found)
        for check in found(done)
        if check.level != "ok" and check.name != "disk" and "fsync" not in check.found
    ]


@pytest.fixture
def stack(stack: Stack) -> Stack:
    """The stack, once the group has let go of the members that earlier tests have killed."""

    def one_member() -> bool:
        found = asyncio.run(check_kafka.checks(Settings(kafka=stack.kafka, partitions=PARTITIONS)))
        return "the group headrace has 1 member(s)" in {check.found for check in found}

    wait_until(one_member, "one member of the group", 30)
    return stack


def test_all_is_well(stack: Stack) -> None:
    done = doctor(stack, "--json", "--url", stack.url, "--key", stack.api_key)
    assert faults(done) == []
    assert done.exit_code == 0
    assert json.loads(done.stdout)["ok"] is True
    told = {(check.name, check.found) for check in found(done)}
    assert ("workers", "the group headrace has 1 member(s)") in told
    assert ("gateway", "it takes events") in told
    assert ("key", "the API key is accepted") in told
    assert ("migrations", f"all {len(migrate.read())} are applied") in told
    wanted = [topic.name for topic in topics.all_topics("headrace")]
    assert [check.found.split(":")[0] for check in found(done) if check.name == "topic"] == wanted
    lines = doctor(stack).stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warn"}


def test_missing_compiled_parts_are_told(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "IS_COMPILED", False)
    done = doctor(stack, "--json")
    assert ("warn", "compiled", "events are read or encoded without the compiled parts") in faults(done)
    assert done.exit_code == 0


def test_every_mistake_in_the_settings_is_told(stack: Stack) -> None:
    done = doctor(stack, "--json", prot="1", partitions="none")
    told = [check.found.split("=")[0].split(":")[0] for check in found(done) if check.level == "fail"]
    assert (done.exit_code, told) == (1, ["HEADRACE_PARTITIONS", "HEADRACE_PROT"])


def test_unreachable_parts_are_told_together(stack: Stack) -> None:
    began = time.monotonic()
    nowhere = "postgresql://headrace:secret@127.0.0.1:9/headrace"
    done = doctor(stack, "--json", "--url", "http://127.0.0.1:9", kafka="127.0.0.1:9", database_url=nowhere)
    assert time.monotonic() - began < 30
    assert done.exit_code == 1
    assert [name for _, name, _ in faults(done)] == ["kafka", "postgres", "gateway"]
    assert all(check.advice for check in found(done) if check.level == "fail")
    assert "secret" not in done.output


def test_no_workers_is_a_failure(stack: Stack) -> None:
    stack.stop_worker()
    done = doctor(stack, "--json")
    assert (done.exit_code, faults(done)) == (1, [("fail", "workers", "the group headrace has no members")])


def test_refused_key_is_a_failure(stack: Stack) -> None:
    done = doctor(stack, "--json", "--url", stack.url, "--key", "hr_wrong")
    assert [(level, name) for level, name, _ in faults(done)] == [("fail", "key")]


def test_missing_topic_and_other_settings(stack: Stack) -> None:
    """Another group's changelog is made wrong, then found wrong."""
    group = f"g{uuid.uuid4().hex}"
    name = topics.changelog(group)
    done = doctor(stack, "--json", group=group)
    assert ("fail", "topic", f"{name} does not exist") in faults(done)

    async def make() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(name, PARTITIONS + 1, 1, topic_configs={"cleanup.policy": "delete"})])
            while name not in await admin.list_topics():  # noqa: ASYNC110 - the broker tells nobody
                await asyncio.sleep(0.05)
        finally:
            await admin.close()

    asyncio.run(asyncio.wait_for(make(), 30))
    done = doctor(stack, "--json", group=group, replication_factor="3")
    told = faults(done)
    assert ("fail", "topic", f"{name} has {PARTITIONS + 1} partitions, HEADRACE_PARTITIONS is {PARTITIONS}") in told
    assert ("fail", "topic", f"{name}: cleanup.policy is delete, meant to be compact,delete") in told
    assert ("warn", "topic", f"{name}: min.insync.replicas is 1, meant to be 2") in told
    assert ("warn", "topic", f"{name} has 1 replica(s), HEADRACE_REPLICATION_FACTOR is 3") in told
    assert [found for _, name, found in told if name == "kafka"] == [f"{stack.kafka} answers, 1 broker(s)"]


def test_replicas_out_of_sync() -> None:
    def partition(number: int, leader: int, isr: list[int]) -> dict[str, Any]:
        return {"partition": number, "leader": leader, "replicas": [1, 2, 3], "isr": isr}

    parts = [partition(0, 1, [1, 2, 3]), partition(1, 1, [1, 2]), partition(2, 1, [1]), partition(3, -1, [])]
    topic = topics.Topic("t", {})
    settings = Settings(partitions=4, replication_factor=3)
    config = {"min.insync.replicas": "2"}

    def told(chosen: list[dict[str, Any]]) -> list[tuple[str, str]]:
        described = {"partitions": chosen}
        only = settings if len(chosen) == 4 else Settings(partitions=len(chosen), replication_factor=3)
        return [(one.level, one.found) for one in check_kafka.topic_checks(topic, described, config, only)]

    assert told(parts[:1]) == [("ok", "t: 1 partitions, all replicas in sync")]
    assert told(parts[:2]) == [("warn", "t: not all replicas in sync for partitions [1]")]
    assert told(parts) == [
        ("fail", "t: no leader for partitions [3]"),
        ("fail", "t: fewer than 2 replicas in sync for partitions [2, 3]"),
    ]


def test_database_without_migrations_or_with_others(stack: Stack) -> None:
    name = f"doctor_{uuid.uuid4().hex}"
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    url = psycopg.conninfo.make_conninfo(stack.database_url, dbname=name)

    def told() -> list[tuple[str, str]]:
        return [(one.level, one.found) for one in asyncio.run(check_postgres.checks(url)) if one.name == "migrations"]

    assert told() == [("fail", "none is applied")]
    migrations = migrate.read()
    migrate.migrate_database(url, migrations[:-1])
    assert told() == [("fail", f"not applied: {len(migrations):04}")]
    migrate.migrate_database(url)
    assert told() == [("ok", f"all {len(migrations)} are applied")]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("update headrace.migrations set sha256 = 'x' where version = 1")
        assert told() == [("fail", "changed after they were applied: 0001")]
        connection.execute("revoke select on headrace.dead_letters from headrace_analyst")
        connection.execute("insert into headrace.migrations (version, name, sha256) values (99, 'later', 'x')")
    assert told() == [("fail", "the database is newer: 0099")]
    analysts = [one for one in asyncio.run(check_postgres.checks(url)) if one.name == "analysts"]
    assert [(one.level, one.found) for one in analysts] == [
        ("warn", "the role headrace_analyst may not read dead_letters")
    ]


@pytest.mark.parametrize(
    ("before", "after", "level", "shown"),
    [(-1.0, 0.5, "ok", "0.0"), (1.5, 1.6, "ok", "1.5"), (3.0, 3.1, "warn", "3.0"), (-90.1, -90.0, "fail", "90.0")],
)
def test_clock(before: float, after: float, level: str, shown: str) -> None:
    check = check_postgres.clock(before, after)
    assert (check.level, check.found) == (level, f"this clock and Postgres' differ by {shown} s")


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def level(free: int) -> str:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free}))
        return checks.disk(tmp_path / "not" / "there" / "yet").level

    assert [level(mib * 2**20) for mib in (511, 512, 2_047, 2_048)] == ["fail", "warn", "warn", "ok"]


def test_data_of_a_running_stack_is_used(stack: Stack, tmp_path: Path) -> None:
    own, gone = identity_of(os.getpid()), identity_of(0)._replace(pid=2**22 + 1)
    processes = [
        ProcessState("kafka", 0, own, 0),
        ProcessState("gateway", 0, own, 9),
        ProcessState("worker", 0, gone, 0),
    ]
    state.save(
        tmp_path,
        StackState(
            supervisor=own,
            url=stack.url,
            kafka=stack.kafka,
            database_url=stack.database_url,
            partitions=PARTITIONS,
            processes=processes,
        ),
    )
    state.key_file(tmp_path).write_text(stack.api_key)
    done = doctor(stack, "--json", "--data", str(tmp_path), kafka="127.0.0.1:9", partitions="99")
    assert faults(done) == [
        ("warn", "process", "gateway-0 was started again 9 times"),
        ("fail", "process", "worker-0 does not run"),
    ]
    assert ("key", "the API key is accepted") in {(check.name, check.found) for check in found(done)}
    other = doctor(stack, "--data", str(tmp_path / "other"))
    assert (other.exit_code, other.stderr.split(":")[1].strip()) == (1, f"nothing runs on {tmp_path / 'other'}")
