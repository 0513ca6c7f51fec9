"""``headrace send``: events from a file or a pipe to the gateway."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO

import click
import msgspec

from deploy import sending
from deploy.commands import options

_SHOWN_MAX = 20


@click.command()
@click.argument("source", metavar="FILE|-", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@options.DATA
@options.URL
@options.KEY
@options.JSON
def send(*, source: str, data: Path, url: str | None, key: str | None, as_json: bool) -> None:
    """Send events: NDJSON, one event a line, or a batch file ({"events": […]}); "-" is the standard input.

    Sends again what can succeed later, with growing pauses, and nothing else. Exits with 1 when an event was rejected.
    """
    total = 0
    rejected: list[sending.Rejected] = []
    with ExitStack() as stack:
        sender = sending.Sender(stack.enter_context(closing(options.client(data, url, key))))
        file = stack.enter_context(click.open_file(source, "rb"))
        for batch in sending.batches(sending.read(_with_progress(file, source, stack))):
            rejected += sender.send(batch)
            total += len(batch)
    _report(total, rejected, as_json=as_json)
    if rejected:
        sys.exit(1)


def _with_progress(file: IO[bytes], source: str, stack: ExitStack) -> Iterator[bytes]:
    """The lines of `file`, moving a progress bar along where somebody watches and the length is known."""
    length = Path(source).stat().st_size if source != "-" else 0
    if not length or not sys.stderr.isatty():
        yield from file
        return
    bar = stack.enter_context(click.progressbar(length=length, label="sending", file=sys.stderr))
    for line in file:
        yield line
        bar.update(len(line))


def _report(total: int, rejected: list[sending.Rejected], *, as_json: bool) -> None:
    accepted = total - len(rejected)
    if as_json:
        listed = [found._asdict() for found in rejected]
        report = {"total": total, "accepted": accepted, "rejected": len(rejected), "errors": listed}
        click.echo(msgspec.json.encode(report).decode())
        return
    for found in rejected[:_SHOWN_MAX]:
        click.echo(f"event {found.number}: {found.code}: {found.message}", err=True)
    if len(rejected) > _SHOWN_MAX:
        click.echo(f"… and {len(rejected) - _SHOWN_MAX} more (all of them with --json)", err=True)
    click.echo(f"{accepted} accepted, {len(rejected)} rejected")
