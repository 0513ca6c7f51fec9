"""Log lines: one form, the request's id, and nothing that only the process should know."""

import json
import logging
import uuid
from collections.abc import Callable, Iterator

import pytest
import structlog

from gateway import logs
from gateway.identify import REQUEST_ID
from schemas.settings import Settings

Written = Callable[[], str]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str], logged: list[structlog.typing.EventDict]) -> Iterator[Written]:
    """Gives what has gone to standard error; the loggers are put back afterwards."""
    del logged  # its capture is replaced by the real configuration
    root = logging.getLogger()
    kept_handlers, kept_level = root.handlers[:], root.level
    text = ""

    def so_far() -> str:
        nonlocal text
        text += capsys.readouterr().err
        return text

    yield so_far
    root.handlers[:] = kept_handlers
    root.setLevel(kept_level)
    access = logging.getLogger("uvicorn.access")
    access.propagate = True
    structlog.reset_defaults()


def fail_with(secret: str) -> None:
    kept = secret * 2
    raise LookupError(f"failed at {len(kept)}")


def test_json_lines_of_ours_and_of_libraries(written: Written) -> None:
    logs.configure(Settings(log_format="json"))
    REQUEST_ID.set("r1")
    structlog.get_logger("headrace.gateway").info("something", number=1)
    REQUEST_ID.set("")
    logging.getLogger("aiokafka.client").warning("lost %s", "a broker")
    logging.getLogger("aiokafka.client").info("chatter")
    ours, theirs = [json.loads(line) for line in written().splitlines()]
    assert (ours["event"], ours["number"], ours["level"], ours["request_id"]) == ("something", 1, "info", "r1")
    assert ours["logger"] == "headrace.gateway"
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("lost a broker", "warning", "aiokafka.client")
    assert "request_id" not in theirs
    assert ours["timestamp"].endswith("Z")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_tracebacks_show_no_variables(written: Written, log_format: str) -> None:
    logs.configure(Settings(log_format=log_format))  # type: ignore[arg-type]  # one of the two
    secret = uuid.uuid4().hex
    try:
        fail_with(secret)
    except LookupError as error:
        structlog.get_logger("headrace.gateway").error("unexpected error", exc_info=error)
    assert "fail_with" in written()
    assert "LookupError: failed at 64" in written()
    assert secret not in written()


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_levels(written: Written, level: str, count: int) -> None:
    logs.configure(Settings(log_level=level))  # type: ignore[arg-type]  # one of the four
    log = structlog.get_logger("headrace.levels")
    for write in (log.debug, log.info, log.warning, log.error):
        write("line")
    assert len(written().splitlines()) == count


def test_uvicorn_prepares_no_access_lines(written: Written) -> None:
    logs.configure(Settings())
    assert not logging.getLogger("uvicorn.access").hasHandlers()
    logging.getLogger("uvicorn.error").error("told")
    assert "told" in written()


def test_terminal_escapes_do_not_reach_the_terminal_by_the_path(written: Written) -> None:
    logs.configure(Settings(log_format="json"))
    structlog.get_logger("headrace.gateway").info("refused", path="/\x1b[31m\nfake line")
    assert len(written().splitlines()) == 1
    assert "\x1b" not in written()
