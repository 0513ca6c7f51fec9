"""When a worker lets records gather: while many come, and never longer than the pause."""

import pytest

from processors.gathering import BUSY_RECORDS_PER_S, PAUSE_S, Gathering


def busy_until(at: float, records_per_s: float, bundles: int = 10) -> Gathering:
    """One that took so many records in the half second up to `at`."""
    here = Gathering()
    for number in range(bundles):
        here.took(at - 0.5 * (bundles - 1 - number) / bundles, round(records_per_s * 0.5 / bundles))
    return here


def test_few_records_do_not_wait() -> None:
    assert Gathering().wait_s(0.0) == 0
    assert busy_until(10.0, BUSY_RECORDS_PER_S / 2).wait_s(10.0) == 0


def test_many_records_wait_from_one_bundle_to_the_next() -> None:
    here = busy_until(10.0, BUSY_RECORDS_PER_S * 2)
    assert here.wait_s(10.0) == pytest.approx(PAUSE_S)
    assert here.wait_s(10.0 + PAUSE_S / 3) == pytest.approx(PAUSE_S * 2 / 3)
    assert here.wait_s(10.0 + PAUSE_S) == 0


def test_what_came_long_ago_does_not_count() -> None:
    here = busy_until(10.0, BUSY_RECORDS_PER_S * 2)
    here.took(10.55, 10)
    assert here.wait_s(10.55) == 0
