"""The command: ``python -m tests.bench`` measures; ``python -m tests.bench compare A B …`` holds runs together."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import click
import msgspec

from tests.bench import chart, machine, part_gateway, part_pipeline, part_processors, part_start_up
from tests.bench.bed import PARTITIONS, Bed, bed
from tests.bench.compare import compare
from tests.bench.payloads import PROGRAMS, SEED, Payloads
from tests.bench.report import Report, Row, cells, markdown, table
from tests.bench.sizes import TINY, Sizes

_BROKEN = "broke off"
_SAID_MAX = 120

RESULTS = Path(__file__).parent / "results"
PARTS: dict[str, Callable[[Bed, Sizes], Iterator[Row]]] = {
    part.PART: part.measure for part in (part_gateway, part_processors, part_pipeline, part_start_up)
}


def run(parts: list[str], sizes: Sizes, say: Callable[[str], None]) -> Report:
    """Measure `parts`; `say` hears of each row when it is there."""
    start = time.monotonic()
    before = machine.machine()
    rows: list[Row] = []
    took_s: dict[str, int] = {}
    with bed() as made:
        for name in parts:
            began = time.monotonic()
            for row in _rows(name, made, sizes):
                say(f"  {' | '.join(cells(row))}")
                rows.append(row)
            took_s[name] = round(time.monotonic() - began)
            say(f"{name}: {took_s[name]} s")
        versions = machine.versions(made.backend)
    settings = {
        "seed": SEED,
        "programs": PROGRAMS,
        "event_bytes": len(Payloads().event(0)),
        "partitions": PARTITIONS,
        "brokers": 1,
        "replication": 1,
        "fsync": "on",
        "took_s": took_s,
        "sizes": msgspec.json.decode(msgspec.json.encode(sizes)),  # as it will be read again
    }
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return Report(date, time.monotonic() - start, before, versions, settings, rows)


def _rows(name: str, made: Bed, sizes: Sizes) -> Iterator[Row]:
    try:
        yield from PARTS[name](made, sizes)
    except Exception as error:  # noqa: BLE001 - what the other parts measure is worth keeping, and so is this
        said = f"{type(error).__name__}: {error}".strip()
        yield Row(f"{name}: {_BROKEN}", name, said=" ".join(said[:_SAID_MAX].split()), details={"error": said})


def keep(report: Report, folder: Path) -> Path:
    """Write the report under a name that none has yet; returns the path of its JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while (path := folder / f"{report.date}{f'-{number}' if number > 1 else ''}.json").exists():
        number += 1
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    path.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    path.with_suffix(".svg").write_text(chart.render(report), encoding="utf-8")
    return path


@click.group(invoke_without_command=True)
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="Measure this part (can be repeated).")
@click.option(
    "--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="Where to keep it."
)
@click.option("--tiny", is_flag=True, help="Much too little to measure: only to see that it works.")
@click.pass_context
def main(context: click.Context, only: tuple[str, ...], results: Path, *, tiny: bool) -> None:
    """Measure what an event costs, print one table, and keep it by date."""
    if context.invoked_subcommand:
        return
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it tells of topics so new that they have no leader yet
    for number in (signal.SIGINT, signal.SIGTERM):  # everything is stopped and removed then too
        signal.signal(number, _interrupt)
    sizes = TINY if tiny else Sizes()
    report = run([name for name in PARTS if not only or name in only], sizes, lambda text: click.echo(text, err=True))
    click.echo(table(report))
    click.echo(f"\n{report.seconds:.0f} s; kept as {keep(report, results)}")
    if any(row.what.endswith(_BROKEN) for row in report.rows):
        raise SystemExit(1)


@main.command("compare")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def compare_command(files: tuple[Path, ...]) -> None:
    """Say whether the ratios of several runs agree within 15 %; the exit code is 1 where they do not."""
    text, agree = compare([msgspec.json.decode(path.read_bytes(), type=Report) for path in files])
    click.echo(text)
    if not agree:
        raise SystemExit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(prog_name="python -m tests.bench")
