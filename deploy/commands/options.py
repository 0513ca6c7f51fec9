"""Options that several commands share."""

import os
import shutil
import sys
from pathlib import Path

import click

from deploy import state
from deploy.errors import DeployError
from deploy.http import Client

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


def client(data: Path, url: str | None, key: str | None) -> Client:
    """A client for the gateway that the options name, or the one that runs on `data`."""
    key_file = state.key_file(data)
    if key is None and not key_file.exists():
        raise DeployError(
            f"no API key: give one with --key, or --data of a stack that was up ({key_file} is not there)"
        )
    return Client(url or state.running(data).url, key or key_file.read_text(encoding="ascii").strip())


def program() -> str:
    """How to call this program from where the user is."""
    if shutil.which("headrace"):
        return "headrace"
    return os.path.relpath(Path(sys.prefix) / "bin" / "headrace")
