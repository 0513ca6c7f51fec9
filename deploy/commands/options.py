"""Options that several commands share."""

import os
import shutil
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from deploy import state
from deploy.errors import DeployError
from deploy.http import Client
from deploy.state import StackState
from schemas.settings import Settings, load

DATA = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=state.DEFAULT_DATA,
    show_default=True,
    help="Folder where everything lives.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
URL = click.option("--url", help="The gateway's address.  [default: the running stack's]")
KEY = click.option("--key", help="An API key.  [default: the development key in the data folder]")
DATABASE = click.option("--database-url", help="[default: the running stack's, or HEADRACE_DATABASE_URL]")


def client(data: Path, url: str | None, key: str | None) -> Client:
    """A client for the gateway that the options name, or the one that runs on `data`."""
    key_file = state.key_file(data)
    if key is None and not key_file.exists():
        raise DeployError(
            f"no API key: give one with --key, or --data of a stack that was up ({key_file} is not there)"
        )
    return Client(url or state.running(data).url, key or key_file.read_text(encoding="ascii").strip())


def database(data: Path, database_url: str | None) -> str:
    """The database named, or the one of the stack that runs on `data`, or the environment's."""
    if database_url:
        return database_url
    found = stack(data)
    return found.database_url if found else load().database_url


def stack(data: Path) -> StackState | None:
    """The stack that runs on `data`, if one does. Raises :class:`DeployError` where the user named a folder without."""
    if click.get_current_context().get_parameter_source("data") is ParameterSource.COMMANDLINE:
        return state.running(data)
    found = state.load(data)
    return found if found and found.supervisor.process() else None


def settings(data: Path) -> Settings:
    """The environment's settings, and where a stack runs on `data` its Kafka and Postgres in place of theirs."""
    given, found = load(), stack(data)
    return found.settings(given) if found else given


def program() -> str:
    """How to call this program from where the user is."""
    if shutil.which("headrace"):
        return "headrace"
    return os.path.relpath(Path(sys.prefix) / "bin" / "headrace")
