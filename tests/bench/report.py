"""Rows of the report, and how they are shown: one table, in the terminal and in Markdown."""

from typing import Any

import msgspec


class Goal(msgspec.Struct):
    """What a row is to reach: `name` is `seen`, and must be at most (or, `at_least`, no less than) `bound`."""

    name: str
    seen: float
    bound: float
    unit: str
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether it is."""
        return self.seen >= self.bound if self.at_least else self.seen <= self.bound

    def text(self) -> str:
        """Seen, against the bound."""
        sign = "≥" if self.at_least else "≤"
        return f"{self.name} {number(self.seen)} ({sign} {number(self.bound)} {self.unit})"


class Row(msgspec.Struct):
    """One measure. CPU in µs an event; `to_baseline` and `to_limit` are ratios of the process's CPU in this run.

    `settings` is what the measure was taken under: acks, replication, sizes, seeds; `details` is everything else seen;
    `said` stands in the table where there is no goal.
    """

    what: str
    part: str
    events_per_s: float | None = None
    process_us: float | None = None
    postgres_us: float | None = None
    kafka_us: float | None = None
    load_us: float | None = None
    to_baseline: float | None = None
    to_limit: float | None = None
    goals: list[Goal] = []
    said: str = ""
    settings: dict[str, Any] = {}
    details: dict[str, Any] = {}

    @property
    def reached(self) -> str:
        """``yes``, ``no``, or nothing where there is no goal."""
        if not self.goals:
            return ""
        return "yes" if all(goal.reached for goal in self.goals) else "no"


class Report(msgspec.Struct):
    """A run: where, with what, and what was seen."""

    date: str
    seconds: float
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    rows: list[Row]


HEADINGS = ["what", "events/s", "µs process", "µs Postgres", "µs Kafka", "÷ baseline", "÷ limit", "goal", "reached"]
_LEFT = {0, 7, 8}
_GREAT = 100


def number(value: float | None) -> str:
    """A number with as many digits as say something."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= _GREAT else f"{value:.3g}"


def cells(row: Row) -> list[str]:
    """A row of the table, as texts."""
    ratios = [f"{ratio:.2f}" if ratio is not None else "" for ratio in (row.to_baseline, row.to_limit)]
    costs = [number(value) for value in (row.events_per_s, row.process_us, row.postgres_us, row.kafka_us)]
    return [row.what, *costs, *ratios, "; ".join(goal.text() for goal in row.goals) or row.said, row.reached]


def table(report: Report) -> str:
    """The table for a terminal."""
    lines = [HEADINGS, *map(cells, report.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    shown = ["  ".join(_padded(line, widths)).rstrip() for line in lines]
    shown.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(shown)


def _padded(line: list[str], widths: list[int]) -> list[str]:
    return [
        cell.ljust(width) if column in _LEFT else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]


def markdown(report: Report) -> str:
    """The table and what it was taken under, as a page."""
    rule = ["---" if column in _LEFT else "---:" for column in range(len(HEADINGS))]
    lines = [HEADINGS, rule, *map(cells, report.rows)]
    shown = ["| " + " | ".join(line) + " |" for line in lines]
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    general = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    own = [
        f"- {row.what}: " + ", ".join(f"{name} {_short(value)}" for name, value in (row.settings | row.details).items())
        for row in report.rows
    ]
    head = [f"# {report.date}", "", f"Machine: {machine}.", "", f"Versions: {versions}.", "", f"All lines: {general}."]
    return "\n".join([*head, f"The run took {report.seconds:.0f} s.", "", *shown, "", *own, ""])


def _short(value: Any) -> str:  # noqa: ANN401 - whatever was measured
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} {_short(part)}" for name, part in value.items()) + "}"
    return str(value)
