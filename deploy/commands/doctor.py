"""``headrace doctor``: is everything set up, reachable and at work, and what to do where it is not."""

import asyncio
import logging
import sys
from itertools import chain
from pathlib import Path

import click
import msgspec

from deploy import check_kafka, check_postgres, checks, state, tables
from deploy.checks import FAIL, Check
from deploy.commands import options
from deploy.state import StackState
from schemas.settings import Settings

_NAME_WIDTH = 10


@click.command()
@options.DATA
@options.URL
@options.KEY
@options.JSON
def doctor(*, data: Path, url: str | None, key: str | None, as_json: bool) -> None:
    """Check the settings and every connection, and say what to do.

    Looks at the stack that runs on the data folder; where none does, at what HEADRACE_* name. Exits with 1 when
    something fails.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it would say is in the checks
    found = _examine(data, url, key)
    if as_json:
        told = {"ok": all(check.level != FAIL for check in found), "checks": [check._asdict() for check in found]}
        click.echo(msgspec.json.encode(told).decode())
    else:
        for check in found:
            _show(check)
    if any(check.level == FAIL for check in found):
        sys.exit(1)


def _examine(data: Path, url: str | None, key: str | None) -> list[Check]:
    stack = options.stack(data)
    given, found = checks.settings()
    found.append(checks.compiled())
    if stack:
        found += checks.stack(stack)
        given = stack.settings(given or Settings())
    if given is not None:
        found += asyncio.run(_connections(given))
        found.append(checks.disk(data if stack else Path(given.table_dir)))
    address = url or (stack.url if stack else None)
    if address:
        found += checks.gateway(address, key or _own_key(data, stack))
    return found


async def _connections(settings: Settings) -> list[Check]:
    asked = (check_kafka.checks(settings), check_postgres.checks(settings.database_url))
    return list(chain.from_iterable(await asyncio.gather(*asked)))


def _own_key(data: Path, stack: StackState | None) -> str | None:
    """The development key of the stack, where one runs."""
    file = state.key_file(data)
    return file.read_text(encoding="ascii").strip() if stack and file.exists() else None


def _show(check: Check) -> None:
    advice = f": {check.advice}" if check.advice else ""
    click.echo(f"{check.level:<5} {check.name:<{_NAME_WIDTH}}  {tables.plain(check.found + advice)}")
