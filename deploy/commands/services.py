"""``headrace migrate``, ``gateway``, ``worker``: what a container or a service manager starts, set by HEADRACE_*."""

import logging
from importlib import import_module

import click
import msgspec

from schemas import settings as settings_module


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def migrate(*, as_json: bool) -> None:
    """Bring Postgres and Kafka to what this version needs.

    Applies the SQL migrations that are missing and creates the topics that are missing. Safe to run again, and by
    several processes at once.
    """
    from deploy import migrate as migration  # noqa: PLC0415 - Kafka's and Postgres's clients, for this command only

    outcome = migration.run(settings_module.load())
    if as_json:
        click.echo(msgspec.json.encode(outcome._asdict()).decode())
        return
    for name in outcome.applied:
        click.echo(f"applied {name}")
    for name in outcome.topics_created:
        click.echo(f"created topic {name}")
    if not outcome.applied and not outcome.topics_created:
        click.echo("everything is in place")


@click.command()
def gateway() -> None:
    """Run one gateway process.

    Listens on HEADRACE_HOST:HEADRACE_PORT; several processes can share the port. Ends in order on SIGTERM.
    """
    from deploy import gateway_server  # noqa: PLC0415 - the web server, for this command only

    settings = settings_module.load()
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s %(message)s")
    gateway_server.serve(settings)


@click.command()
def worker() -> None:
    """Run one processors' worker.

    Give each worker a name of its own with HEADRACE_WORKER_ID. Ends in order on SIGTERM.
    """
    settings_module.load()
    import_module("processors.app").main()
