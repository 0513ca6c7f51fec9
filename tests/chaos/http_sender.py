"""Sends over HTTP as `headrace send` does: in batches, again where that helps, and writes every answer down."""

import http.client
import random
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tests.chaos.journal import Journal, key_of
from tests.chaos.money import Money
from tests.model import Sent

_TIMEOUT_S = 25.0
_BACKOFF_FIRST_S = 0.05
_BACKOFF_MAX_S = 1.0
_SIZES = [1, 1, 3, 10, 30, 100]
_RETRYABLE = {408, 429, 502, 503, 504}


class Item(msgspec.Struct):
    """One event of a request: what is sent, and its text; `sent` is None for one that is invalid on purpose."""

    sent: Sent | None
    text: str


class HttpSender(threading.Thread):
    """One sender; prefers one gateway, and takes the other one while that does not answer."""

    def __init__(self, number: int, urls: Sequence[str], api_key: str, journal: Journal, traffic: Money) -> None:
        super().__init__(name=f"sender-{number}", daemon=True)
        self.stopping = threading.Event()
        self.abandoned = threading.Event()
        """Set: give up what is not answered yet; `stopping` alone lets the batch under way be sent to its end."""
        self.pause_s = 0.2
        self._random = random.Random(number)  # noqa: S311 - repeatable, not secret
        self._urls = [urls[(number + offset) % len(urls)] for offset in range(len(urls))]
        self._headers = {"X-API-Key": api_key, "Content-Type": "application/json"}
        self._journal = journal
        self._traffic = traffic
        self._connections: dict[str, http.client.HTTPConnection] = {}

    def run(self) -> None:
        """Send batch after batch until told to stop."""
        while not self.stopping.is_set():
            self._send_all(self._batch())
            self.stopping.wait(self._random.uniform(0.5, 1.5) * self.pause_s)
        for connection in self._connections.values():
            connection.close()

    def _batch(self) -> list[Item]:
        # Of what anybody sent lately, so that senders race, or of anything that this one ever sent.
        earlier = self._journal.pick(acknowledged=False) if self._random.random() < 0.7 else ()
        sends = self._traffic.make(self._random.choice(_SIZES), duplicates=0.06, conflicts=0.02, earlier=earlier)
        items = []
        for sent in sends:
            if self._random.random() < 0.01:
                self._journal.refused(key_of(sent.payload))
                items.append(Item(None, self._traffic.spell(sent.payload | {"idempotency_key": "", "nope": 1})))
                continue
            self._journal.sending(sent)
            items.append(Item(sent, self._traffic.spell(sent.payload)))
        return items

    def _send_all(self, items: list[Item]) -> None:
        """Send until every item has its answer. The repeats are spelled anew: they are the same values."""
        at, pause_s = 0, _BACKOFF_FIRST_S
        while items and not self.abandoned.is_set():
            url = self._urls[at % len(self._urls)]
            left = self._send_once(url, items)
            if left:
                at += 1
                self.abandoned.wait(pause_s)
                pause_s = min(pause_s * 2, _BACKOFF_MAX_S)
                left = [
                    item if item.sent is None else Item(item.sent, self._traffic.spell(item.sent.payload))
                    for item in left
                ]
            items = left

    def _send_once(self, url: str, items: list[Item]) -> list[Item]:
        """Send once; the items that must be sent again."""
        sent_at = time.time()
        try:
            status, deferred, body = self._post(url, items)
        except (OSError, http.client.HTTPException):
            for item in items:
                if item.sent is not None:
                    self._journal.answered(item.sent, "unanswered", sent_at)
            return items
        if len(items) == 1:
            results = [_as_item(status, body)]
        elif status in _RETRYABLE:
            results = [{"code": "unavailable", "retryable": True}] * len(items)
        elif status == http.HTTPStatus.OK and len(body.get("results", ())) == len(items):
            results = body["results"]
        else:
            self._journal.odd(f"POST of {len(items)} answered {status}: {str(body)[:300]}")
            results = [{"code": "unavailable", "retryable": True}] * len(items)
        return [
            item
            for item, result in zip(items, results, strict=True)
            if self._take(url, item, result, sent_at, deferred=deferred)
        ]

    def _take(self, url: str, item: Item, result: dict[str, Any], sent_at: float, *, deferred: bool) -> bool:
        """Note one item's answer; whether it is to be sent again."""
        code = result.get("code")
        if code is not None and result.get("retryable"):
            if item.sent is not None:
                self._journal.answered(item.sent, "unanswered", sent_at)
            return True
        if item.sent is None:
            if code != "invalid_event":
                self._journal.odd(f"an invalid event was answered {result}")
        elif code is None:
            self._journal.answered(item.sent, "accepted", sent_at, deferred=deferred)
            self._journal.accepted(url)
        elif code == "idempotency_conflict":
            self._journal.answered(item.sent, "conflict", sent_at, deferred=deferred)
        else:
            self._journal.odd(f"a good event was answered {result}: {item.text[:300]}")
        return False

    def _post(self, url: str, items: list[Item]) -> tuple[int, bool, dict[str, Any]]:
        connection = self._connections.get(url)
        if connection is None:
            address = urlsplit(url)
            connection = self._connections[url] = http.client.HTTPConnection(
                str(address.hostname), address.port, timeout=_TIMEOUT_S
            )
        path, text = "/v1/events", items[0].text
        if len(items) > 1:
            path, text = "/v1/events/batch", '{"events":[' + ",".join(item.text for item in items) + "]}"
        try:
            connection.request("POST", path, text.encode(), self._headers)
            response = connection.getresponse()
            deferred = response.getheader("Idempotency-Check") == "deferred"
            return response.status, deferred, msgspec.json.decode(response.read(), type=dict[str, Any])
        except (OSError, http.client.HTTPException):
            connection.close()
            raise


def _as_item(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """A single event's answer as a batch would give it."""
    return {} if status == http.HTTPStatus.OK else {"code": body.get("code"), "retryable": status in _RETRYABLE}
