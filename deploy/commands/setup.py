"""``headrace setup``: every download that `up` needs, and nothing started."""

import click

from deploy.local import kafka_jars


@click.command()
def setup() -> None:
    """Download the Kafka broker and check it against the lock file; `up` needs no network after that."""
    jars = kafka_jars.install()
    click.echo(f"Kafka {kafka_jars.KAFKA_VERSION}: {len(jars)} files in place, sums checked")
