"""The suite works: far too little is measured to say anything, but through the same processes and code."""

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.bench.compare import compare, ratios
from tests.bench.cpu import beside
from tests.bench.load import Load, Order, Target
from tests.bench.report import Goal, Report, Row, markdown, table

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(420)
def test_the_suite_measures_and_keeps_what_it_saw(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench", "--tiny", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    (kept,) = tmp_path.glob("*.json")
    report = msgspec.json.decode(kept.read_bytes(), type=Report)
    by_name = {row.what: row for row in report.rows}
    gateway = by_name["gateway, batches of 100, strict"]
    assert gateway.details["events"] >= 100
    assert gateway.process_us is not None
    assert gateway.process_us > 0
    assert by_name["baseline: plain Faust, minimal work"].details["same_rows"]
    assert table(report) in done.stdout
    assert kept.with_suffix(".md").read_text() == markdown(report)
    assert kept.with_suffix(".svg").read_text().startswith("<svg")


def _report(ratio: float) -> Report:
    row = Row("gateway", "gateway", process_us=10.0, to_baseline=ratio, goals=[Goal("µs process", 10.0, 12.0, "µs")])
    return Report("2026-01-01", 1.0, {}, {}, {}, [row])


def test_runs_agree_within_fifteen_percent_and_not_beyond() -> None:
    text, agree = compare([_report(0.50), _report(0.57), _report(0.55)])
    assert agree
    assert "the worst is 14.0% apart" in text
    text, agree = compare([_report(0.50), _report(0.58)])
    assert not agree
    assert "gateway ÷ baseline: 0.500, 0.580" in text


def test_runs_are_held_together_by_their_rounds() -> None:
    """Whatever a run's own table said."""
    ours = Row("processors, default path", "processors", to_limit=9.0, details={"process_us": [30.0, 50.0]})
    limit = [
        Row("limit: consume only", "processors", details={"process_us": [7.0, 9.0]}),
        Row("limit: COPY only, default indexes", "processors", details={"process_us": [1.0, 3.0]}),
    ]
    assert ratios(Report("2026-01-01", 1.0, {}, {}, {}, [ours, *limit])) == {"processors, default path ÷ limit": 4.0}


def test_a_ratio_is_of_all_rounds_together() -> None:
    assert beside([10.0, 20.0, 15.0], [20.0, 40.0, 30.0]) == 0.5  # slow for both
    assert beside([10.0, 30.0, 20.0], [20.0, 60.0, 80.0]) == 0.375
    assert beside([1.0, 2.0], [0.0, 4.0]) == 0.75  # a round below the clock's ticks
    assert beside([1.0], [0.0]) is None


@pytest.mark.anyio
async def test_a_stall_counts_for_every_request_that_was_meant_to_go_out() -> None:
    waits_s = iter([0.4])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.rsplit(b":", 1)[1]))
                await asyncio.sleep(next(waits_s, 0.0))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        load = Load(Target("127.0.0.1", server.sockets[0].getsockname()[1], "key", first=0))
        outcome = await load.carry_out(Order(0.5, batch=1, connections=1, rate=100.0))
    finally:
        server.close()
    assert (outcome.events, outcome.failed) == (50, 0)
    # The stall of 400 ms is in the times of the 40 requests that were due meanwhile, less and less of it.
    assert outcome.post["max_ms"] >= 390  # timers are exact to some milliseconds
    assert 100 < outcome.post["p50_ms"] < 400


def test_a_goal_is_reached_at_its_bound() -> None:
    assert Goal("µs", 12.0, 12.0, "µs").reached
    assert not Goal("µs", 12.1, 12.0, "µs").reached
    assert Goal("events/s", 20.0, 20.0, "per s", at_least=True).reached
    assert not Goal("events/s", 19.9, 20.0, "per s", at_least=True).reached
