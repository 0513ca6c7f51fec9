"""``headrace down``: stops the stack that runs on a data folder."""

from pathlib import Path

import click
import msgspec

from deploy import state, stopping
from deploy.commands import options


@click.command()
@options.DATA
@options.JSON
def down(*, data: Path, as_json: bool) -> None:
    """Stop the stack that runs on the data folder; the data stay.

    Only processes that this stack started are stopped. That nothing runs is no error.
    """
    found = state.load(data)
    stopped = found is not None and stopping.stop(found)
    if as_json:
        click.echo(msgspec.json.encode({"stopped": stopped}).decode())
    else:
        click.echo(f"stopped; the data stay in {data}" if stopped else f"nothing runs on {data}")
