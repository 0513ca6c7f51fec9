"""The development key that `headrace up` makes at its first start and keeps in the data folder."""

from pathlib import Path

import psycopg

from deploy.errors import DeployError
from deploy.secret import write_secret
from schemas.keys import SCOPES, hash_key, new_key

_CONNECT_TIMEOUT_S = 10
_NAME = "development (headrace up)"


def ensure(path: Path, database_url: str) -> str:
    """The key kept in `path`, made when there is none, and known to the database in any case."""
    if path.exists():
        text = path.read_text(encoding="ascii").strip()
    else:
        text, _ = new_key()
        write_secret(path, text.encode() + b"\n")
    try:
        with psycopg.connect(database_url, connect_timeout=_CONNECT_TIMEOUT_S) as connection:
            connection.execute(
                "insert into headrace.api_keys (key_sha256, name, scopes) values (%s, %s, %s) on conflict do nothing",
                (hash_key(text), _NAME, list(SCOPES)),
            )
    except psycopg.Error as error:
        raise DeployError(f"the development key cannot be kept: {str(error).splitlines()[0]}") from error
    return text
