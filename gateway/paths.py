"""How routes recognise an event's id: anything in its place but ``batch``, which is a route of its own.

Importing this registers the convertor ``event_id``. Without it ``GET /v1/events/batch`` would be looked up as an event
and answer 404, where 405 is true.
"""

from starlette.convertors import StringConvertor, register_url_convertor


class EventIdConvertor(StringConvertor):
    """Whether it is a UUID is for the handler to say: an id that is none is an event that does not exist."""

    regex = "(?!batch(?:/|$))[^/]+"


register_url_convertor("event_id", EventIdConvertor())
