"""The checker: what the senders know and what is found, held against each other. Every difference is a problem."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC
from typing import NamedTuple

from schemas import topics
from tests.chaos import truth
from tests.chaos.evidence import Evidence, Letter, Row
from tests.chaos.journal import Answer, Journal, Key
from tests.chaos.kafka_view import LogRecord
from tests.chaos.money import variant_of
from tests.chaos.truth import Accepted, Truth

SHOWN_MAX = 10


class Problem(NamedTuple):
    """One thing that is not as promised: the promise's name, and what exactly is wrong."""

    promise: str
    detail: str


class Case(NamedTuple):
    """All that a check looks at."""

    journal: Journal
    found: Evidence
    truth: Truth
    rows: dict[str, list[Row]]


Check = Callable[[Case], Iterator[str]]


def check(journal: Journal, found: Evidence) -> list[Problem]:
    """Every problem; none: all promises were kept."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in found.rows:
        rows[row.id].append(row)
    case = Case(journal, found, truth.read(journal, found.records), rows)
    return [Problem(name, detail) for name, one in CHECKS.items() for detail in one(case)]


def explain(problems: list[Problem]) -> str:
    """The problems in words, the first ten of each kind."""
    lines = []
    for name, count in Counter(problem.promise for problem in problems).items():
        lines.append(f"BROKEN: {name}: {count} time(s)")
        lines += [f"    {problem.detail}" for problem in problems if problem.promise == name][:SHOWN_MAX]
    return "\n".join(lines)


def _acknowledged(case: Case) -> Iterator[str]:
    for answer in case.journal.answers:
        if answer.verdict == "accepted":
            event = case.truth.events.get(answer.key)
            if event is None or answer.variant not in event.variants:
                yield f"{_name(answer.key)} was acknowledged over {answer.door} and is not in the log: {answer}"
    in_log = {record.value for record in case.truth.garbage}
    for value, acknowledged in case.journal.garbage.items():
        if acknowledged and value not in in_log:
            yield f"garbage was acknowledged by Kafka and is not in the log: {value!r:.200}"


def _sent(case: Case) -> Iterator[str]:
    yield from (f"the log has a record that nobody sent: {text}" for text in case.truth.foreign)
    ids = {event.id for event in case.truth.events.values()}
    yield from (f"row {id_} has no record in the log" for id_ in case.rows if id_ not in ids)
    if case.found.rows_of_others:
        yield f"{case.found.rows_of_others} row(s) more than there were, of programs that nobody sent to"


def _one_row(case: Case) -> Iterator[str]:
    for event in case.truth.events.values():
        rows = case.rows.get(event.id, [])
        if not rows:
            yield f"{_event(event)} has no row"
        elif len(rows) > 1:
            yield f"{_event(event)} has {len(rows)} rows"


def _winner(case: Case) -> Iterator[str]:
    for event in case.truth.events.values():
        for row in case.rows.get(event.id, [])[:1]:
            sent = event.payload | {"event_timestamp": event.payload["event_timestamp"].astimezone(UTC)}  # type: ignore[attr-defined]
            stored = row.fields | {"event_timestamp": row.fields["event_timestamp"].astimezone(UTC)}
            if stored != sent:
                yield f"{_event(event)} is stored as {stored}, the first record says {sent}"
            kind = "EXTERNAL" if any(name == "received-at" for name, _ in event.first.headers) else "SYSTEM"
            if (row.event_type, row.offset) != (kind, event.first.offset):
                yield f"{_event(event)} is {row.event_type} of offset {row.offset}, its first record is {kind}"


def _final(case: Case) -> Iterator[str]:
    for event in case.truth.events.values():
        wanted = truth.expected(event.payload)
        for row in case.rows.get(event.id, [])[:1]:
            ended = truth.Expected(row.status, row.error_code, row.attempts)
            if ended != wanted:
                yield f"{_event(event)} ended as {ended}, expected {wanted}"


def _answers(case: Case) -> Iterator[str]:
    by_key: dict[Key, list[Answer]] = defaultdict(list)
    for answer in case.journal.answers:
        by_key[answer.key].append(answer)
    for key, answers in by_key.items():
        event = case.truth.events.get(key)
        if event is None or _may_disagree(case.journal, answers):
            continue
        won = variant_of(event.payload)
        for answer in answers:
            if answer.door == "http" and answer.verdict == "accepted" and answer.variant != won:
                yield f"{_event(event)}: {answer.variant} was accepted, but {won} won: {answer}"
            if answer.verdict == "conflict" and answer.variant == won:
                yield f"{_event(event)}: {answer.variant} was answered a conflict, but it won: {answer}"


def _may_disagree(journal: Journal, answers: list[Answer]) -> bool:
    """Whether Postgres, the judge of claims, was gone at some time from the key's first send to its last answer."""
    begin, end = min(answer.sent_at for answer in answers), max(answer.at for answer in answers)
    return any(answer.deferred for answer in answers) or any(
        begin <= until and since <= end for since, until in journal.shaky
    )


def _counters(case: Case) -> Iterator[str]:
    for event in case.truth.events.values():
        for row in case.rows.get(event.id, [])[:1]:
            counted, copies = (row.duplicates, row.conflicts), (len(event.copies), len(event.conflicts))
            if counted != copies:
                yield (
                    f"{_event(event)} counts {counted[0]} duplicates and {counted[1]} conflicts,"
                    f" the log has {copies[0]} and {copies[1]}"
                )


def _letters(case: Case) -> Iterator[str]:
    wanted = {_place(record): "garbage" for record in case.truth.garbage}
    for event in case.truth.events.values():
        wanted |= {_place(record): f"a conflict of {event.id}" for record in event.conflicts}
        if truth.expected(event.payload).status == "FAILED":
            wanted[_place(event.first)] = f"the failed event {event.id}"
    kept = Counter((letter.topic, letter.partition, letter.offset) for letter in case.found.letters)
    told = {(letter.topic, letter.partition, letter.offset) for letter in map(_letter, case.found.dead_records)}
    for place, what in wanted.items():
        if kept[place] != 1:
            yield f"{what} at {place} is {kept[place]} times among the dead letters"
        if place not in told:
            yield f"{what} at {place} is not in the topic of dead letters"
    yield from (f"a dead letter for nothing: {place}" for place in (kept.keys() | told) - wanted.keys())


def _ledger(case: Case) -> Iterator[str]:
    entries: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for entry in case.found.entries:
        entries[entry.event_id].append((entry.account, entry.cents))
    for event in case.truth.events.values():
        wanted, written = list(truth.entries_of(event)), entries.pop(event.id, [])
        if written != wanted:
            yield f"{_event(event)} has the entries {written}, expected {wanted}"
    yield from (f"entries of no event: {id_}: {written}" for id_, written in entries.items())
    held = truth.amounts((entry.program_id, entry.account, entry.cents) for entry in case.found.entries)
    due = truth.amounts((event.key[0], *one) for event in case.truth.events.values() for one in truth.entries_of(event))
    for account in sorted(held.keys() | due.keys()):
        if held.get(account, 0) != due.get(account, 0):
            yield f"account {account} holds {held.get(account, 0)} cents, expected {due.get(account, 0)}"


def _order(case: Case) -> Iterator[str]:
    """The ledger has the events of a program in log order; those tried again come later."""
    offsets = {event.id: event.first.offset for event in case.truth.events.values()}
    last: dict[str, int] = {}
    for entry in case.found.entries:
        offset = offsets.get(entry.event_id)
        if offset is None or entry.attempt > 1:
            continue
        before = last.get(entry.program_id, -1)
        if offset < before:
            yield f"program {entry.program_id}: offset {offset} was processed after offset {before}"
        last[entry.program_id] = offset


def _statuses(case: Case) -> Iterator[str]:
    told: dict[str, set[str]] = defaultdict(set)
    for record in case.found.statuses:
        value = json.loads(record.value or b"{}")
        told[value["id"]].add(value["status"])
    for event in case.truth.events.values():
        wanted = {truth.expected(event.payload).status}
        if told.get(event.id) != wanted:
            yield f"{_event(event)} is told as {told.get(event.id)}, expected {wanted}"


def _rollups(case: Case) -> Iterator[str]:
    wanted = Counter((event.key[0], truth.expected(event.payload).status) for event in case.truth.events.values())
    for at in sorted(wanted.keys() | case.found.hourly.keys()):
        if wanted[at] != case.found.hourly.get(at, 0):
            yield f"{at} is rolled up as {case.found.hourly.get(at, 0)} events, the log has {wanted[at]}"


def _finished(case: Case) -> Iterator[str]:
    for at in case.found.positions:
        if not at.committed == at.processed == at.end and at.end > 0:
            reached = f"committed up to {at.committed}, processed up to {at.processed} of {at.end}"
            yield f"{at.topic}[{at.partition}] is {reached}"
    yield from (f"event {id_} is still {status}" for id_, status in case.found.unfinished)
    yield from (f"event {id_} still waits for another attempt" for id_ in case.found.retries)
    unknown = {truth.event_id(key) for key in case.journal.payloads} - {e.id for e in case.truth.events.values()}
    yield from (f"{id_} is claimed and has no event" for id_ in case.found.claims if id_ not in unknown)


def _oddities(case: Case) -> Iterator[str]:
    yield from case.journal.oddities


CHECKS: dict[str, Check] = {
    "what is acknowledged is in the log": _acknowledged,
    "every acknowledged event has exactly one row": _one_row,
    "no row without a send": _sent,
    "the winner's payload is stored": _winner,
    "every event has its final status": _final,
    "all answers agree on the winner": _answers,
    "duplicates and conflicts are counted": _counters,
    "every bad record is one dead letter": _letters,
    "each event has its effect once": _ledger,
    "programs are processed in log order": _order,
    "every final status is told": _statuses,
    "roll-ups count each event once": _rollups,
    "nothing is left in flight": _finished,
    "every answer is one of the contract's": _oddities,
}


def _name(key: Key) -> str:
    return f"event {truth.event_id(key)} (program {key[0]}, key {key[1]})"


def _event(event: Accepted) -> str:
    return f"{_name(event.key)} at {event.first.partition}@{event.first.offset}"


def _place(record: LogRecord) -> tuple[str, int, int]:
    return topics.EVENTS, record.partition, record.offset


def _letter(record: LogRecord) -> Letter:
    headers = {name: value.decode() for name, value in record.headers}
    return Letter(headers["topic"], int(headers["partition"]), int(headers["offset"]), headers["code"])
