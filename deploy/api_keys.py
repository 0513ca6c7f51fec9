"""API keys in the database: made, listed, revoked. A key's text is shown once, at its making."""

from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from typing import NamedTuple, TypeVar
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from deploy.errors import DeployError
from schemas.keys import hash_key, new_key

_CONNECT_TIMEOUT_S = 10
_ID_CHARACTERS = 12

_Result = TypeVar("_Result")


class Key(NamedTuple):
    """A key as it is listed: `id` is the beginning of its hash, enough to name it."""

    id: str
    name: str
    scopes: list[str]
    program_ids: list[UUID] | None
    created_at: datetime
    expires_at: datetime | None
    rate_events_per_s: float | None
    revoked_at: datetime | None


class Grant(NamedTuple):
    """What a key may do: its scopes, its programs (none: every one), until when (None: for ever), events per second.

    `rate_events_per_s` None: as the gateways are set; 0: no limit.
    """

    scopes: Sequence[str]
    program_ids: Sequence[UUID] = ()
    expires_at: datetime | None = None
    rate_events_per_s: float | None = None


def create(url: str, name: str, grant: Grant) -> str:
    """Make a key and return its text."""
    text, _ = new_key()
    add(url, text, name, grant)
    return text


def add(url: str, text: str, name: str, grant: Grant) -> None:
    """Have the database know the key `text`; nothing changes where it does already."""
    values = (
        hash_key(text),
        name,
        list(grant.scopes),
        list(grant.program_ids) or None,
        grant.expires_at,
        grant.rate_events_per_s,
    )
    insert = (
        "insert into headrace.api_keys (key_sha256, name, scopes, program_ids, expires_at, rate_events_per_s)"
        " values (%s, %s, %s, %s, %s, %s) on conflict do nothing"
    )
    _with(url, lambda connection: connection.execute(insert, values))


def all_keys(url: str) -> list[Key]:
    """Every key, the oldest first."""

    def read(connection: psycopg.Connection) -> list[Key]:
        with connection.cursor(row_factory=class_row(Key)) as cursor:
            # A date beyond Python's, such as Postgres' infinity, is never.
            return cursor.execute(
                "select left(encode(key_sha256, 'hex'), %s) as id, name, scopes, program_ids, created_at,"
                " case when expires_at < '9999-12-31' then expires_at end as expires_at,"
                " rate_events_per_s, revoked_at from headrace.api_keys order by created_at, key_sha256",
                (_ID_CHARACTERS,),
            ).fetchall()

    return _with(url, read)


def revoke(url: str, key: str) -> str:
    """Revoke a key, named by its id or its text; returns its name. Raises :class:`DeployError` for an unknown one."""
    prefix = key if len(key) == _ID_CHARACTERS else hash_key(key).hex()
    update = (
        "update headrace.api_keys set revoked_at = coalesce(revoked_at, now())"
        " where starts_with(encode(key_sha256, 'hex'), %s) returning name"
    )
    row = _with(url, lambda connection: connection.execute(update, (prefix,)).fetchone())
    if row is None:
        raise DeployError(f"there is no key {key}: see `headrace keys list`")
    return str(row[0])


def _with(url: str, act: Callable[[psycopg.Connection], _Result]) -> _Result:
    try:
        with closing(psycopg.connect(url, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S)) as connection:
            return act(connection)
    except psycopg.Error as error:
        raise DeployError(f"the database's keys cannot be reached: {str(error).splitlines()[0]}") from error
