"""What the tests of the processors share."""

from collections.abc import Iterator

import pytest

from tests.processors import lab


@pytest.fixture(scope="session")
def tables_made(database_url: str) -> str:
    """The database, with the tables that the tests' handlers write."""
    lab.make_tables(database_url)
    return database_url


@pytest.fixture
def tables(tables_made: str) -> Iterator[str]:
    """The same; no attempts are left to the workers of later tests."""
    yield tables_made
    lab.forget_retries(tables_made)
