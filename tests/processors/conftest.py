"""What the tests of the processors share."""

import pytest

from tests.processors import lab


@pytest.fixture(scope="session")
def tables(database_url: str) -> str:
    """The database, with the tables that the tests' handlers write."""
    lab.make_tables(database_url)
    return database_url
