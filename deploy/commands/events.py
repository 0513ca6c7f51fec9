"""``headrace events``: events read back through the gateway, and tried again."""

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click
import msgspec

from deploy import tables
from deploy.commands import options
from deploy.reading import Outcome, Reader
from gateway.queries import DIRECTIONS, FILTERS, LIMIT_DEFAULT, SORTS, Filter
from gateway.waiting import WAIT_S_MAX

_HEADINGS = ("id", "created_at", "status", "idempotency_key", "external_id", "error_code")
_WIDTHS = (36, 20, 10, 19, 11, 14)
_SECONDS_END = 19
_NAME_WIDTH = 22

Function = TypeVar("Function", bound=Callable[..., Any])


class _Shown(msgspec.Struct):
    """What the table shows of an event."""

    id: str
    created_at: str
    status: str
    idempotency_key: str
    external_id: str | None
    participant_id: str | None
    error_code: str | None


@click.group()
def events() -> None:
    """List events, read one, or have failed ones tried again."""


def _filter_options(function: Function) -> Function:
    """An option for each filter of the list route."""
    for name, found in reversed(FILTERS.items()):
        function = click.option(f"--{name.replace('_', '-')}", name, type=_type(found), help=_help(found))(function)
    return function


def _type(found: Filter) -> click.ParamType:
    if "enum" in found.schema:
        return click.Choice(found.schema["enum"])
    return click.UUID if found.schema.get("format") == "uuid" else click.STRING


def _help(found: Filter) -> str:
    example = " (2026-01-31T12:00:00Z)" if found.schema.get("format") == "date-time" else ""
    meaning = found.meaning if found.meaning.startswith("events ") else f"events {found.meaning}"
    return f"Only {meaning}{example}."


@events.command("list")
@_filter_options
@click.option("--sort-by", type=click.Choice(SORTS), default=SORTS[0], show_default=True, help="Order of the list.")
@click.option("--sort-dir", type=click.Choice(DIRECTIONS), default=DIRECTIONS[0], show_default=True, help="Direction.")
@click.option("--limit", type=click.IntRange(1), default=LIMIT_DEFAULT, show_default=True, help="Most events to list.")
@click.option("--all", "everything", is_flag=True, help="List all of them, whatever their number.")
@options.DATA
@options.URL
@options.KEY
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one event a line.")
def list_(
    *,
    limit: int,
    everything: bool,
    data: Path,
    url: str | None,
    key: str | None,
    as_json: bool,
    **query: object,
) -> None:
    """List events. Filters are combined with "and"; pages are fetched as they are printed."""
    given = {name: str(value) for name, value in query.items() if value is not None}
    with closing(options.client(data, url, key)) as client:
        reader = Reader(client)
        if not as_json:
            click.echo(tables.row(_HEADINGS, _WIDTHS))
        for event in reader.events(given, None if everything else limit):
            click.echo(event if as_json else _line(event))
        if reader.has_more:
            click.echo(f"… there are more than {limit}: --limit or --all", err=True)


def _line(event: bytes) -> str:
    shown = msgspec.json.decode(event, type=_Shown)
    created = shown.created_at[:_SECONDS_END].rstrip("Z") + "Z"
    about = shown.external_id or shown.participant_id
    return tables.row((shown.id, created, shown.status, shown.idempotency_key, about, shown.error_code), _WIDTHS)


@events.command()
@click.argument("event_id", metavar="ID", type=click.UUID)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, WAIT_S_MAX),
    default=0,
    help="Wait until the status is final, that many seconds at the most.",
)
@options.DATA
@options.URL
@options.KEY
@options.JSON
def get(*, event_id: UUID, wait_s: float, data: Path, url: str | None, key: str | None, as_json: bool) -> None:
    """Show one event: what was sent, and what has become of it."""
    with closing(options.client(data, url, key)) as client:
        event = Reader(client).event(str(event_id), wait_s)
    if as_json:
        click.echo(event)
        return
    for name, value in msgspec.json.decode(event, type=dict[str, msgspec.Raw]).items():
        click.echo(f"{name:<{_NAME_WIDTH}}{_text(bytes(value))}")


def _text(value: bytes) -> str:
    """A field's value for people: strings without quotes, nothing for null, other JSON as it is, digit by digit."""
    if value == b"null":
        return ""
    if value.startswith(b'"'):
        return tables.plain(msgspec.json.decode(value, type=str))
    lines = msgspec.json.format(value, indent=2).decode().splitlines()
    return f"\n{'':<{_NAME_WIDTH}}".join(map(tables.plain, lines))


@events.command()
@click.argument("event_ids", metavar="ID...", nargs=-1, required=True, type=click.UUID)
@options.DATA
@options.URL
@options.KEY
@options.JSON
def retry(*, event_ids: tuple[UUID, ...], data: Path, url: str | None, key: str | None, as_json: bool) -> None:
    """Have FAILED events go through processing again. Exits with 1 when one of them cannot."""
    outcomes = []
    with closing(options.client(data, url, key)) as client:
        reader = Reader(client)
        for event_id in event_ids:
            outcomes.append(reader.retry(str(event_id)))
            if not as_json:
                _show(outcomes[-1])
    if as_json:
        click.echo(msgspec.json.encode({"results": [outcome._asdict() for outcome in outcomes]}).decode())
    if any(outcome.status is None for outcome in outcomes):
        sys.exit(1)


def _show(outcome: Outcome) -> None:
    if outcome.status is None:
        click.echo(f"Error: {outcome.id}: {outcome.code}: {outcome.message}", err=True)
    else:
        click.echo(f"{outcome.id}  {outcome.status}")
