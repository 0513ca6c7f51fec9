"""``python -m tests.bench.growth``: fills Postgres step by step, and measures at each size.

Everything is done in a temporary folder that is removed. With ``--data`` the folder is kept and the steps can be taken
one by one: ``--only fill``, ``drain``, ``lists`` or ``claims`` for one size, at last ``--only report``.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.bench.bed import checkpoint
from tests.bench.growth import costs, fill, lists, report
from tests.bench.growth.world import World, world

STEPS = ("fill", "drain", "lists", "claims")
_GB_PER_MILLION_EVENTS = 1.5
# As on a system that has run for a while since its last checkpoint: most pages of the primary key were touched once.
_WARM = 150_000
_GB_BESIDE = 6  # WAL, Kafka's log, room to make indexes


def main() -> None:
    """Run what the options say."""
    options = _options()
    sizes = sorted(int(float(text) * 1e6) for text in options.sizes.split(","))
    last = int(options.last * 1e6) if options.last else sizes[-1]
    with _folder(options.data) as folder:
        _check_room(folder, last)
        if options.only != "report":
            with world(folder) as started:
                for size in sizes:
                    for step in STEPS if options.only is None else (options.only,):
                        _keep(folder, size, _take(started, step, size, options, folder, last))
                        sys.stdout.write(f"{size:,} events: {step} done\n")
                        sys.stdout.flush()
        if options.only in (None, "report"):
            measured = {size: _kept(folder, size) for size in sizes}
            path = report.write(measured, {"seed": options.seed, "drained": options.events, "repeats": options.repeats})
            sys.stdout.write(f"{report.markdown(measured)}\n{path}\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--sizes", default="0.1,1,10", help="millions of events, ascending (default: %(default)s)")
    parser.add_argument("--events", type=int, default=50_000, help="events per measured drain (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="requests per page (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the events sent (default: %(default)s)")
    parser.add_argument("--last", type=float, help="millions of events at the last call with this --data")
    parser.add_argument("--data", type=Path, help="a folder to keep between calls")
    parser.add_argument("--only", choices=(*STEPS, "report"), help="one step of all sizes named; needs --data")
    parser.add_argument("--part", default="0/1", help="which part of the lists: 0/4 is the first quarter")
    options = parser.parse_args()
    if options.only and not options.data:
        parser.error("--only needs --data")
    return options


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    folder = Path(tempfile.mkdtemp(prefix="headrace-growth-"))
    folder.chmod(0o755)  # Postgres may run as another user than this
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_room(folder: Path, events: int) -> None:
    needed_gb = _GB_BESIDE + events / 1e6 * _GB_PER_MILLION_EVENTS
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < needed_gb:
        sys.exit(f"{folder} has {free_gb:.0f} GB free; {events:,} events need {needed_gb:.0f} GB")


def _take(started: World, step: str, size: int, options: argparse.Namespace, folder: Path, last: int) -> dict[str, Any]:
    """One step's results."""
    seed = options.seed + size  # no event twice
    if step == "fill":
        return {"fill_s": fill.fill(started, size, last)}
    if step == "drain":
        checkpoint(folder)
        return {
            "after_checkpoint": costs.drain(started, options.events // 2, options.events, seed),
            "drain": costs.drain(started, min(_WARM, size), options.events, seed + 2),
        }
    started.stack.start_gateway()
    try:
        if step == "claims":
            found = {"claims": costs.claims(started, min(_WARM, size), options.events, seed + 1)}
            costs.settle(started)
            return found
        part, parts = (int(text) for text in options.part.split("/"))
        return {
            "get": lists.get_one(started, 1_000),
            "lists": lists.measure(started, options.repeats, part, parts),
            "bytes": fill.sizes(started),
        }
    finally:
        started.stack.stop_gateway()


def _path(folder: Path, size: int) -> Path:
    return folder / f"measured-{size}.json"


def _kept(folder: Path, size: int) -> dict[str, Any]:
    path = _path(folder, size)
    return dict(msgspec.json.decode(path.read_bytes())) if path.exists() else {}


def _keep(folder: Path, size: int, found: dict[str, Any]) -> None:
    measured = _kept(folder, size)
    if "lists" in found:
        found["lists"] = measured.get("lists", {}) | found["lists"]
    _path(folder, size).write_bytes(msgspec.json.encode(measured | found))


if __name__ == "__main__":
    main()
