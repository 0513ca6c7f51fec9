"""Arrays reach Postgres as they are, whatever stands in their texts."""

from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.arrays import text_array

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.sampled_from(
    ["NULL", "{}", ","]
)


@pytest.fixture(scope="module")
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url) as connected:
        yield connected


@settings(max_examples=100)
@given(st.lists(texts | st.none(), max_size=5) | st.lists(texts, max_size=5))
def test_texts_of_any_kind_arrive_as_they_are(connection: psycopg.Connection, given_texts: list[str | None]) -> None:
    row = connection.execute("select %s::text[]", (text_array(given_texts),)).fetchone()
    assert row == (given_texts,)


def test_escapes_are_neither_lost_nor_doubled(connection: psycopg.Connection) -> None:
    nasty = ['"', "\\", '\\"', "a,b", " ", "", "null", "{", "\n"]
    assert connection.execute("select %s::text[]", (text_array(nasty),)).fetchone() == (nasty,)
