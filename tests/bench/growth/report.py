"""A run's results: a table to read, the same as Markdown and everything as JSON, kept by date and never replaced."""

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

RESULTS = Path(__file__).parents[1] / "results"
_LINES = (
    ("processing: Postgres, µs of CPU per event", ("drain", "postgres")),
    ("processing: worker, µs of CPU per event", ("drain", "worker")),
    ("processing: WAL, bytes per event", ("drain", "wal_bytes")),
    ("processing, right after a checkpoint: Postgres, µs of CPU per event", ("after_checkpoint", "postgres")),
    ("processing, right after a checkpoint: WAL, bytes per event", ("after_checkpoint", "wal_bytes")),
    ("claims: Postgres, µs of CPU per event", ("claims", "postgres")),
    ("claims: gateway, µs of CPU per event", ("claims", "gateway")),
    ("GET one event: p50, ms", ("get", "p50")),
    ("GET one event: p99, ms", ("get", "p99")),
)


def markdown(measured: Mapping[int, Mapping[str, Any]]) -> str:
    """The tables: costs by size, with the ratio of the largest to the smallest; the slowest lists; bytes on disk."""
    sizes = sorted(measured)
    head = ["", *(f"{size:,} events" for size in sizes), "last ÷ first"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for title, (part, name) in _LINES:
        if not all(part in measured[size] for size in sizes):
            continue  # a step that was cut short: the other lines stand all the same
        values = [measured[size][part][name] for size in sizes]
        lines.append(_line(title, [f"{value:,.1f}" for value in values], values))
    for page in ("first", "100th") if all("lists" in measured[size] for size in sizes) else ():
        for share in ("p50", "p99"):
            slowest = [max(each[page][share] for each in _lists(measured[size], page)) for size in sizes]
            title = f"{page} page, {share} of the slowest list, ms"
            lines.append(_line(title, [f"{value:,.1f}" for value in slowest], slowest))
    largest = measured[sizes[-1]]
    lines += [
        "",
        f"The slowest lists at {sizes[-1]:,} events, ms:",
        "",
        "| list | page | p50 | p99 |",
        "|---|---|---|---|",
    ]
    pages = [(list_, page, each) for list_, found in largest.get("lists", {}).items() for page, each in found.items()]
    for list_, page, each in sorted(pages, key=lambda one: -one[2]["p50"])[:20]:
        lines.append(f"| {list_} | {page} | {each['p50']:.1f} | {each['p99']:.1f} |")
    lines += ["", f"Bytes an event on disk at {sizes[-1]:,} events:", "", "| | bytes |", "|---|---|"]
    lines += [f"| {name} | {value:.0f} |" for name, value in largest.get("bytes", {}).items()]
    return "\n".join(lines) + "\n"


def _lists(measured: Mapping[str, Any], page: str) -> list[Any]:
    return [found for found in measured["lists"].values() if page in found]


def _line(title: str, texts: list[str], values: list[float]) -> str:
    return "| " + " | ".join([title, *texts, f"{values[-1] / values[0]:.2f}"]) + " |"


def write(measured: Mapping[int, Mapping[str, Any]], options: Mapping[str, Any]) -> Path:
    """Keep the results; the path of the Markdown."""
    date = time.strftime("%Y-%m-%d", time.gmtime())
    names = (f"{date}-growth{number}" for number in ("", *(f"-{n}" for n in range(2, 1000))))
    name = next(name for name in names if not (RESULTS / f"{name}.json").exists())
    about = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load_at_the_end": os.getloadavg()[0],
        **options,
    }
    RESULTS.mkdir(exist_ok=True)
    results = {"about": about, "measured": {str(size): found for size, found in measured.items()}}
    (RESULTS / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    path = RESULTS / f"{name}.md"
    text = "".join(f"- {key}: {value}\n" for key, value in about.items())
    path.write_text(f"# Growth, {date}\n\n{text}\n{markdown(measured)}", encoding="utf-8")
    return path
