"""The development key that `headrace up` makes at its first start and keeps in the data folder."""

from pathlib import Path

from deploy import api_keys
from deploy.secret import write_secret
from schemas.keys import SCOPES, new_key

_NAME = "development (headrace up)"


def ensure(path: Path, database_url: str) -> str:
    """The key kept in `path`, made when there is none, and known to the database in any case."""
    if path.exists():
        text = path.read_text(encoding="ascii").strip()
    else:
        text, _ = new_key()
        write_secret(path, text.encode() + b"\n")
    api_keys.add(database_url, text, _NAME, api_keys.Grant(SCOPES))
    return text
