"""The ledger of chunks: no commit ever passes a chunk that is not acknowledged."""

from random import Random

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from processors.commit import Ledger, PositionJumpError

PLACE = TP("events", 0)


def _deliver(ledger: Ledger, start: int, end: int, *, first: bool = False) -> int:
    ticket = ledger.deliver(PLACE, start, end, first=first, generation=1)
    assert ticket is not None
    return ticket


@pytest.fixture
def ledger() -> Ledger:
    """A ledger in generation 1."""
    ledger = Ledger()
    ledger.begin(1)
    return ledger


def test_commits_the_end_of_the_last_chunk_done_in_order(ledger: Ledger) -> None:
    one = _deliver(ledger, 100, 200, first=True)
    two = _deliver(ledger, 200, 205)
    three = _deliver(ledger, 205, 300)
    assert ledger.committable() == {}
    assert ledger.acknowledge(PLACE, two)
    assert ledger.committable() == {}
    assert ledger.acknowledge(PLACE, one)
    assert ledger.committable() == {PLACE: 205}
    ledger.committed({PLACE: 205})
    assert ledger.committable() == {}
    assert ledger.acknowledge(PLACE, three)
    assert ledger.committable() == {PLACE: 300}
    assert ledger.in_flight == 0


def test_a_chunk_that_does_not_join_the_one_before_is_refused(ledger: Ledger) -> None:
    _deliver(ledger, 0, 10, first=True)
    with pytest.raises(PositionJumpError):
        _deliver(ledger, 11, 20)
    with pytest.raises(PositionJumpError):
        _deliver(ledger, 5, 20)


def test_after_an_assignment_the_first_chunk_taken_must_be_the_first_delivered(ledger: Ledger) -> None:
    _deliver(ledger, 0, 10, first=True)
    ledger.begin(2)
    # One chunk was taken from the client and went missing on the way here.
    with pytest.raises(PositionJumpError):
        ledger.deliver(PLACE, 10, 20, first=False, generation=2)


def test_chunks_and_acknowledgements_of_an_earlier_assignment_count_for_nothing(ledger: Ledger) -> None:
    old = _deliver(ledger, 0, 10, first=True)
    ledger.begin(2)
    assert ledger.deliver(PLACE, 10, 20, first=True, generation=1) is None
    new = ledger.deliver(PLACE, 0, 10, first=True, generation=2)
    assert not ledger.acknowledge(PLACE, old)
    assert ledger.committable() == {}
    assert new is not None
    assert ledger.acknowledge(PLACE, new)
    assert not ledger.acknowledge(PLACE, new)
    assert ledger.committable() == {PLACE: 10}


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
    start=st.integers(0, 10**12),
)
def test_whatever_the_order_of_acknowledgements_a_commit_stays_behind_open_chunks(
    sizes: list[int], order: Random, start: int
) -> None:
    ledger = Ledger()
    ledger.begin(1)
    chunks: list[tuple[int, int, int]] = []
    position = start
    for size in sizes:
        chunks.append((position, position + size, _deliver(ledger, position, position + size, first=not chunks)))
        position += size
    unacked = list(chunks)
    order.shuffle(unacked)
    while unacked:
        _, _, ticket = unacked.pop()
        assert ledger.acknowledge(PLACE, ticket)
        oldest_open = min((begin for begin, _, _ in unacked), default=position)
        assert ledger.committable().get(PLACE, start) == oldest_open
        assert ledger.in_flight == len(unacked)
