"""How routes recognise an event's id: anything in its place but ``batch``, which is a route of its own.

Importing this registers the convertor ``event_id``. Without it ``GET /v1/events/batch`` would be looked up as an event
and answer 404, where 405 is true.
"""

import re

from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request

from gateway.problems import ApiError
from schemas.errors import NOT_FOUND

_is_uuid = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch


class EventIdConvertor(StringConvertor):
    """Whether it is a UUID is for the handler to say: an id that is none is an event that does not exist."""

    regex = "(?!batch(?:/|$))[^/]+"


register_url_convertor("event_id", EventIdConvertor())


def event_id_in(request: Request) -> str:
    """The event's id in the path, in lower case. Raises ApiError `not_found` where it is no UUID."""
    text: str = request.path_params["id"]
    if not _is_uuid(text):
        raise no_such_event()
    return text.lower()


def no_such_event() -> ApiError:
    """The one answer for events that there are not and for those that the key may not see."""
    return ApiError(NOT_FOUND, "there is no such event, or not for this key")
