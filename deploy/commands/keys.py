"""``headrace keys``: API keys."""

from datetime import datetime
from pathlib import Path
from uuid import UUID

import click
import msgspec

from deploy import api_keys
from deploy.commands import options
from schemas.keys import SCOPES
from schemas.timestamps import read_timestamp


def _instant(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return read_timestamp(text)[0]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.option("--name", required=True, help="Whose key it is.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="Repeatable.  [default: all]")
@click.option("--program", "programs", multiple=True, type=click.UUID, help="Restrict to a program; repeatable.")
@click.option("--expires-at", callback=_instant, metavar="TIMESTAMP", help="RFC 3339 with an offset.  [default: never]")
@click.option(
    "--rate", type=click.FloatRange(min=0), help="Events per second, 0 for no limit.  [default: the gateways']"
)
@options.DATA
@options.DATABASE
@options.JSON
def create(  # noqa: PLR0913 - one argument per option
    *,
    name: str,
    scopes: tuple[str, ...],
    programs: tuple[UUID, ...],
    expires_at: datetime | None,
    rate: float | None,
    data: Path,
    database_url: str | None,
    as_json: bool,
) -> None:
    """Make a key. It is shown now and never again."""
    grant = api_keys.Grant(scopes or SCOPES, programs, expires_at, rate)
    text = api_keys.create(options.database(data, database_url), name, grant)
    click.echo(msgspec.json.encode({"name": name, "api_key": text}).decode() if as_json else text)


@keys.command("list")
@options.DATA
@options.DATABASE
@options.JSON
def list_(*, data: Path, database_url: str | None, as_json: bool) -> None:
    """List the keys, without their secrets."""
    found = api_keys.all_keys(options.database(data, database_url))
    if as_json:
        click.echo(msgspec.json.encode({"keys": [key._asdict() for key in found]}).decode())
        return
    for key in found:
        programs = ",".join(map(str, key.program_ids or [])) or "every program"
        revoked = f"  revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""
        click.echo(f"{key.id}  {key.name}  {','.join(key.scopes)}  {programs}{revoked}")


@keys.command()
@click.argument("key", metavar="ID|KEY")
@options.DATA
@options.DATABASE
def revoke(*, key: str, data: Path, database_url: str | None) -> None:
    """Revoke a key, named by its id in the list or by its text."""
    click.echo(f"revoked: {api_keys.revoke(options.database(data, database_url), key)}")
