"""`headrace up` killed whole and started again on its data, while senders go on: ``python -m tests.chaos.up_killed``.

What dies is every process of it at once, its supervisor included.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import psutil
import psycopg

from deploy import state
from deploy.local import ports
from tests.chaos import checker, evidence, handler, report, rounds
from tests.chaos.checker import Problem
from tests.chaos.faults import Outcome
from tests.chaos.flow import Flow, NoFlowError
from tests.chaos.journal import Journal
from tests.chaos.kafka_view import KafkaView
from tests.chaos.rounds import Load, Result
from tests.chaos.system import PARTITIONS

FAULT = "headrace up killed whole"

_HEADRACE = [sys.executable, "-m", "deploy.cli"]
_UP_S = 240.0
_DOWN_S = 90.0
_FLOW_S = 120.0
_STEADY_S = 3.0
_SHAKY_AFTER_S = 3.0


class UpStack:
    """A stack that `headrace up` brings up; a :class:`tests.chaos.rounds.Target`."""

    def __init__(self, data: Path) -> None:
        """Nothing is started yet."""
        self.data = data
        self._port = ports.pick(1)[0]
        own = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        self._environment = own | {"HEADRACE_HANDLERS": handler.HANDLERS}

    def up(self) -> None:
        """Bring it up, as at the first time, on whatever is there."""
        options = [
            "--port",
            str(self._port),
            "--partitions",
            str(PARTITIONS),
            "--workers",
            "2",
            "--gateway-workers",
            "2",
        ]
        told = self._headrace("up", "--detach", "--json", *options, timeout_s=_UP_S)
        stack: dict[str, Any] = json.loads(told)
        self.api_key: str = stack["api_key"]
        self.bootstrap: str = stack["kafka"]
        self.database_url: str = stack["database_url"]
        self.kafka = KafkaView(self.bootstrap, PARTITIONS)

    def down(self) -> None:
        """Stop it."""
        self._headrace("down", timeout_s=_DOWN_S)

    def kill(self) -> None:
        """SIGKILL to every process at once."""
        found = state.running(self.data)
        identities = [found.supervisor, *(process.identity for process in found.processes)]
        living = [process for process in (identity.process() for identity in identities) if process is not None]
        for process in living:
            with contextlib.suppress(psutil.NoSuchProcess):  # some end by themselves when their parent is gone
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(living, timeout=10.0)

    @property
    def urls(self) -> list[str]:
        """The gateways share a port."""
        return [f"http://127.0.0.1:{self._port}"]

    def _headrace(self, command: str, *options: str, timeout_s: float) -> str:
        done = subprocess.run(
            [*_HEADRACE, command, *options, "--data", str(self.data)],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"headrace {command}: {done.stderr}"
        return done.stdout


@contextmanager
def started(data: Path) -> Iterator[UpStack]:
    """A stack with the ledger's table; stopped at the end."""
    stack = UpStack(data)
    try:
        stack.up()
        with psycopg.connect(stack.database_url) as connection:
            connection.execute(handler.SCHEMA.encode())
        yield stack
    finally:
        stack.down()


def run(stack: UpStack, seed: int, times: int) -> tuple[Result, Journal]:
    """Kill it `times` times while senders send; then check."""
    journal = Journal()
    before = evidence.marks(stack.kafka, stack.database_url)
    load = Load(stack, journal, seed)
    load.start()
    outcomes: list[Outcome] = []
    problems: list[Problem] = []
    try:
        for _ in range(times):
            time.sleep(_STEADY_S)
            outcomes.append(_kill_and_up(stack, journal))
            click.echo(f"  {FAULT}: {outcomes[-1].recovery_s:.1f} s")
    except NoFlowError as error:
        problems.append(Problem("events flow again", str(error)))
    load.stop()
    return rounds.verdict(stack, journal, load.programs, before, Result(seed, problems, outcomes, 0, 0)), journal


def _kill_and_up(stack: UpStack, journal: Journal) -> Outcome:
    wall, began = time.time(), time.monotonic()
    stack.kill()
    stack.up()
    ended = time.monotonic()
    flow = Flow(stack.database_url, journal, _FLOW_S)
    try:
        flow.until_accepted(stack.urls, ended)
        flow.until_processed(flow.processed())
    finally:
        flow.close()
        journal.shaky.append((wall, time.time() + _SHAKY_AFTER_S))
    return Outcome(FAULT, "everything", wall, wall + ended - began, time.monotonic() - began, "begin")


@click.command()
@click.option("--seed", type=int, default=7, show_default=True)
@click.option("--times", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--report", "report_file", type=click.Path(path_type=Path), help="Where to write the result as JSON.")
def main(seed: int, times: int, report_file: Path | None) -> None:
    """Kill `headrace up` whole, again and again, and check what that leaves."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-up-"))
    logging.basicConfig(filename=folder / "verifier.log", level=logging.WARNING, format="%(asctime)s %(message)s")
    click.echo(f"seed {seed}; data and logs in {folder}")
    with started(folder / "data") as stack:
        result, journal = run(stack, seed, times)
    click.echo(report.text([result]))
    if report_file is not None:
        report.save(report_file, seed, [result])
    if result.problems:
        journal.save(folder / "journal.ndjson")
        click.echo(checker.explain(result.problems))
        sys.exit(1)


if __name__ == "__main__":
    main()
