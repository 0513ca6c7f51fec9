"""Who is suspected after which deaths. A death here is a note that nobody takes back."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from processors import exits
from processors.suspects import ALONE_AFTER, GIVEN_UP_AFTER, Suspects

IDS = [bytes([number]) * 16 for number in range(5)]
BAD = IDS[3]


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """Where the note is kept."""
    return tmp_path / "worker" / "handling"


_never_left: list[AbstractContextManager[None]] = []
"""Calls in whose middle a worker ended: nothing may end them here, the collection of garbage neither."""


def _begin(suspects: Suspects, ids: list[bytes]) -> AbstractContextManager[None]:
    call = suspects.under_way(ids)
    _never_left.append(call)
    call.__enter__()
    return call


def _die_at(note: Path, ids: list[bytes]) -> None:
    _begin(Suspects(note), ids)


def test_nobody_is_suspected_without_a_death(note: Path) -> None:
    with Suspects(note).under_way(IDS):
        pass
    assert Suspects(note).groups(IDS) == [[0, 1, 2, 3, 4]]


def test_the_event_to_blame_is_found_and_given_up_after_a_bounded_number_of_deaths(note: Path) -> None:
    deaths = 0
    while not Suspects(note).is_given_up(BAD):
        suspects = Suspects(note)
        for group in suspects.groups(IDS):
            ids = [IDS[number] for number in group]
            call = _begin(suspects, ids)
            if BAD in ids:
                deaths += 1
                break
            call.__exit__(None, None, None)
    assert deaths == ALONE_AFTER + GIVEN_UP_AFTER
    suspects = Suspects(note)
    assert suspects.groups(IDS) == [[0, 1, 2, 4]]
    assert not any(suspects.is_given_up(id_) for id_ in IDS if id_ != BAD)


def test_one_death_in_company_changes_nothing(note: Path) -> None:
    _die_at(note, IDS)
    assert Suspects(note).groups(IDS) == [[0, 1, 2, 3, 4]]


def test_deaths_elsewhere_leave_the_company_of_before_behind(note: Path) -> None:
    _die_at(note, IDS[:4])
    _die_at(note, IDS[1:])
    assert Suspects(note).groups(IDS) == [[0], [1], [2], [3], [4]]
    _die_at(note, IDS[4:])
    assert Suspects(note).groups(IDS) == [[0, 1, 2, 3], [4]]


def test_what_is_settled_is_forgotten_when_others_have_their_turn(note: Path) -> None:
    for _ in range(GIVEN_UP_AFTER):
        _die_at(note, [BAD])
    suspects = Suspects(note)
    suspects.settled(IDS)
    suspects.groups([BAD])  # done again: its transaction did not commit
    assert suspects.is_given_up(BAD)
    suspects.groups(IDS[:2])
    assert not suspects.is_given_up(BAD)


@pytest.mark.parametrize(("code", "suspected"), [(exits.STALLED, True), (exits.KAFKA, False), (exits.SHUTDOWN, False)])
def test_only_an_end_that_an_event_can_cause_is_held_against_it(note: Path, code: int, *, suspected: bool) -> None:
    for _ in range(GIVEN_UP_AFTER):
        suspects = Suspects(note)
        _begin(suspects, [BAD])
        suspects.on_leaving(code)
    assert Suspects(note).is_given_up(BAD) is suspected


def test_a_note_that_cannot_be_read_suspects_nobody(note: Path) -> None:
    _die_at(note, IDS)
    note.write_bytes(b"\0\0\0\x09garbage")
    assert Suspects(note).groups(IDS) == [[0, 1, 2, 3, 4]]
