"""Timestamps: every instant has one spelling, and none is altered."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import timestamps
from schemas.timestamps import now_text, read_timestamp, timestamp_text

_offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_instants = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=_offsets)  # noqa: DTZ001 - zoned there


@given(_instants, st.integers(0, 9), st.booleans())
def test_any_instant_is_kept_in_one_spelling(instant: datetime, zeros: int, lower: bool) -> None:  # noqa: FBT001
    text = instant.isoformat(timespec="microseconds")
    spelled = f"{text[:26]}{'0' * zeros}{text[26:]}"
    read, canonical = read_timestamp(spelled.lower() if lower else spelled)
    assert read == instant
    assert canonical == timestamp_text(instant)
    assert canonical.endswith("Z")
    assert datetime.fromisoformat(canonical) == instant
    assert read_timestamp(canonical) == (read, canonical)


@given(st.integers(0, 253_402_300_799), st.integers(0, 999_999) | st.sampled_from([0, 100_000, 1]))
def test_now_is_spelled_as_any_instant(seconds: int, microseconds: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timestamps, "time_ns", lambda: (seconds * 1_000_000 + microseconds) * 1_000 + 999)
        instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, microseconds=microseconds)
        assert now_text() == timestamp_text(instant)


@given(_instants, _instants)
def test_spellings_differ_exactly_where_instants_do(first: datetime, second: datetime) -> None:
    assert (timestamp_text(first) == timestamp_text(second)) is (first == second)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2024-01-15T10:30:00Z", "2024-01-15T10:30:00Z"),
        ("2024-01-15t10:30:00z", "2024-01-15T10:30:00Z"),
        ("2024-01-15T10:30:00.000Z", "2024-01-15T10:30:00Z"),
        ("2024-01-15T10:30:00.1200Z", "2024-01-15T10:30:00.12Z"),
        ("2024-01-15T10:30:00.1234560000Z", "2024-01-15T10:30:00.123456Z"),
        ("2024-01-15T10:30:00-00:00", "2024-01-15T10:30:00Z"),
        ("2024-01-15T00:30:00+05:30", "2024-01-14T19:00:00Z"),
        ("2024-02-29T23:59:59-23:59", "2024-03-01T23:58:59Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_canonical_spelling(text: str, canonical: str) -> None:
    instant, spelled = read_timestamp(text)
    assert spelled == canonical
    assert instant.tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be RFC 3339"),
        ("2024-01-15", "must be RFC 3339"),
        ("2024-01-15T10:30:00", "must be RFC 3339"),
        ("2024-01-15 10:30:00Z", "must be RFC 3339"),
        ("2024-01-15T10:30Z", "must be RFC 3339"),
        ("2024-01-15T10:30:00.Z", "must be RFC 3339"),
        ("2024-01-15T10:30:00,5Z", "must be RFC 3339"),
        ("2024-01-15T10:30:00Z\n", "must be RFC 3339"),
        ("2024-01-15T10:30:00+0100", "must be RFC 3339"),
        ("2024-01-15T10:30:00+05:60", "must be RFC 3339"),
        ("2024-01-15T10:30:00+24:00", "must be RFC 3339"),
        ("2024-01-15T24:00:00Z", "must be RFC 3339"),
        ("٢024-01-15T10:30:00Z", "must be RFC 3339"),
        ("2024-01-15T10:30:00.1234567Z", "is finer than a microsecond"),
        ("2024-01-15T10:30:60Z", "is no date and time that can be stored"),
        ("2024-02-30T10:30:00Z", "is no date and time that can be stored"),
        ("0000-01-01T00:00:00Z", "is no date and time that can be stored"),
        ("0001-01-01T00:00:00+00:01", "is no date and time that can be stored"),
        ("9999-12-31T23:59:59-00:01", "is no date and time that can be stored"),
    ],
)
def test_what_cannot_be_kept_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_timestamp(text)
