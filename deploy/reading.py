"""Events read back through the gateway: pages that follow one another, single events, retries.

Events are passed on as the bytes they are, so that no number loses a digit on its way to the user.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlencode

import msgspec

from deploy.errors import DeployError
from deploy.http import Answer, Client, Unreachable

PAGE_EVENTS_MAX = 200
_ATTEMPTS_MAX = 5
_PAUSE_FIRST_S = 0.5
_PAUSE_MAX_S = 10.0
_AGAIN = frozenset({408, 429, 502, 503, 504})
_OK = 200
_ACCEPTED = 202


class _Pagination(msgspec.Struct):
    has_more: bool
    next_cursor: str | None


class _Page(msgspec.Struct):
    data: list[msgspec.Raw]
    pagination: _Pagination


class Outcome(NamedTuple):
    """What asking for another attempt at an event came to; `code` and `message` where it was refused."""

    id: str
    status: str | None
    code: str | None = None
    message: str | None = None


class Reader:
    """Reads through a client. `pause` waits that many seconds (a test passes its own)."""

    def __init__(self, client: Client, pause: Callable[[float], None] = time.sleep) -> None:
        """Nothing is asked yet."""
        self._client = client
        self._pause = pause
        self.has_more = False
        """Whether the events listed last were not all there are."""

    def events(self, query: Mapping[str, str], most: int | None) -> Iterator[bytes]:
        """Events of the list route, `most` at most, each as JSON; a page is asked for when the one before is used up.

        Raises :class:`DeployError` when the gateway refuses or stays away.
        """
        cursor: dict[str, str] = {}
        left = most
        self.has_more = True
        while self.has_more and left != 0:
            limit = PAGE_EVENTS_MAX if left is None else min(left, PAGE_EVENTS_MAX)
            page = self._page({**query, "limit": str(limit), **cursor})
            yield from map(bytes, page.data)
            left = None if left is None else left - len(page.data)
            self.has_more = page.pagination.has_more
            cursor = {"cursor": page.pagination.next_cursor or ""}

    def event(self, event_id: str, wait_s: float) -> bytes:
        """One event, as JSON; the gateway holds the answer up to `wait_s` seconds until the status is final."""
        return self._ok(f"/v1/events/{event_id}" + (f"?wait={wait_s:g}" if wait_s else ""))

    def retry(self, event_id: str) -> Outcome:
        """Ask for another attempt at a FAILED event. Raises :class:`DeployError` when the gateway does not answer."""
        path = f"/v1/events/{event_id}/retry"
        # Asking again after no answer is safe: a second attempt is only planned once the first has failed.
        answer = self._patiently(lambda: self._client.post(path, b""))
        told = answer.json()
        if answer.status == _ACCEPTED:
            return Outcome(event_id, str(told.get("status")))
        return Outcome(event_id, None, str(told.get("code") or f"HTTP {answer.status}"), answer.error())

    def _page(self, query: Mapping[str, str]) -> _Page:
        try:
            return msgspec.json.decode(self._ok(f"/v1/events?{urlencode(query)}"), type=_Page)
        except msgspec.MsgspecError as error:
            raise DeployError(f"the answer is no page of events: is this Headrace's gateway? ({error})") from error

    def _ok(self, path: str) -> bytes:
        answer = self._patiently(lambda: self._client.get(path))
        if answer.status != _OK:
            raise DeployError(f"{answer.error()} (HTTP {answer.status})")
        return answer.body

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """The answer, asked for again where the gateway says or shows that it cannot answer now."""
        pause_s = _PAUSE_FIRST_S
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            try:
                answer = ask()
            except Unreachable as error:
                if attempt == _ATTEMPTS_MAX:
                    raise DeployError(f"the gateway does not answer: {error}") from error
                wanted_s = None
            else:
                if answer.status not in _AGAIN or attempt == _ATTEMPTS_MAX:
                    return answer
                wanted_s = answer.retry_after_s
            self._pause(min(max(pause_s, wanted_s or 0.0), _PAUSE_MAX_S))
            pause_s *= 2
        raise AssertionError("the last attempt returns or raises")
