"""Timing a call within a process that has run many tests."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nothing_else_to_collect() -> Iterator[None]:
    """The garbage collector leaves alone what is there already, as in a gateway; it would take it seconds."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
