"""How a worker ends when it cannot go on: at once, with its own code and one clear line.

A worker that lives on after an error it does not understand holds its partitions and processes nothing. A dead one is
started again by its supervisor, and its partitions are given to another worker meanwhile.
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

CONFIGURATION = 78
"""What is configured cannot work: a topic is missing, or its partitions differ from the others'."""
PROCESSING = 70
"""Processing a chunk failed with an error that nothing handles."""
KAFKA = 69
"""Kafka did not do in time what a worker cannot do without: acknowledge a record, take a commit, answer at all."""
TABLE = 74
"""The dedupe table's store cannot be opened, read or written."""
STALLED = 75
"""No progress for longer than allowed, although there is work."""
SHUTDOWN = 71
"""The worker was asked to stop and did not manage to in time."""
CRASHED = 76
"""A part of the worker died in a way that has no code of its own."""

before_leaving: list[Callable[[int], None]] = []
"""Called with the code just before the end, from whatever thread: short, and without waits."""

_log = logging.getLogger(__name__)


def leave(code: int, reason: str, error: BaseException | None = None) -> NoReturn:
    """End this process now with `code`, from any thread, after one line that says `reason`.

    Nothing is flushed or committed: whatever is not acknowledged yet is processed again by the next worker.
    """
    _log.critical("worker ends with code %d: %s", code, reason, exc_info=error)
    for call in before_leaving:
        call(code)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a closed or broken stream must not keep a dead worker alive
            continue
    logging.shutdown()
    os._exit(code)
