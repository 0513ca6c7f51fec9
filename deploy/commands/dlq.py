"""``headrace dlq``: dead letters listed, read and replayed."""

import asyncio
import getpass
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import msgspec

from deploy import dead_letters, tables
from deploy.commands import options
from deploy.dead_letters import Filter, Letter, Line
from deploy.replay import Outcome, Replay, Wanted

_HEADINGS = ("number", "first seen", "code", "program", "replayed by", "reason")
_WIDTHS = (8, 19, 20, 36, 11, 16)
_REPLAY_WIDTHS = (8, 22, 9, 75)
_NAME_WIDTH = 16
_UNASKED_MAX = 100

_CODE = click.option("--code", "codes", multiple=True, help="Only letters with this code; repeatable.")
_PROGRAM = click.option("--program", "programs", type=click.UUID, multiple=True, help="Only of it; repeatable.")
_NUMBER = click.option(
    "--number", "numbers", type=click.IntRange(1, 2**63 - 1), multiple=True, help="Only this letter; repeatable."
)


@click.group()
def dlq() -> None:
    """List, read and replay dead letters: records and events that could not be processed."""


@dlq.command("list")
@_CODE
@_PROGRAM
@_NUMBER
@click.option("--open", "only_open", is_flag=True, help="Only letters that were not replayed.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Most letters to list.")
@options.DATA
@options.DATABASE
@options.JSON
def list_(  # noqa: PLR0913 - one parameter for each option
    *,
    codes: tuple[str, ...],
    programs: tuple[UUID, ...],
    numbers: tuple[int, ...],
    only_open: bool,
    limit: int,
    data: Path,
    database_url: str | None,
    as_json: bool,
) -> None:
    """List dead letters, the newest first."""
    which = Filter(codes, programs, numbers, replayed=not only_open)
    found = dead_letters.latest(options.database(data, database_url), which, limit)
    if as_json:
        click.echo(msgspec.json.encode({"dead_letters": [line._asdict() for line in found]}).decode())
        return
    click.echo(tables.row(_HEADINGS, _WIDTHS))
    for line in found:
        click.echo(_row(line))


def _row(line: Line) -> str:
    seen = f"{line.first_seen_at:%Y-%m-%d %H:%M:%S}"
    return tables.row((line.number, seen, line.code, line.program_id, line.replayed_by, line.reason), _WIDTHS)


@dlq.command()
@click.argument("number", type=click.IntRange(1, 2**63 - 1))
@options.DATA
@options.DATABASE
@options.JSON
def show(*, number: int, data: Path, database_url: str | None, as_json: bool) -> None:
    """Show one dead letter: what is wrong with it, and its record byte by byte.

    Key, headers and value are shown as text where they are UTF-8, else in hexadecimal digits.
    """
    letter = dead_letters.one(options.database(data, database_url), number)
    if as_json:
        click.echo(msgspec.json.encode(_json(letter)).decode())
        return
    for name, value in _fields(letter).items():
        click.echo(f"{name:<{_NAME_WIDTH}}{'' if value is None else tables.plain(str(value))}".rstrip())
    for name, content in letter.headers():
        click.echo(f"{'header':<{_NAME_WIDTH}}{tables.plain(name)}: {_text(content)}")
    click.echo(f"{'key':<{_NAME_WIDTH}}{_text(letter.record_key)}")
    click.echo(f"{'value':<{_NAME_WIDTH}}{_text(letter.record_value)}")


def _fields(letter: Letter) -> dict[str, Any]:
    return {name: value for name, value in letter._asdict().items() if not name.startswith("record_")}


def _json(letter: Letter) -> dict[str, Any]:
    headers = [{"name": name, **_spelled(content)} for name, content in letter.headers()]
    key = None if letter.record_key is None else _spelled(letter.record_key)
    value = None if letter.record_value is None else _spelled(letter.record_value)
    return {**_fields(letter), "headers": headers, "key": key, "value": value}


def _spelled(content: bytes) -> dict[str, str]:
    """Bytes in JSON: as text where they are UTF-8, else in hexadecimal digits."""
    try:
        return {"text": content.decode()}
    except UnicodeDecodeError:
        return {"hex": content.hex()}


def _text(content: bytes | None) -> str:
    if content is None:
        return "(none)"
    (form, text), *_ = _spelled(content).items()
    shown = "\n".join(map(tables.plain, text.split("\n")))
    return shown if form == "text" else f"(hexadecimal) {shown}"


@dlq.command()
@_CODE
@_PROGRAM
@_NUMBER
@click.option("--limit", type=click.IntRange(1), help="Most letters to replay.  [default: all that match]")
@click.option("--again", is_flag=True, help="Replay letters that were replayed before, too.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, and change nothing.")
@click.option("--by", help="Who replays, for the audit.  [default: the user's name]")
@click.option("--yes", is_flag=True, help=f"Do not ask before more than {_UNASKED_MAX} letters.")
@options.DATA
@options.JSON
def replay(  # noqa: PLR0913 - one parameter for each option
    *,
    codes: tuple[str, ...],
    programs: tuple[UUID, ...],
    numbers: tuple[int, ...],
    limit: int | None,
    again: bool,
    dry_run: bool,
    by: str | None,
    yes: bool,
    data: Path,
    as_json: bool,
) -> None:
    """Replay dead letters, those first that came first; each once.

    An event that has failed is tried again, as with `events retry`. A record is published to `events` again, with its
    own bytes and headers, and with its program_id as key where it can be read as an event. Filters are combined with
    "and"; none: every letter. Who replayed what is kept in headrace.dead_letter_replays.
    """
    settings = options.settings(data)
    which = Filter(codes, programs, numbers, replayed=again)
    count = dead_letters.matching(settings.database_url, which)
    count = count if limit is None else min(count, limit)
    if count > _UNASKED_MAX and _at_terminal() and not (yes or dry_run):
        click.confirm(f"Replay {count} dead letters?", abort=True, err=True)
    wanted = Wanted(which, limit, by or _user(), dry_run)
    outcomes = asyncio.run(_replay(Replay(settings, wanted), silent=as_json))
    for outcome in _left_out(settings.database_url, numbers, outcomes) if limit is None else ():
        outcomes.append(outcome)
        _tell(outcome, silent=as_json)
    counts = Counter(outcome.action for outcome in outcomes)
    if as_json:
        listed = [outcome._asdict() for outcome in outcomes]
        report = {"dry_run": dry_run, **{name: counts[name] for name in ("event", "record", "skipped")}}
        click.echo(msgspec.json.encode({**report, "letters": listed}).decode())
        return
    done = "would be tried again" if dry_run else "tried again"
    published = "would be published again" if dry_run else "published again"
    click.echo(f"{counts['event']} events {done}, {counts['record']} records {published}, {counts['skipped']} skipped")


def _at_terminal() -> bool:
    return sys.stdin.isatty()


async def _replay(run: Replay, *, silent: bool) -> list[Outcome]:
    outcomes = []
    async for outcome in run.outcomes():
        outcomes.append(outcome)
        _tell(outcome, silent=silent)
    return outcomes


def _tell(outcome: Outcome, *, silent: bool) -> None:
    if not silent:
        click.echo(tables.row((outcome.number, outcome.code, outcome.action, outcome.detail), _REPLAY_WIDTHS))


def _left_out(url: str, numbers: tuple[int, ...], outcomes: list[Outcome]) -> list[Outcome]:
    """Why letters that were asked for by number have no outcome."""
    missing = set(numbers) - {outcome.number for outcome in outcomes}
    if not missing:
        return []
    lines = dead_letters.latest(url, Filter(numbers=sorted(missing), replayed=True), len(missing))
    return [Outcome(line.number, line.code, "skipped", _why(line)) for line in reversed(lines)]


def _why(line: Line) -> str:
    if line.replayed_at is None:
        return "another filter excludes it, or another replay has it at this moment"
    return f"replayed already, at {line.replayed_at:%Y-%m-%d %H:%M:%S} by {line.replayed_by}: see --again"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without an entry, as in many containers
        return f"uid {os.getuid()}"
