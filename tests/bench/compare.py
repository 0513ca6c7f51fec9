"""Whether several runs say the same: their ratios, since those hold on a noisy machine."""

from collections.abc import Sequence

from tests.bench.report import Report

APART_MAX = 0.15


def ratios(report: Report) -> dict[str, float]:
    """Every ratio of a run by its name."""
    found = {}
    for row in report.rows:
        for name, ratio in (("÷ baseline", row.to_baseline), ("÷ limit", row.to_limit)):
            if ratio is not None:
                found[f"{row.what} {name}"] = ratio
    return found


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
