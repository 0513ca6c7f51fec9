"""Log lines of a worker: one form for its own and for those of the libraries under it."""

import logging
import sys
import time
from typing import Any

import structlog

from schemas.settings import Settings

_CHATTY = (
    "faust",
    "mode",
    "aiokafka",
    # Services log their steps under the name of the module that defines them; ours report under ``headrace``.
    "processors.app",
    "processors.recovery",
    "processors.table",
    "processors.transport",
)

REPEAT_AFTER_S = 10.0
"""A library's line that was just logged is left out for so long: an outage makes aiokafka log 40 lines a second."""


class OnceInAWhile(logging.Filter):
    """Lets a line of a library through once in ``REPEAT_AFTER_S``; lines are the same if all but their values is."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log `record`."""
        if record.levelno >= logging.CRITICAL or not record.name.startswith(("aiokafka", "faust", "mode")):
            return True
        line, now = (record.name, str(record.msg)), time.monotonic()
        if now < self._next.get(line, 0.0):
            return False
        self._next[line] = now + REPEAT_AFTER_S
        return True


def configure(settings: Settings) -> None:
    """Send every log line to standard error, in the form and from the level that `settings` ask for."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any
    if settings.log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    if settings.log_level != "debug":
        # Faust reports every step of a rebalance in tables of many lines; warnings are what an operator needs.
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        handler.addFilter(OnceInAWhile())
