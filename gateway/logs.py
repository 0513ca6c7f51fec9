"""Log lines in one form, those of the libraries too: console text or JSON, with the request's id where there is one."""

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.identify import REQUEST_ID
from schemas.settings import Settings

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# Libraries that tell of every connection at the level of the user's own news.
_TALKATIVE = ("psycopg.pool", "aiokafka")


def _add_request_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    own_id = REQUEST_ID.get()
    if own_id:
        event["request_id"] = own_id
    return event


def _shared() -> list[Processor]:
    return [
        _add_request_id,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _rendering(log_format: str) -> list[Processor]:
    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # The plain form of tracebacks: the others show local variables, and so keys and events.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]


def configure(settings: Settings) -> None:
    """Send every log line of this process to standard error, in the form and from the level that the settings name."""
    shared = _shared()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(settings.log_format)],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[settings.log_level])
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
    # uvicorn prepares a line per request where anyone could read it: here nobody can.
    logging.getLogger("uvicorn.access").propagate = False
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, _LEVELS[settings.log_level]))
