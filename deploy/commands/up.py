"""``headrace up``: the whole stack on this machine."""

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from deploy import sample as sample_batch
from deploy import stack, state
from deploy.commands import options
from deploy.errors import DeployError
from deploy.http import Client
from deploy.local import postgres
from deploy.process import rotate, tail
from deploy.stack import Plan, Running

_DETACH_TIMEOUT_S = 300.0  # the first start may download the broker
_STOP_TIMEOUT_S = 60.0
_POLL_S = 0.1


@click.command()
@options.DATA
@click.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True, help="Of the gateway; 0: any.")
@click.option("--brokers", type=click.Choice(["1", "3"]), help="Kafka brokers; 3: replicated.  [default: 1]")
@click.option("--partitions", type=click.IntRange(1, 1_000), help="Partitions of each topic.  [default: 12]")
@click.option("--gateway-workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Gateway processes.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processors' processes.")
@click.option("--detach", is_flag=True, help="Return once everything is up; `headrace down` stops it.")
@click.option(
    "--sample",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A batch file to send once everything is up, showing what becomes of each event.",
)
@options.JSON
def up(  # noqa: PLR0913 - one parameter for each option
    *,
    data: Path,
    port: int,
    brokers: str | None,
    partitions: int | None,
    gateway_workers: int,
    workers: int,
    detach: bool,
    sample: Path | None,
    as_json: bool,
) -> None:
    """Bring up Kafka, Postgres, gateway and processors on this machine.

    Needs no Docker, no Java and no root. Stays until Ctrl-C, which stops everything in order; a process that dies
    is started again. What was stored is there again at the next start.
    """
    plan = Plan(data, port, int(brokers) if brokers else None, partitions, gateway_workers, workers)

    def show(running: Running, check: Callable[[], None]) -> None:
        if sample:
            sample_batch.play(
                Client(running.state.url, running.api_key), sample, _note if as_json else click.echo, check
            )
        _show(running, data, as_json=as_json, detached=detach)

    if detach:
        show(_detached(plan), lambda: None)
        return
    stack.run(plan, _note, show)


def _note(line: str) -> None:
    click.echo(line, err=True)  # so that --json leaves nothing else on the standard output


def _show(running: Running, data: Path, *, as_json: bool, detached: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(running.state.public(api_key=running.api_key)).decode())
        return
    url, program = running.state.url, options.program()
    where = "" if data == state.DEFAULT_DATA else f" --data {shlex.quote(str(data))}"
    query = "select status, count(*) from headrace.event_status group by 1"
    click.echo(f"""
Headrace is up.

  URL       {url}   (reference: {url}/docs)
  API key   {running.api_key}
  Kafka     {running.state.kafka}
  Postgres  {running.state.database_url}

Try next:

  curl -s {url}/v1/events -H 'X-API-Key: {running.api_key}'
  {program} send events.ndjson{where}
  {program} status{where}
  {postgres.psql()} '{running.state.database_url}' -c '{query}'

{f"{program} down{where}" if detached else "Ctrl-C"} stops everything; the data stay in {data}.""")


def _detached(plan: Plan) -> Running:
    """Start the supervisor as a process of its own and wait until the stack is up."""
    log = plan.data / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    rotate(log)
    with log.open("ab") as output:
        child = subprocess.Popen(  # noqa: S603 - this program itself
            [sys.executable, "-m", "deploy.cli", "up", "--json", *_arguments(plan)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return _await(plan.data, child, log)
    except BaseException:  # Ctrl-C too: nothing may be left that nobody asked for
        child.send_signal(signal.SIGTERM)
        child.wait(_STOP_TIMEOUT_S)
        raise


def _arguments(plan: Plan) -> list[str]:
    given = plan._asdict().items()
    return [part for name, value in given if value is not None for part in (f"--{name.replace('_', '-')}", str(value))]


def _await(data: Path, child: "subprocess.Popen[bytes]", log: Path) -> Running:
    deadline = time.monotonic() + _DETACH_TIMEOUT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise DeployError(tail(log).removeprefix("Error: "))
        found = state.load(data)
        if found and found.supervisor.pid == child.pid and found.ready:
            return Running(found, state.key_file(data).read_text(encoding="ascii").strip())
        time.sleep(_POLL_S)
    raise DeployError(f"the stack is not up within {_DETACH_TIMEOUT_S:g} s (log: {log})")
