"""The chart: for each row with a cost, a bar of CPU µs an event, of the process, Postgres and Kafka."""

from xml.sax.saxutils import escape

from tests.bench.report import Report, Row, number

_COLOURS = {"process": "#2b6cb0", "Postgres": "#dd8a2e", "Kafka": "#718096"}
_LEFT, _WIDTH, _LINE, _TOP, _BAR = 380, 560, 26, 64, 16
_RIGHT = 120


def render(report: Report) -> str:
    """The chart as SVG. Its scale is the longest bar but one: an outlier is cut, and says so by its number."""
    rows = [row for row in report.rows if row.process_us is not None]
    totals = sorted(sum(_parts(row).values()) for row in rows)
    longest = totals[-2] if len(totals) > 1 else sum(totals) or 1.0
    height = _TOP + _LINE * len(rows) + 20
    size = f'width="{_LEFT + _WIDTH + _RIGHT}" height="{height}"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
        f'<rect width="100%" height="{height}" fill="white"/>',
        f'<text x="12" y="22" font-size="16">CPU µs per event, {escape(report.date)}</text>',
    ]
    legend = [
        f'<rect x="{12 + 110 * index}" y="34" width="12" height="12" fill="{colour}"/>'
        f'<text x="{30 + 110 * index}" y="45">{name}</text>'
        for index, (name, colour) in enumerate(_COLOURS.items())
    ]
    bars = [part for index, row in enumerate(rows) for part in _bar(row, _TOP + index * _LINE, longest)]
    return "\n".join([*head, *legend, *bars, "</svg>", ""])


def _parts(row: Row) -> dict[str, float]:
    costs = {"process": row.process_us, "Postgres": row.postgres_us, "Kafka": row.kafka_us}
    return {name: max(cost or 0.0, 0.0) for name, cost in costs.items()}


def _bar(row: Row, top: int, longest: float) -> list[str]:
    drawn = [f'<text x="{_LEFT - 8}" y="{top + 13}" text-anchor="end">{escape(row.what)}</text>']
    at = 0.0
    for name, cost in _parts(row).items():
        width = min(cost / longest * _WIDTH, _WIDTH - at)
        drawn.append(
            f'<rect x="{_LEFT + at:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{_COLOURS[name]}"/>'
        )
        at += width
    said = " + ".join(number(cost) for cost in _parts(row).values())
    drawn.append(f'<text x="{_LEFT + at + 6:.1f}" y="{top + 13}">{said}</text>')
    return drawn
