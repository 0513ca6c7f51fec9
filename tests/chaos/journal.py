"""What the senders know: every payload sent under every key, and every answer. Written by many threads."""

import json
import threading
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import Literal, NamedTuple

from tests.chaos.money import variant_of
from tests.model import Payload, Sent

Key = tuple[str, str]
Verdict = Literal["accepted", "conflict", "unanswered"]

_RECENT = 400


class Answer(NamedTuple):
    """One answer to one send. Times are of `time.time()`. `deferred`: the gateway said that it did not check."""

    key: Key
    variant: int
    door: str
    verdict: Verdict
    deferred: bool
    sent_at: float
    at: float


def key_of(payload: Payload) -> Key:
    """Program and idempotency key."""
    return str(payload["program_id"]), str(payload["idempotency_key"])


class Journal:
    """The senders' log of one round."""

    def __init__(self) -> None:
        self.payloads: dict[Key, dict[int, Payload]] = defaultdict(dict)
        self.answers: list[Answer] = []
        self.invalid: set[Key] = set()
        self.garbage: dict[bytes, bool] = {}
        """Values that are no event, and whether Kafka acknowledged them."""
        self.oddities: list[str] = []
        self.shaky: list[tuple[float, float]] = []
        """When Postgres was not to be relied upon, so that answers may disagree until the processors judge."""
        self.recent: deque[Sent] = deque(maxlen=_RECENT)
        self.acknowledged: deque[Sent] = deque(maxlen=_RECENT)
        self.accepted_at: dict[str, float] = {}
        """When each gateway last accepted something, by `time.monotonic()`."""
        self._lock = threading.Lock()

    def sending(self, sent: Sent) -> None:
        """Note a payload before it is sent: from now on it may be found."""
        with self._lock:
            self.payloads[key_of(sent.payload)][variant_of(sent.payload)] = sent.payload
            if sent.door == "http":
                self.recent.append(sent)

    def refused(self, key: Key) -> None:
        """Note a key that was sent with nothing but an invalid event."""
        self.invalid.add(key)

    def answered(self, sent: Sent, verdict: Verdict, sent_at: float, *, deferred: bool = False) -> None:
        """Note an answer, or that none came."""
        key, variant = key_of(sent.payload), variant_of(sent.payload)
        answer = Answer(key, variant, sent.door, verdict, deferred, sent_at, time.time())
        with self._lock:
            self.answers.append(answer)
            if verdict == "accepted" and sent.door == "http" and not deferred:
                self.acknowledged.append(sent)

    def pick(self, *, acknowledged: bool) -> list[Sent]:
        """Recent sends over HTTP, to be repeated."""
        with self._lock:
            return list(self.acknowledged if acknowledged else self.recent)

    def odd(self, text: str) -> None:
        """Note what no gateway or broker should ever answer."""
        self.oddities.append(text)

    def accepted(self, gateway: str) -> None:
        """Note that `gateway` has just accepted something."""
        self.accepted_at[gateway] = time.monotonic()

    def save(self, path: Path) -> None:
        """Write everything down, one line an answer, for whoever looks into a failure."""
        with path.open("w", encoding="utf-8") as file:
            for answer in self.answers:
                line = answer._asdict() | {"payload": self.payloads[answer.key][answer.variant]}
                file.write(json.dumps(line, default=str) + "\n")
