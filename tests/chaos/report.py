"""What a run of the verifier says: a table of the faults, and the same as JSON."""

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.faults import Outcome
from tests.chaos.rounds import Result


class FaultRow(NamedTuple):
    """One fault over all rounds; seconds until events flowed again, counted from the fault's begin or end."""

    fault: str
    times: int
    median_s: float
    worst_s: float
    counted_from: str


def table(outcomes: Sequence[Outcome]) -> list[FaultRow]:
    """A row for each fault."""
    by_fault: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_fault[outcome.fault].append(outcome)
    return [
        FaultRow(
            name,
            len(found),
            round(statistics.median(one.recovery_s for one in found), 1),
            round(max(one.recovery_s for one in found), 1),
            found[0].counted_from,
        )
        for name, found in sorted(by_fault.items())
    ]


def text(results: Sequence[Result]) -> str:
    """The table, and what went through meanwhile."""
    lines = [f"{'fault':42} {'times':>5} {'median':>8} {'worst':>8}  seconds until events flow, from its"]
    lines += [
        f"{row.fault:42} {row.times:5} {row.median_s:8.1f} {row.worst_s:8.1f}  {row.counted_from}"
        for row in table([outcome for result in results for outcome in result.outcomes])
    ]
    records, answers = sum(result.records for result in results), sum(result.answers for result in results)
    lines.append(f"{len(results)} round(s), {records} records in the log, {answers} answers")
    return "\n".join(lines)


def save(path: Path, seed: int, results: Sequence[Result]) -> None:
    """Write everything as JSON."""
    outcomes = [outcome for result in results for outcome in result.outcomes]
    whole: dict[str, Any] = {
        "seed": seed,
        "rounds": [
            {
                "seed": result.seed,
                "records": result.records,
                "answers": result.answers,
                "problems": [problem._asdict() for problem in result.problems],
                "faults": [outcome._asdict() for outcome in result.outcomes],
            }
            for result in results
        ],
        "faults": [row._asdict() for row in table(outcomes)],
    }
    path.write_text(json.dumps(whole, indent=1), encoding="utf-8")
