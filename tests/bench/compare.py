"""Whether several runs say the same: their ratios, since those hold on a noisy machine."""

import re
from collections.abc import Iterator, Sequence

from tests.bench.cpu import beside
from tests.bench.report import Report, Row

APART_MAX = 0.15


_GATEWAY = re.compile("gateway, (?P<said>.+), (?:strict|deferred)")
_PROCESSORS = re.compile("processors, (?P<path>.+) path")


def ratios(report: Report) -> dict[str, float]:
    """Every ratio of a run by its name.

    Made from the rounds where they were kept: up to `2026-11-28-15` a run's own ratios were medians.
    """
    found = {}
    rounds = {row.what: row.details["process_us"] for row in report.rows if "process_us" in row.details}
    for row in report.rows:
        for name, said, others in _compared(row):
            kept = others and all(other in rounds for other in (row.what, *others))
            summed = [sum(each) for each in zip(*(rounds[other] for other in others), strict=True)] if kept else []
            ratio = beside(rounds[row.what], summed) if kept else said
            if ratio is not None:
                found[f"{row.what} {name}"] = ratio
    return found


def _compared(row: Row) -> Iterator[tuple[str, float | None, list[str]]]:
    """A row's ratios, with the rows that it stands beside; what is added up where there are several."""
    baseline, limit = [], []
    if match := _GATEWAY.fullmatch(row.what):
        baseline = [f"baseline: the route done plainly, {match['said']}"]
        limit = [f"limit: read and answer only, {match['said']}"]
    elif match := _PROCESSORS.fullmatch(row.what):
        baseline = ["baseline: plain Faust, minimal work"]
        limit = ["limit: consume only", f"limit: COPY only, {match['path']} indexes"]
    yield "÷ baseline", row.to_baseline, baseline
    yield "÷ limit", row.to_limit, limit


def spreads(reports: Sequence[Report]) -> dict[str, float]:
    """How far the runs lie apart, by ratio that all have: the largest over the smallest, less one."""
    each = [ratios(report) for report in reports]
    common = [name for name in each[0] if all(name in one for one in each)]
    return {name: max(one[name] for one in each) / min(one[name] for one in each) - 1 for name in common}


def compare(reports: Sequence[Report]) -> tuple[str, bool]:
    """What to print, and whether all ratios agree."""
    apart = spreads(reports)
    if not apart:
        return "the runs have no ratio in common", False
    each = [ratios(report) for report in reports]
    lines = [
        f"{spread:6.1%}  {name}: " + ", ".join(f"{one[name]:.3f}" for one in each)
        for name, spread in sorted(apart.items(), key=lambda item: -item[1])
    ]
    worst = max(apart.values())
    verdict = "agree" if worst <= APART_MAX else "DO NOT agree"
    lines.append(
        f"{len(apart)} ratios of {len(reports)} runs {verdict} within {APART_MAX:.0%}; the worst is {worst:.1%} apart"
    )
    return "\n".join(lines), worst <= APART_MAX
