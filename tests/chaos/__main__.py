"""``python -m tests.chaos --seed 7 --minutes 30``: round after round until the time is over, or one fails.

At last, `headrace up` is killed whole as often as there were rounds to be.
"""

import logging
import math
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

from tests.chaos import checker, report, rounds, schedule, up_killed
from tests.chaos.journal import Journal
from tests.chaos.rounds import Result
from tests.chaos.system import System

# Each round has every fault once: so half an hour has each ten times, on a slow machine too.
_ROUND_MINUTES = 3


@click.command()
@click.option("--seed", type=int, default=None, help="Of everything that is random.  [default: by chance]")
@click.option("--minutes", type=click.FloatRange(min=0), default=30.0, show_default=True, help="How long to go on.")
@click.option("--report", "report_file", type=click.Path(path_type=Path), help="Where to write the result as JSON.")
def main(seed: int | None, minutes: float, report_file: Path | None) -> None:
    """Run load and faults, and check what they leave. Ends with 1 at the first round that is not as promised."""
    seed = random.randrange(1_000_000) if seed is None else seed  # noqa: S311 - any seed will do
    folder = Path(tempfile.mkdtemp(prefix="headrace-chaos-"))
    logging.basicConfig(filename=folder / "verifier.log", level=logging.WARNING, format="%(asctime)s %(message)s")
    click.echo(f"seed {seed}; to run it again: make chaos SEED={seed} MINUTES={minutes:g}; logs in {folder}")
    results: list[Result] = []
    try:
        with System(folder) as system:
            good = _go_on(system, seed, minutes, results)
        if good:
            good = _kill_up(folder / "up", seed, _rounds_min(minutes), results)
    finally:
        click.echo(report.text(results))
        if report_file is not None:
            report.save(report_file, seed, results)
    if not good:
        sys.exit(1)
    shutil.rmtree(folder, ignore_errors=True)


def _go_on(system: System, seed: int, minutes: float, results: list[Result]) -> bool:
    """Run rounds, of as many seeds derived from `seed`; whether all were good."""
    until = time.monotonic() + 60 * minutes
    number = 0
    while number < _rounds_min(minutes) or time.monotonic() < until:
        own = seed * 1_000 + number
        click.echo(f"round {number}, seed {own}")
        result, journal = rounds.run(system, own, schedule.decks(number), [schedule.LAST])
        results.append(result)
        click.echo(f"round {number}: {result.records} records, {len(result.outcomes)} faults")
        if not _is_good(result, journal, system.folder):
            return False
        number += 1
    return True


def _kill_up(folder: Path, seed: int, times: int, results: list[Result]) -> bool:
    with up_killed.started(folder / "data") as stack:
        result, journal = up_killed.run(stack, seed * 1_000 + 999, times)
    results.append(result)
    return _is_good(result, journal, folder)


def _is_good(result: Result, journal: Journal, folder: Path) -> bool:
    if not result.problems:
        return True
    journal.save(folder / f"journal-{result.seed}.ndjson")
    click.echo(checker.explain(result.problems))
    click.echo(f"FAILED with seed {result.seed}; the logs and the senders' journal: {folder}")
    return False


def _rounds_min(minutes: float) -> int:
    return max(1, math.ceil(minutes / _ROUND_MINUTES))


if __name__ == "__main__":
    main()
