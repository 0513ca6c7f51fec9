"""A valid API key, as the gateway knows it."""

import msgspec


class Key(msgspec.Struct, frozen=True):
    """A valid key: its `sha256` (its identity), its `name` for people, and what it may do.

    `program_ids` are the programs (16 bytes each) that it is limited to, None where it is not; `expires_at` is in
    seconds since 1970; `rate_events_per_s` None: as the gateway is set, 0: no limit.
    """

    sha256: bytes
    name: str
    scopes: frozenset[str]
    program_ids: frozenset[bytes] | None
    expires_at: float | None
    rate_events_per_s: float | None = None

    def may_use(self, program_packed: bytes) -> bool:
        """Whether the key may write to and read from a program."""
        return self.program_ids is None or program_packed in self.program_ids

    def allows(self, scope: str) -> bool:
        """Whether the key has a scope; `admin` has them all."""
        return scope in self.scopes or "admin" in self.scopes
