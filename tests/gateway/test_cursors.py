"""Cursors, with generated inputs."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cursors import CursorError, Position, Signer

SIGNER = Signer(b"secret")
SIXTEEN = st.binary(min_size=16, max_size=16)
POSITIONS = st.builds(Position, st.datetimes(timezones=st.just(UTC)), SIXTEEN)
EXAMPLE = Position(datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC), bytes(range(16)))


@given(POSITIONS, SIXTEEN)
def test_a_cursor_gives_back_its_position(position: Position, digest: bytes) -> None:
    cursor = SIGNER.encode(position, digest)
    assert SIGNER.decode(cursor, digest) == position
    assert cursor.replace("-", "").replace("_", "").isalnum()  # nothing in it needs an escape in a URL


@given(POSITIONS, SIXTEEN, st.integers(0, 75), st.characters(max_codepoint=0x7F))
def test_a_changed_cursor_is_refused(position: Position, digest: bytes, place: int, character: str) -> None:
    cursor = SIGNER.encode(position, digest)
    changed = cursor[:place] + character + cursor[place + 1 :]
    if changed.translate({ord("+"): "-", ord("/"): "_"}) == cursor:
        return
    with pytest.raises(CursorError):
        SIGNER.decode(changed, digest)


@given(st.text(max_size=200))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(CursorError):
        SIGNER.decode(text, bytes(16))


@given(SIXTEEN, SIXTEEN)
def test_a_cursor_belongs_to_its_query(one: bytes, other: bytes) -> None:
    if one == other:
        return
    with pytest.raises(CursorError, match="other filters"):
        SIGNER.decode(SIGNER.encode(EXAMPLE, one), other)


def test_a_cursor_of_another_installation_is_refused() -> None:
    cursor = Signer(b"another secret").encode(EXAMPLE, bytes(16))
    with pytest.raises(CursorError, match="installation"):
        SIGNER.decode(cursor, bytes(16))


def test_every_gateway_of_one_installation_agrees() -> None:
    assert Signer(b"secret").decode(SIGNER.encode(EXAMPLE, bytes(16)), bytes(16)) == EXAMPLE
