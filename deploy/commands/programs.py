"""``headrace programs``: the registry of programs."""

from pathlib import Path
from uuid import UUID

import click
import msgspec

from deploy import registry, tables
from deploy.commands import options
from deploy.registry import Program

_WIDTHS = (36, 8, 20, 50)
_NAME_CHARACTERS_MAX = 255


def _name(_: click.Context, __: click.Parameter, name: str) -> str:
    if not name.strip() or len(name) > _NAME_CHARACTERS_MAX:
        raise click.BadParameter(f"must be 1 to {_NAME_CHARACTERS_MAX} characters")
    return name


@click.group()
def programs() -> None:
    """Register, list, disable and enable programs.

    The registry counts where the gateways run with HEADRACE_PROGRAMS=registered; they follow it within seconds.
    """


@programs.command()
@click.argument("program_id", type=click.UUID)
@click.option("--name", required=True, callback=_name, help="What people call it.")
@options.DATA
@options.DATABASE
@options.JSON
def add(*, program_id: UUID, name: str, data: Path, database_url: str | None, as_json: bool) -> None:
    """Register a program. Doing it twice changes nothing."""
    _show(registry.add(options.database(data, database_url), program_id, name), as_json=as_json)


@programs.command("list")
@options.DATA
@options.DATABASE
@options.JSON
def list_(*, data: Path, database_url: str | None, as_json: bool) -> None:
    """List the registered programs."""
    found = registry.all_programs(options.database(data, database_url))
    if as_json:
        click.echo(msgspec.json.encode({"programs": [program._asdict() for program in found]}).decode())
        return
    click.echo(tables.row(("program", "state", "since", "name"), _WIDTHS))
    for program in found:
        click.echo(_line(program))


@programs.command()
@click.argument("program_id", type=click.UUID)
@options.DATA
@options.DATABASE
@options.JSON
def disable(*, program_id: UUID, data: Path, database_url: str | None, as_json: bool) -> None:
    """Have the gateways refuse a program's events. What was accepted is processed all the same."""
    _show(registry.switch(options.database(data, database_url), program_id, disabled=True), as_json=as_json)


@programs.command()
@click.argument("program_id", type=click.UUID)
@options.DATA
@options.DATABASE
@options.JSON
def enable(*, program_id: UUID, data: Path, database_url: str | None, as_json: bool) -> None:
    """Have the gateways take a disabled program's events again."""
    _show(registry.switch(options.database(data, database_url), program_id, disabled=False), as_json=as_json)


def _show(program: Program, *, as_json: bool) -> None:
    click.echo(msgspec.json.encode(program._asdict()).decode() if as_json else _line(program))


def _line(program: Program) -> str:
    since = program.disabled_at or program.created_at
    state = "disabled" if program.disabled_at else "enabled"
    return tables.row((program.program_id, state, f"{since:%Y-%m-%d %H:%M:%S}", program.name), _WIDTHS)
