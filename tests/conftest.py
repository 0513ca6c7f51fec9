"""Fixtures that every test can use. Each test keeps to itself by the random programs of its own."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from psycopg import sql

from deploy import migrate
from schemas.keys import SCOPES, new_key
from schemas.settings import Settings
from tests.stack import Backend, Stack, backend

PARTITIONS = 6  # of each topic in the tests

# The tests share their cores with others: how long one example takes says nothing.
hypothesis_settings.register_profile("headrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("headrace")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Asynchronous tests (marked ``anyio``) run on the loop that gateway and workers use."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def running_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """One Kafka and one Postgres for the whole run, migrated."""
    with backend(tmp_path_factory.mktemp("backend")) as started:
        migrate.run(Settings(kafka=started.kafka, database_url=started.database_url, partitions=PARTITIONS))
        yield started


@pytest.fixture(scope="session")
def kafka(running_backend: Backend) -> str:
    """Bootstrap servers; every topic exists."""
    return running_backend.kafka


@pytest.fixture(scope="session")
def database_url(running_backend: Backend) -> str:
    """The migrated database."""
    return running_backend.database_url


@pytest.fixture
def own_database_url(database_url: str) -> str:
    """A migrated database that nothing else uses."""
    return own_database(database_url)


def own_database(database_url: str) -> str:
    """Make a migrated database beside this one; its URL."""
    name = f"own_{uuid.uuid4().hex}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    url = psycopg.conninfo.make_conninfo(database_url, dbname=name)
    migrate.migrate_database(url)
    return url


@pytest.fixture(scope="session")
def api_key(database_url: str) -> str:
    """A key with every scope."""
    text, sha256 = new_key()
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "insert into headrace.api_keys (key_sha256, name, scopes) values (%s, %s, %s)",
            (sha256, "tests", list(SCOPES)),
        )
    return text


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs and tables of the shared processes."""
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="session")
def shared_stack(running_backend: Backend, api_key: str, shared_folder: Path) -> Iterator[Stack]:
    """The one stack of the run, nothing started yet: tests take it as `stack` or as `bare_stack`."""
    stack = Stack(running_backend, shared_folder, api_key, {"partitions": str(PARTITIONS)})
    yield stack
    stack.stop()


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    """The stack with one gateway and one worker running, whatever an earlier test did to them."""
    shared_stack.ensure_running()
    return shared_stack


@pytest.fixture
def bare_stack(shared_stack: Stack) -> Iterator[Stack]:
    """The stack with nothing running but Kafka and Postgres: a test starts its own processes, and they end with it."""
    shared_stack.stop()
    yield shared_stack
    shared_stack.stop()


@pytest.fixture
def program_id() -> str:
    """A program that no other test uses."""
    return str(uuid.uuid4())
