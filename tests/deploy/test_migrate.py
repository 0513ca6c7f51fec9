"""Migrations and topics: applied once, whoever runs them and however often."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from deploy import migrate
from deploy.errors import DeployError
from schemas.settings import Settings


@pytest.fixture
def empty_database(database_url: str) -> str:
    """A database of its own on the tests' server."""
    import uuid

    name = f"empty_{uuid.uuid4().hex}"
    owner = psycopg.conninfo.conninfo_to_dict(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return psycopg.conninfo.make_conninfo(**owner | {"dbname": name})


def test_x(empty_database: str) -> None:
    assert migrate.migrate_database(empty_database) != []
    assert migrate.migrate_database(empty_database) == []
