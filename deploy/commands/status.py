"""``headrace status``: what runs on a data folder."""

from pathlib import Path

import click
import msgspec

from deploy import state
from deploy.commands import options


@click.command()
@options.DATA
@options.JSON
def status(*, data: Path, as_json: bool) -> None:
    """Show the stack that runs on the data folder. Exits with 1 when none does."""
    found = state.running(data)
    if as_json:
        click.echo(msgspec.json.encode(found.public()).decode())
        return
    click.echo(f"URL       {found.url}{'' if found.ready else '   (starting)'}")
    click.echo(f"Kafka     {found.kafka}")
    click.echo(f"Postgres  {found.database_url}\n")
    click.echo(f"{'process':<14}{'pid':>8}{'restarts':>10}  state")
    for process in found.processes:
        alive = "running" if process.identity.process() else "starting again"
        name = f"{process.role}-{process.number}"
        click.echo(f"{name:<14}{process.identity.pid:>8}{process.restarts:>10}  {alive}")
