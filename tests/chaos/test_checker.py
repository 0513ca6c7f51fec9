"""The checker on hand-made rounds: silent where all is well, and exact about each single thing that is not."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.checker import CHECKS, Problem, check, explain
from tests.chaos.evidence import Entry, Evidence, Position
from tests.chaos.hand_made import GARBAGE, PROGRAM, evidence_of, journal_of, sends
from tests.chaos.journal import Journal, key_of

LOG = "what is acknowledged is in the log"
ROW = "every acknowledged event has exactly one row"
SENT = "no row without a send"
WINNER = "the winner's payload is stored"
FINAL = "every event has its final status"
ANSWERS = "all answers agree on the winner"
COUNTED = "duplicates and conflicts are counted"
LETTERS = "every bad record is one dead letter"
ONCE = "each event has its effect once"
ORDER = "programs are processed in log order"
TOLD = "every final status is told"
ROLLED_UP = "roll-ups count each event once"
FINISHED = "nothing is left in flight"
ODD = "every answer is one of the contract's"

Spoil = Callable[[Evidence], Evidence]


@pytest.fixture
def journal() -> Journal:
    return journal_of(sends())


def problems(journal: Journal, spoil: Spoil = lambda found: found) -> list[Problem]:
    return check(journal, spoil(evidence_of(sends(), journal_of(sends()))))


def promises(found: list[Problem]) -> set[str]:
    return {problem.promise for problem in found}


def test_nothing_wrong_is_nothing_said(journal: Journal) -> None:
    assert problems(journal) == []


def _row(found: Evidence, at: int, **changed: Any) -> Evidence:  # noqa: ANN401 - fields of any type
    rows = list(found.rows)
    rows[at] = rows[at]._replace(**changed)
    return found._replace(rows=rows)


def _swapped(found: Evidence) -> Evidence:
    """The first two events' entries change places."""
    entries = [
        entry._replace(number=(entry.number + 2) % 4 if entry.number < 4 else entry.number) for entry in found.entries
    ]
    return found._replace(entries=sorted(entries))


SPOILED: dict[str, tuple[Spoil, set[str]]] = {
    "a record is gone": (
        lambda f: f._replace(records=[record for record in f.records if record.offset != 4]),
        {LOG, SENT, ONCE, ROLLED_UP},
    ),
    "garbage is gone": (lambda f: f._replace(records=f.records[:-1]), {LOG, LETTERS}),
    "a row is missing": (lambda f: f._replace(rows=f.rows[1:]), {ROW}),
    "a row is there twice": (lambda f: f._replace(rows=[*f.rows, f.rows[0]]), {ROW}),
    "a row of nobody's": (lambda f: f._replace(rows=[*f.rows, f.rows[0]._replace(id="other")]), {SENT}),
    "rows of other programs": (lambda f: f._replace(rows_of_others=1), {SENT}),
    "a foreign record": (lambda f: f._replace(records=[*f.records, f.records[0]._replace(value=b"{}")]), {SENT}),
    "another payload": (lambda f: _row(f, 0, fields=f.rows[1].fields), {WINNER}),
    "another offset": (lambda f: _row(f, 0, offset=2), {WINNER}),
    "another kind": (lambda f: _row(f, 0, event_type="SYSTEM"), {WINNER}),
    "not final": (lambda f: _row(f, 0, status="PROCESSING"), {FINAL}),
    "failed for nothing": (lambda f: _row(f, 0, status="FAILED", error_code="handler_failed"), {FINAL}),
    "attempted once more": (lambda f: _row(f, 0, attempts=2), {FINAL}),
    "a duplicate not counted": (lambda f: _row(f, 0, duplicates=0), {COUNTED}),
    "a duplicate counted twice": (lambda f: _row(f, 0, duplicates=2), {COUNTED}),
    "a conflict not counted": (lambda f: _row(f, 1, conflicts=0), {COUNTED}),
    "a letter is missing": (lambda f: f._replace(letters=f.letters[1:]), {LETTERS}),
    "a letter is there twice": (lambda f: f._replace(letters=[*f.letters, f.letters[0]]), {LETTERS}),
    "a letter for nothing": (
        lambda f: f._replace(letters=[*f.letters, f.letters[0]._replace(offset=0)]),
        {LETTERS},
    ),
    "a letter not told": (lambda f: f._replace(dead_records=f.dead_records[1:]), {LETTERS}),
    "an effect is missing": (lambda f: f._replace(entries=f.entries[2:]), {ONCE}),
    "an effect is there twice": (lambda f: f._replace(entries=[*f.entries, *f.entries[4:6]]), {ONCE}),
    "half an effect": (lambda f: f._replace(entries=f.entries[1:]), {ONCE}),
    "a wrong amount": (lambda f: f._replace(entries=[f.entries[0]._replace(cents=1), *f.entries[1:]]), {ONCE}),
    "an effect of nothing": (
        lambda f: f._replace(entries=[*f.entries, Entry(9, "other", PROGRAM, "a1", 0, 1)]),
        {ONCE},
    ),
    "another order": (_swapped, {ORDER}),
    "a status not told": (lambda f: f._replace(statuses=f.statuses[1:]), {TOLD}),
    "another status told": (lambda f: f._replace(statuses=[_failed(f), *f.statuses]), {TOLD}),
    "a roll-up counts twice": (lambda f: f._replace(hourly=f.hourly | {(PROGRAM, "COMPLETED"): 4}), {ROLLED_UP}),
    "lag": (lambda f: f._replace(positions=[Position("events", 0, 6, 7, 7)]), {FINISHED}),
    "not processed": (lambda f: f._replace(positions=[Position("events", 0, 7, 6, 7)]), {FINISHED}),
    "committed too far": (lambda f: f._replace(positions=[Position("events", 0, 8, 7, 7)]), {FINISHED}),
    "still in flight": (lambda f: f._replace(unfinished=[(f.rows[0].id, "PENDING")]), {FINISHED}),
    "still to be tried": (lambda f: f._replace(retries=[f.rows[0].id]), {FINISHED}),
    "still claimed": (lambda f: f._replace(claims=["other"]), {FINISHED}),
}


def _failed(found: Evidence) -> Any:  # noqa: ANN401 - a record
    value = json.dumps({"id": found.rows[0].id, "status": "FAILED"}).encode()
    return found.statuses[0]._replace(value=value)


@pytest.mark.parametrize("name", SPOILED)
def test_one_thing_wrong_is_that_thing_said(journal: Journal, name: str) -> None:
    spoil, wanted = SPOILED[name]
    found = problems(journal, spoil)
    assert promises(found) == wanted, explain(found)


def test_acknowledged_but_in_no_log(journal: Journal) -> None:
    (lost,) = sends()[:1]
    lost = lost._replace(payload=lost.payload | {"idempotency_key": "lost"})
    journal.sending(lost)
    journal.answered(lost, "unanswered", time.time())
    assert problems(journal) == []
    journal.answered(lost, "accepted", time.time())
    assert promises(problems(journal)) == {LOG}
    journal.garbage[b"other"] = False
    assert promises(problems(journal)) == {LOG}


def test_answers_that_disagree(journal: Journal) -> None:
    sent = sends()
    loser, winner = sent[3]._replace(door="http"), sent[1]
    journal.answered(loser, "conflict", time.time())
    assert problems(journal) == []
    journal.answered(loser, "accepted", time.time())
    assert promises(problems(journal)) == {ANSWERS}
    journal.answers.pop()
    journal.answered(winner, "conflict", time.time())
    assert promises(problems(journal)) == {ANSWERS}


def test_answers_may_disagree_while_postgres_is_gone(journal: Journal) -> None:
    loser = sends()[3]._replace(door="http")
    journal.answered(loser, "accepted", time.time())
    since = min(answer.sent_at for answer in journal.answers if answer.key == key_of(loser.payload))
    journal.shaky.append((since - 10, since - 1))
    assert promises(problems(journal)) == {ANSWERS}
    journal.shaky.append((since - 1, since))
    assert problems(journal) == []


def test_an_odd_answer_is_told(journal: Journal) -> None:
    journal.odd("POST answered 500")
    assert problems(journal) == [Problem(ODD, "POST answered 500")]


def test_the_explanation_says_what_and_how_often(journal: Journal) -> None:
    found = problems(journal, lambda f: f._replace(rows=[], hourly={}))
    lines = explain(found).splitlines()
    assert lines[0] == f"BROKEN: {ROW}: 4 time(s)"
    assert " has no row" in lines[1]
    assert PROGRAM in lines[1]
    assert explain([Problem("p", str(number)) for number in range(30)]).count("\n") == 10


def test_every_check_is_seen_to_fail() -> None:
    seen = set().union(*(wanted for _, wanted in SPOILED.values())) | {ANSWERS, ODD}
    assert seen == set(CHECKS)
    assert GARBAGE in journal_of(sends()).garbage
