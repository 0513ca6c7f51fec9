"""docs/cli.md tells what the commands do."""

from pathlib import Path

import click

from deploy import cli_page
from deploy.cli import cli

ROOT = Path(__file__).parent.parent.parent


def test_page_tells_what_the_code_does() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == cli_page.render(), "run make docs"


def test_page_has_every_command_and_option() -> None:
    page = cli_page.render()
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert f"\n## `headrace {name}`\n" in page
        if isinstance(command, click.Group):
            assert [sub for sub in command.commands if f"\n### `headrace {name} {sub}`\n" not in page] == []
    assert page.count("`--dry-run`") == 1
    assert "`--event-from TEXT`" in page
