"""Named points of a chunk's way at which a test kills this process, as a crash at the worst moment would do it.

``HEADRACE_TEST_FAIL_POINT=after-commit`` kills at that point's first passing, ``after-commit:7`` at its seventh;
several are separated by commas. Where it is not set, a point costs one `if`.
"""

import os
import signal

BEFORE_COMMIT = "before-commit"
"""Everything is written, nothing is committed in Postgres."""
AFTER_COMMIT = "after-commit"
"""Postgres has committed; statuses, dead letters, changelog and table are not written."""
AFTER_CHANGELOG = "after-changelog"
"""The changelog is acknowledged, the table not written."""
BEFORE_ACK = "before-ack"
"""The table is written, the chunk not acknowledged."""
AFTER_ACK = "after-ack"
"""The chunk is acknowledged, its offset not committed."""

NAMES = (BEFORE_COMMIT, AFTER_COMMIT, AFTER_CHANGELOG, BEFORE_ACK, AFTER_ACK)


def _read(text: str) -> dict[str, int]:
    left = {}
    for item in filter(None, text.split(",")):
        name, _, passings = item.partition(":")
        if name not in NAMES:
            raise ValueError(f"there is no fail point {name!r}, only {', '.join(NAMES)}")
        left[name] = int(passings or 1)
    return left


_left = _read(os.environ.get("HEADRACE_TEST_FAIL_POINT", ""))

ON = bool(_left)
"""Whether any point is set: the `if` before each call."""


def hit(name: str) -> None:
    """Pass the point `name`; the last passing asked for ends the process by SIGKILL, with nothing flushed."""
    if name not in _left:
        return
    _left[name] -= 1
    if _left[name] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
