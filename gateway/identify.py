"""The request id: in every answer, and in every log line that a request causes."""

import itertools
import os
import re
from contextvars import ContextVar

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")

_acceptable = re.compile(rb"[A-Za-z0-9._:-]{1,128}").fullmatch

# Unique without a system call per request: what tells processes apart is drawn once, the rest is counted.
_process = os.urandom(8).hex()
_numbers = itertools.count(1)


def new_request_id() -> str:
    """An id that no other request of any process has."""
    return f"{_process}{next(_numbers):08x}"


def request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The id that the client gave, where it can be used as it is, else a new one."""
    for name, value in headers:
        if name == b"x-request-id":
            return value.decode("ascii") if _acceptable(value) else new_request_id()
    return new_request_id()
