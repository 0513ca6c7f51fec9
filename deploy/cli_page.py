"""Writes ``docs/cli.md`` from the commands themselves, so that the page cannot tell anything else than ``--help``."""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from deploy.cli import cli

_HEAD = """# Command line

Every command tells all of this with `--help`. Errors are one line on the standard error; the exit code is then 1, or 2
where the command was called in a way that it does not know. Written by `make docs`.
"""


def render() -> str:
    """The page as Markdown."""
    return _HEAD + "".join(_sections(click.Context(cli, info_name="headrace")))


def _sections(context: click.Context) -> Iterator[str]:
    group = context.command
    assert isinstance(group, click.Group)  # noqa: S101 - for the type checker
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None  # noqa: S101 - it is listed
        inner = click.Context(command, info_name=name, parent=context)
        yield _section(command, inner)
        if isinstance(command, click.Group):
            yield from _sections(inner)


def _section(command: click.Command, context: click.Context) -> str:
    level = "##" if context.parent and context.parent.parent is None else "###"
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    rows = "".join(_rows(command, context))
    table = f"\n| option | meaning |\n|---|---|\n{rows}" if rows else ""
    return f"\n{level} `{context.command_path}`\n\n`{usage}`\n\n{_paragraphs(command)}\n{table}"


def _paragraphs(command: click.Command) -> str:
    text = inspect.cleandoc(command.help or "")
    # HEADRACE_* would begin an emphasis.
    return re.sub(r"(HEADRACE_[\w*:]*)", r"`\1`", text)


def _rows(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.params:
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record:
            names, meaning = record
            yield f"| `{_cell(names)}` | {_cell(meaning)} |\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
